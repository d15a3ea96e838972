"""Figure 5 from synthetic sweeps: it draws whatever there is, says what is missing, and never needs torch."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import plot_fig5
from analysis.plotting import style
from analysis.stats.transfer import average_seeds, pooled_noise, transfer_table, with_margins

REPOSITORY = Path(__file__).parents[2]
FILES = ["fig5-gain.csv", "fig5-transfer.csv", "fig5.csv", "fig5.pdf", "fig5.png"]

CellTable = Callable[..., pd.DataFrame]
WithState = Callable[[pd.DataFrame, str, str], pd.DataFrame]


def plot(cells: pd.DataFrame, folder: Path, *options: str) -> Path:
    """Run the script on `cells`; the directory it drew into."""
    folder.mkdir(parents=True, exist_ok=True)
    cells.to_parquet(folder / "cells.parquet")
    status = plot_fig5.main(["--results", str(folder), "--out", str(folder / "out"), *options])
    assert status == 0
    return folder / "out"


def half_finished(cell_table: CellTable, with_state: WithState) -> pd.DataFrame:
    cells = with_state(cell_table(), "panel == 'd'", "pending")
    for loops, state in [(1, "pending"), (2, "running"), (4, "failed"), (8, "lost")]:
        cells = with_state(cells, f"panel == 'c' and n_loops == {loops} and base_lr < 1e-3", state)
    return with_state(cells, "panel == 'b' and n_loops == 8 and base_lr > 2e-3", "diverged")


def test_redrawing_gives_the_same_bytes(cell_table: CellTable, with_state: WithState, tmp_path: Path) -> None:
    cells = half_finished(cell_table, with_state)
    first, second = plot(cells, tmp_path / "1"), plot(cells, tmp_path / "2")
    assert sorted(path.name for path in first.iterdir()) == FILES
    for name in FILES:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


def test_csv_has_every_expected_cell_and_its_state(
    cell_table: CellTable, with_state: WithState, tmp_path: Path
) -> None:
    cells = half_finished(cell_table, with_state)
    written = pd.read_csv(plot(cells, tmp_path, "--format", "png") / "fig5.csv")
    key = ["panel", "n_loops", "base_lr", "seed"]
    columns = [*key, "state", "val_loss", "run_id"]
    expected = cells.sort_values(key, ignore_index=True)
    pd.testing.assert_frame_equal(written[columns], expected[columns], check_dtype=False)
    assert np.isinf(written.loc[written["state"] == "diverged", "mean_val_loss"]).all()
    assert written.loc[written["state"] == "pending", "mean_val_loss"].isna().all()


def test_partly_finished_sweep_is_drawn_and_says_what_is_missing(
    cell_table: CellTable, with_state: WithState, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plot(half_finished(cell_table, with_state), tmp_path, "--format", "png")
    printed = capsys.readouterr().out
    assert "34 pending, 2 running, 86 done, 2 diverged, 2 failed, 2 lost" in printed
    assert "no results" in printed


def test_sweep_without_any_result_is_drawn(cell_table: CellTable, with_state: WithState, tmp_path: Path) -> None:
    out = plot(with_state(cell_table(), "seed == 0", "pending"), tmp_path)
    assert pd.read_csv(out / "fig5-transfer.csv")["flag"].eq("no results").all()


def test_only_asked_formats_are_written_and_the_csv_always(cell_table: CellTable, tmp_path: Path) -> None:
    out = plot(cell_table(), tmp_path, "--format", "png")
    assert sorted(path.name for path in out.iterdir()) == [name for name in FILES if name != "fig5.pdf"]


def test_panels_carry_the_papers_titles_and_a_star_per_curve(cell_table: CellTable) -> None:
    cells = cell_table()
    points = average_seeds(cells)
    with style.context():
        figure = plot_fig5.draw(cells, points, transfer_table(points))
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert [title[:3] for title in titles] == ["(a)", "(b)", "(c)", "(d)"]
    assert "sqrt scaling" in titles[0]
    assert all("linear scaling" in title for title in titles[1:])
    assert "L=8=4" in titles[3]
    for axes in figure.axes:
        assert [line.get_marker() for line in axes.lines].count("*") == 4
    assert "seed 0" in plot_fig5.footer(cells, transfer_table(points))
    assert "128 of 128 points finished" in plot_fig5.footer(cells, transfer_table(points))


def test_diverged_points_are_marked_but_not_on_a_curve(cell_table: CellTable, with_state: WithState) -> None:
    cells = with_state(cell_table(), "panel == 'd' and n_loops == 8 and base_lr > 2e-3", "diverged")
    points = average_seeds(cells)
    with style.context():
        axes = plot_fig5.draw(cells, points, transfer_table(points)).axes[3]
    curve = next(line for line in axes.lines if line.get_marker() == style.loop_marker(8))
    losses = np.asarray(curve.get_ydata(), dtype=float)
    assert np.isfinite(losses[:-2]).all()
    assert np.isnan(losses[-2:]).all()
    crosses = [line.get_xdata() for line in axes.lines if line.get_marker() == "x"]
    assert np.concatenate(crosses).tolist() == [3e-3, 4e-3]


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
@pytest.mark.parametrize("panels", [["b"], ["a", "b", "c"]])
def test_other_grids_are_drawn(
    seeds: tuple[int, ...], panels: list[str], cell_table: CellTable, tmp_path: Path
) -> None:
    cells = cell_table(seeds=seeds, loop_counts=(2, 16))
    plot(cells[cells["panel"].isin(panels)], tmp_path, "--format", "png")


def test_several_seeds_give_bands_and_intervals_and_one_seed_says_it_has_none(
    cell_table: CellTable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noisy = cell_table(seeds=(0, 1, 2))
    noisy["val_loss"] += 1e-3 * np.cos(noisy.index.to_numpy() ** 2)  # any deterministic scatter
    plot(noisy, tmp_path / "three", "--format", "png")
    assert "95% intervals" in capsys.readouterr().out
    table = pd.read_csv(tmp_path / "three" / "out" / "fig5-transfer.csv").query("flag.isna()")
    assert len(table) > 8
    assert (table["fitted_lr_low"] < table["fitted_lr"]).all()
    assert (table["fitted_lr"] < table["fitted_lr_high"]).all()
    points = average_seeds(noisy)
    with style.context():
        margins = with_margins(points, pooled_noise(noisy, points))
        bands = [axes.collections for axes in plot_fig5.draw(noisy, margins, transfer_table(points)).axes]
    assert [len(of_panel) for of_panel in bands] == [4, 4, 4, 4]
    plot(cell_table(), tmp_path / "one", "--format", "png")
    assert "1 seed, no interval" in capsys.readouterr().out
    assert pd.read_csv(tmp_path / "one" / "out" / "fig5-transfer.csv")["fitted_lr_low"].isna().all()


def test_missing_results_are_one_line_and_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plot_fig5.main(["--results", str(tmp_path / "none"), "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: --results: no ")
    assert error.count("\n") == 1


def test_torch_is_never_imported() -> None:
    code = "import analysis.plot_fig5, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPOSITORY)


def test_script_runs_alone(cell_table: CellTable, tmp_path: Path) -> None:
    cell_table().to_parquet(tmp_path / "cells.parquet")
    command = ["analysis/plot_fig5.py", "--results", str(tmp_path), "--out", str(tmp_path), "--format", "png"]
    subprocess.run([sys.executable, *command], check=True, cwd=REPOSITORY, capture_output=True)
    assert (tmp_path / "fig5.png").stat().st_size > 0
