"""Figures 3, 6, 7 and 8 from planted read-outs: ranges, the base rate they are taken at, and what is missing."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import plot_fig3, plot_fig6, plot_fig7, plot_fig8
from analysis.plotting import cosines, style, trained
from sweeper.errors import UserError
from sweeper.records.export import readouts_frame

Tables = Callable[..., tuple[pd.DataFrame, pd.DataFrame]]
CellTable = Callable[..., pd.DataFrame]
WithState = Callable[[pd.DataFrame, str, str], pd.DataFrame]
Store = Callable[..., Path]


def rate(value: str) -> tuple[str, ...]:
    return "--rate", value


@pytest.fixture(scope="module")
def training(
    cell_table: CellTable,
    with_state: WithState,
    readout_table: Callable[[pd.DataFrame], pd.DataFrame],
    store: Store,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A sweep without L = 4 at N = 8, and without one seed of L = 8 at N = 2."""
    cells = cell_table(seeds=(0, 1))
    cells = with_state(cells, "panel == 'c' and n_loops == 8", "failed")
    cells = with_state(cells, "panel == 'd' and n_loops == 2 and seed == 1", "pending")
    wanted = cells["base_lr"].isin([1.25e-3, 2e-3])
    return store(tmp_path_factory.mktemp("training"), cells, readouts=readout_table(cells[wanted]))


def draw(script: object, results: Path, out: Path, *options: str) -> int:
    return script.main(["--results", str(results), "--out", str(out), "--format", "png", *options])  # type: ignore[attr-defined, no-any-return]


def test_range_leaves_out_the_diagonal() -> None:
    found = cosines.off_diagonal(np.array([[1.0, 0.2, -0.1], [0.2, 1.0, 0.5], [-0.1, 0.5, 1.0]]))
    assert (found.low, found.high, found.mean) == pytest.approx((-0.1, 0.5, 0.2))


def test_figure_3_says_ranges_and_widths(
    increment_tables: Tables, store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cells, readouts = increment_tables(widths=(320, 768))
    assert draw(plot_fig3, store(tmp_path, cells, readouts=readouts), tmp_path) == 0
    ranges = pd.read_csv(tmp_path / "fig3-range.csv").set_index("panel")
    assert ranges.loc["fig3a", ["low", "high"]].to_list() == pytest.approx([-0.03, 0.03])
    assert ranges.loc["fig3b", ["low", "high"]].to_list() == pytest.approx([0.1, 1 - 1 / 70])
    assert "d = 320): off-diagonal −0.030 … 0.030" in capsys.readouterr().out
    assert plot_fig3.width_note(ranges.reset_index()) == "widths differ: $d=320$ in (a) and $d=768$ in (b)"
    assert plot_fig3.title(ranges.reset_index().iloc[:1]).startswith("64 copies of $L=12$ layers, $d=320$\n")
    matrix = pd.read_csv(tmp_path / "fig3.csv").query("panel == 'fig3b' and i == 1 and j == 64")
    assert matrix["cosine"].item() == pytest.approx(0.1)


def test_figure_3_shows_the_panel_that_is_not_there(
    increment_tables: Tables, with_state: WithState, store: Store, tmp_path: Path
) -> None:
    cells, readouts = increment_tables()
    cells = with_state(cells, "panel == 'fig3a'", "running")
    matrices = {panel: cosines.mean_matrix(readouts, cells[cells["panel"] == panel]) for panel in plot_fig3.PANELS}
    with style.context():
        figure = plot_fig3.draw(cells, matrices, plot_fig3.range_table(cells, matrices))
    assert [text.get_text() for text in figure.axes[0].texts] == ["no result: 1 running"]
    assert len(figure.axes[1].images) == 1
    assert draw(plot_fig3, store(tmp_path, cells.iloc[:1], readouts=readouts), tmp_path) == 0


def test_heat_maps_carry_the_planted_values(training: Path, tmp_path: Path) -> None:
    assert draw(plot_fig6, training, tmp_path, *rate("1.25e-3")) == 0
    assert draw(plot_fig8, training, tmp_path, *rate("1.25e-3")) == 0
    eight, four = (pd.read_csv(tmp_path / f"fig{n}.csv").groupby("n_layers") for n in (6, 8))
    assert eight.size().to_dict() == {2: 64, 8: 64}
    assert four.size().to_dict() == {2: 16, 4: 16, 8: 16}
    ranges = pd.read_csv(tmp_path / "fig6-range.csv").set_index("n_layers")
    assert ranges["low"].to_dict() == pytest.approx({2: -0.1, 4: np.nan, 8: -0.1}, nan_ok=True)
    assert ranges["low_before_last"].dropna().to_list() == pytest.approx([0.5, 0.5])


def test_every_cell_of_a_small_heat_map_is_annotated() -> None:
    matrix = np.array([[1.0, -0.004], [-0.004, 1.0]])
    with style.context():
        figure = plot_fig6.draw(trained_cells(), {2: matrix, 4: None})
    assert sorted(text.get_text() for text in figure.axes[0].texts) == ["0.00", "0.00", "1.00", "1.00"]
    assert [text.get_text() for text in figure.axes[1].texts] == ["no result: 1 failed"]


def trained_cells() -> pd.DataFrame:
    row = {"sweep": "s", "preset": "p", "panel": "b", "rule": "linear", "n_loops": 2, "base_lr": 1e-3, "seed": 0}
    depths = {"n_layers": [2, 4], "depth_multiplier": [1.0, 2.0], "state": ["done", "failed"]}
    return pd.DataFrame(depths).assign(**row)


def test_trajectories_end_at_the_planted_norm_for_every_n(
    training: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert draw(plot_fig7, training, tmp_path, *rate("1.25e-3")) == 0
    final = pd.read_csv(tmp_path / "fig7-final.csv").set_index(["n_layers", "n_loops"])
    assert sorted(set(final.index.get_level_values("n_loops"))) == [2, 4, 8]
    assert final.loc[2, "final_norm"].to_list() == pytest.approx([20.0] * 3)
    assert final.loc[(2, 8), "fold_range"] == pytest.approx(1.0)
    assert np.isnan(final.loc[(4, 8), "final_norm"])
    assert np.isnan(final.loc[(4, 2), "fold_range"])
    assert "L = 8: final norm 80 at N = 2" in capsys.readouterr().out
    trajectory = pd.read_csv(tmp_path / "fig7.csv").query("n_layers == 8 and n_loops == 4 and seed == 0")
    assert trajectory["norm"].to_list() == pytest.approx([10.0, 27.5, 45.0, 62.5, 80.0])
    assert set(pd.read_csv(tmp_path / "fig7.csv").query("norm.isna()")["state"]) == {"failed", "pending"}


@pytest.mark.parametrize("script", [plot_fig6, plot_fig7, plot_fig8])
def test_runs_without_read_outs_leave_empty_panels(
    script: object, cell_table: CellTable, store: Store, tmp_path: Path
) -> None:
    assert draw(script, store(tmp_path, cell_table(), readouts=readouts_frame([])), tmp_path) == 0


def test_base_rate_is_the_presets_own(cell_table: CellTable) -> None:
    assert trained.preset_rate(pd.DataFrame({"preset": ["paper"], "steps": [20_000]})) == 1.25e-3
    assert trained.preset_rate(pd.DataFrame({"preset": ["laptop"], "steps": [700]})) == 4e-3  # of results/laptop-700
    chosen = trained.at_rate(cell_table().assign(preset="paper"), "base")
    assert set(chosen["base_lr"]) == {1.25e-3}
    assert set(chosen["panel"]) == {"b", "c", "d"}


def test_best_rate_is_each_curves_own(cell_table: CellTable, with_state: WithState) -> None:
    cells = cell_table(seeds=(0, 1))
    better = (cells["panel"] == "c") & (cells["n_loops"] == 8) & (cells["base_lr"] == 3e-3)
    cells.loc[better, "val_loss"] = 1.0
    cells = with_state(cells, "panel == 'd' and n_loops == 4", "pending")
    chosen = trained.at_rate(cells, "best").groupby(["panel", "n_loops"])
    assert chosen.size().eq(2).all()
    rates = chosen["base_lr"].first()
    assert rates["c", 8] == 3e-3
    assert rates["b", 8] == 1.25e-3
    assert len(rates) == 12


@pytest.mark.parametrize(
    ("rate", "preset", "named"),
    [
        ("0.1", "quick", r"--rate 0.1: 0.1 is not in this sweep's grid; choose best or one of 0.0005"),
        ("base", "mine", r"--rate base: no optimizer.base_lr in .*mine.yaml; give --rate best or a number"),
        ("high", "quick", r"--rate: 'high' is not base, best or a number"),
    ],
)
def test_rate_that_cannot_be_drawn_is_refused_in_one_line(
    rate: str, preset: str, named: str, cell_table: CellTable
) -> None:
    with pytest.raises(UserError, match=named):
        trained.at_rate(cell_table().assign(preset=preset), rate)


def test_loop_count_that_is_not_in_the_grid_is_named(
    cell_table: CellTable, store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = store(tmp_path, cell_table(loop_counts=(1, 2)))
    assert draw(plot_fig6, folder, tmp_path, *rate("1.25e-3")) == 2
    assert "no run with N = 8 in sweep lr_transfer-quick-0123abcd, which has N = 1, 2" in capsys.readouterr().err
