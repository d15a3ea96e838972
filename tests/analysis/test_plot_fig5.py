"""Figure 5 from synthetic sweeps: it draws whatever there is, says what is missing, and never needs torch."""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import plot_fig5
from analysis.plotting import style
from analysis.stats.transfer import analyse, average_seeds, pooled_noise, transfer_table, with_margins
from sweeper.records.sweep_manifest import Sweep

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


def test_numbers_do_not_depend_on_how_long_a_run_took(cell_table: CellTable, tmp_path: Path) -> None:
    bare = plot(cell_table(), tmp_path / "bare", "--format", "png")
    timed = plot(cell_table().assign(step_seconds=2.0, flops=1e9), tmp_path / "timed", "--format", "png")
    assert (timed / "fig5.csv").read_bytes() == (bare / "fig5.csv").read_bytes()


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
    assert "seed 0" in plot_fig5.footer(cells, points, transfer_table(points))
    assert "128 of 128 points finished" in plot_fig5.footer(cells, points, transfer_table(points))


def test_the_footer_speaks_of_a_band_only_where_one_is_drawn(cell_table: CellTable) -> None:
    cells = cell_table(seeds=(0, 1, 2))
    points = average_seeds(cells)
    assert "  ·  mean over seeds 0…2  ·  " in plot_fig5.footer(cells, points, transfer_table(points))
    drawn = with_margins(points, pooled_noise(cells, points))
    assert "  ·  mean and 95% band over seeds 0…2  ·  " in plot_fig5.footer(cells, drawn, transfer_table(points))


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


def varied(cells: pd.DataFrame, **axes: tuple[object, ...]) -> pd.DataFrame:
    """`cells` at every combination of these values, each at losses of its own."""
    parts = [cells]
    for key, values in axes.items():
        name = key.replace("__", ".")
        parts = [part.assign(**{name: value, "val_loss": part["val_loss"] + 0.3 * i})
                 for part in parts for i, value in enumerate(values)]  # fmt: skip
    return pd.concat(parts)


def test_every_value_of_a_further_axis_has_a_panel_that_names_it(cell_table: CellTable, tmp_path: Path) -> None:
    cells = varied(cell_table(), optimizer__weight_decay=(0.1, 0.0))
    cells = cells[cells["panel"].isin(["a", "b"])]
    with style.context():
        figure = plot_fig5.make(argparse.Namespace(whole=False), cells).figure
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert [(title[:3], title.split("\n")[1]) for title in titles] == [
        (f"({panel})", f"optimizer.weight_decay={value}") for panel in "ab" for value in ("0", "0.1")
    ]
    lowest = [min(np.min(line.get_ydata()) for line in axes.lines if line.get_marker() == "*") for axes in figure.axes]
    assert lowest[0] - lowest[1] == pytest.approx(0.3)  # 0.0 was given second, and lies higher
    out = plot(cells, tmp_path, "--format", "png")
    table = pd.read_csv(out / "fig5-transfer.csv")
    assert len(table) == 16
    assert table.groupby("optimizer.weight_decay")["optimum_loss"].min().diff().iloc[-1] == pytest.approx(-0.3)
    assert table["expected"].unique().tolist() == [8]
    assert pd.read_csv(out / "fig5-gain.csv")["optimizer.weight_decay"].value_counts().to_dict() == {0.0: 3, 0.1: 3}


def test_two_exponents_of_one_panel_are_two_panels_of_the_figure(cell_table: CellTable) -> None:
    cells = cell_table().query("panel == 'b'")
    both = pd.concat([cells.assign(rule=f"alpha={alpha} beta=0.5") for alpha in (0.75, 1)])
    with style.context():
        figure = plot_fig5.make(argparse.Namespace(whole=False), both).figure
    assert ["alpha=0.75 " in axes.get_title(loc="left") for axes in figure.axes] == [True, False]
    for line in (line for axes in figure.axes for line in axes.lines if len(line.get_xdata()) == 8):
        assert (np.diff(np.asarray(line.get_xdata(), dtype=float)) > 0).all()


def test_an_architecture_has_panels_curves_and_optima_of_its_own(cell_table: CellTable, tmp_path: Path) -> None:
    cells = varied(cell_table(), architecture=("plain", "add+post_norm"))
    out = plot(cells[cells["panel"] != "d"], tmp_path, "--format", "png")
    table = pd.read_csv(out / "fig5-transfer.csv")
    assert table.groupby(["architecture", "panel"]).size().to_dict() == {
        (name, panel): 4 for name in ("plain", "add+post_norm") for panel in "abc"
    }
    assert len(pd.read_csv(out / "fig5.csv")) == 2 * 3 * 4 * 8


def test_more_panels_than_fit_are_refused_with_what_to_select(
    cell_table: CellTable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = varied(cell_table(), optimizer__beta2=(0.9, 0.95, 0.99, 0.8, 0.7))
    cells.to_parquet(tmp_path / "cells.parquet")
    options = ["--results", str(tmp_path), "--out", str(tmp_path / "out"), "--format", "png"]
    assert plot_fig5.main(options) == 2
    assert capsys.readouterr().err == (
        "error: sweep lr_transfer-quick-0123abcd makes 20 panels, at most 12 fit: "
        "choose some of its 5 values of optimizer.beta2, such as --where optimizer.beta2=0.7\n"
    )
    assert not (tmp_path / "out").exists()
    assert plot_fig5.main([*options, "--where", "optimizer.beta2=0.9,0.99", "panel=a,b"]) == 0
    assert len(pd.read_csv(tmp_path / "out" / "fig5.csv")) == 2 * 2 * 32


def test_runs_that_are_not_there_leave_the_figure_as_it_is(
    cell_table: CellTable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = cell_table().drop(columns=["sweep", "experiment", "preset", "state", "val_loss", "step", "reason"])
    Sweep("s", "lr_transfer", "quick", tuple(rows.to_dict("records"))).save(tmp_path / "sweeps")
    (tmp_path / "fig5.csv").write_text("the good one")
    assert plot_fig5.main(["--runs", str(tmp_path / "NOWHERE"), "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error == f"error: --runs {tmp_path}/NOWHERE: none of the runs of sweep s is there; give their directory\n"
    assert (tmp_path / "fig5.csv").read_text() == "the good one"


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


def outlying(cell_table: CellTable) -> pd.DataFrame:
    """Sound cells, but a loss of 9 at the lowest rate of one curve, three octaves from its optimum."""
    cells = cell_table()
    cells.loc[(cells["panel"] == "a") & (cells["n_loops"] == 8) & (cells["base_lr"] == 5e-4), "val_loss"] = 9.0
    return cells


def loss_axes(cells: pd.DataFrame, **options: bool) -> list[tuple[float, float]]:
    found = analyse(cells)
    with style.context():
        figure = plot_fig5.draw(cells, found.points, found.table, **options)
    return [axes.get_ylim() for axes in figure.axes]


def test_one_far_loss_does_not_flatten_its_row_and_is_told_with_its_value(
    cell_table: CellTable, tmp_path: Path
) -> None:
    cells = outlying(cell_table)
    clipped, sound, whole = loss_axes(cells), loss_axes(cell_table()), loss_axes(cells, whole=True)
    assert clipped[0][1] < sound[0][1] + 0.1
    assert clipped[0] == clipped[1]  # a row shares its axis
    assert clipped[2:] == sound[2:]
    assert whole[0][1] > 9.0
    drawn = json.loads((plot(cells, tmp_path, "--format", "svg,json") / "fig5.json").read_text())
    above = [point for curve in drawn["curves"] for point in curve["points"] if point[2] == 9.0 and "line" not in curve]
    assert not [point for curve in drawn["curves"] for point in curve["points"] if point[2] == 9.0 and "line" in curve]
    [(x, y, *_)] = above
    assert 0 < x < drawn["size"][0]
    assert 0 < y < drawn["size"][1] / 2


def test_clipping_changes_no_number(cell_table: CellTable, tmp_path: Path) -> None:
    cells = outlying(cell_table)
    clipped, whole = plot(cells, tmp_path / "clipped"), plot(cells, tmp_path / "whole", "--whole")
    for name in (name for name in FILES if name.endswith(".csv")):
        assert (clipped / name).read_bytes() == (whole / name).read_bytes()


def test_json_tells_where_each_point_is_and_which_runs_it_shows(
    cell_table: CellTable, with_state: WithState, tmp_path: Path
) -> None:
    cells = with_state(cell_table(seeds=(0, 1)), "panel == 'b' and n_loops == 8 and base_lr > 2e-3", "failed")
    out = plot(cells, tmp_path, "--format", "svg,json")
    drawn, svg = json.loads((out / "fig5.json").read_text()), (out / "fig5.svg").read_text()
    shown: dict[str, set[str]] = {}
    for curve in drawn["curves"]:
        assert all(f'id="{name}"' in svg for name in curve["ids"])
        for x, y, value, _, _, runs, labels in curve["points"]:
            of = cells[cells["run_id"].isin([drawn["runs"][run] for run in runs])]
            place = {"η0": of["base_lr"].iloc[0], "N": of["n_loops"].iloc[0], "L": of["n_layers"].iloc[0]}
            assert {name: float((curve["labels"] | labels)[name]) for name in place} == place
            assert len(of.drop_duplicates("run_id")) == 2
            if value is None:
                assert set(of["state"]) == {"failed"}
            else:
                assert value == pytest.approx(of.drop_duplicates("run_id")["val_loss"].mean(), abs=1e-6)
                offset, slope = curve["line"]
                assert y == pytest.approx(offset + slope * value, abs=0.02)
            assert 0 < x < drawn["size"][0]
            shown.setdefault(curve["labels"]["panel"], set()).update(of["run_id"])
    assert set().union(*shown.values()) == set(cells["run_id"])
