"""Figures 2, 4 and 9 from planted probes: growth is recovered, steps are counted right, missing points are shown."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from analysis import plot_fig2, plot_fig4, plot_fig9
from analysis.plotting import script, style, updates
from analysis.stats import probe

ProbeTables = Callable[..., tuple[pd.DataFrame, pd.DataFrame]]
WithState = Callable[[pd.DataFrame, str, str], pd.DataFrame]
Store = Callable[..., Path]


@pytest.fixture(scope="module")
def partly(probe_tables: ProbeTables, with_state: WithState) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A sweep of which something is diverged, failed, running and pending."""
    cells, curves = probe_tables()
    cells = with_state(cells, "panel == 'fig2c'", "pending")
    cells = with_state(cells, "panel == 'fig2d' and n_loops == 64", "running")
    cells = with_state(cells, "panel == 'fig2d' and n_loops == 32 and seed == 1", "failed")
    cells = with_state(cells, "panel == 'fig2e' and n_loops == 64 and seed == 2", "diverged")
    run_id = cells.query("state == 'diverged'")["run_id"].item()
    return cells, curves[(curves["run_id"] != run_id) | (curves["step"] < 5)]


def lines(figure: Figure, panel: int) -> list[np.ndarray]:
    curves = (np.asarray(line.get_ydata(), dtype=float) for line in figure.axes[panel].lines)
    return [values for values in curves if len(values) == 7]


def draw_fig2(cells: pd.DataFrame, curves: pd.DataFrame) -> Figure:
    measured = probe.measurements(cells, curves)
    ranges = probe.range_table(measured, "residual_rms")
    with style.context():
        return plot_fig2.draw(cells, probe.average_seeds(measured), ranges)


def test_line_t_of_figure_2_is_the_forward_pass_of_step_t(probe_tables: ProbeTables) -> None:
    cells, curves = probe_tables(seeds=(0,))
    drawn = lines(draw_fig2(cells, curves), panel=5)
    # Planted under the linear rule: R = 1 + 0.05 per update made; the tenth step's pass has nine behind it.
    assert [line[0] for line in drawn] == pytest.approx([1 + 0.05 * made for made in range(10)])


def test_footer_names_the_seeds_panel_by_panel_where_they_differ(probe_tables: ProbeTables) -> None:
    cells, _ = probe_tables(seeds=(0, 1, 2))
    assert "mean over seeds 0…2  ·" in script.footer(cells)
    deep = cells["panel"].isin(["fig2a", "fig2b", "fig2c"])
    assert "mean over seeds 0, 1 (abc), 0…2 (def)  ·" in script.footer(cells[~deep | (cells["seed"] < 2)])
    assert "seed 1  ·" in script.footer(cells[cells["seed"] == 1])


def test_planted_growth_of_r_is_the_printed_range(
    probe_tables: ProbeTables, store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = store(tmp_path, *probe_tables())
    assert plot_fig2.main(["--results", str(folder), "--out", str(tmp_path), "--format", "png"]) == 0
    ranges = pd.read_csv(tmp_path / "fig2-range.csv").query("updates == 9").set_index("panel")["fold_range"]
    for panel, expected in {"fig2a": 8, "fig2c": 1, "fig2d": 64, "fig2e": 8, "fig2f": 1}.items():
        assert ranges[panel] == pytest.approx(expected)
    assert "fig2d │ none   │     64" in capsys.readouterr().out


@pytest.mark.parametrize("script", [plot_fig4, plot_fig9])
def test_planted_slopes_of_the_update_are_recovered(
    script: object, probe_tables: ProbeTables, store: Store, tmp_path: Path
) -> None:
    folder = store(tmp_path, *probe_tables())
    assert script.main(["--results", str(folder), "--out", str(tmp_path), "--format", "png"]) == 0  # type: ignore[attr-defined]
    slopes = pd.read_csv(next(tmp_path.glob("fig*-slopes.csv"))).groupby("rule")
    for name in ("slope_16_64", "slope_4_64"):
        assert slopes[name].mean().to_dict() == pytest.approx({"none": 1.0, "sqrt": 0.5, "linear": 0.0}, abs=1e-9)
    assert slopes["fold_range"].max()["linear"] == pytest.approx(1.0)


def test_reference_lines_go_through_the_first_update_at_one_loop(probe_tables: ProbeTables) -> None:
    cells, curves = probe_tables(seeds=(0,))
    cells = cells[probe.looped(cells)]
    measured = probe.measurements(cells, curves)
    points = probe.average_seeds(measured[measured["updates"] > 0])
    assert updates.anchor(points) == pytest.approx(0.9e-3)
    with style.context():
        figure = plot_fig9.draw(cells, points)
    for axes, expected in zip(figure.axes[:3], (64, 8, 1), strict=True):
        reference = next(line for line in axes.lines if line.get_linestyle() == "--")
        assert list(np.asarray(reference.get_ydata())[[0, -1]]) == pytest.approx([0.9e-3, 0.9e-3 * expected])


def test_unfinished_points_are_marked_and_only_they(partly: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    figure = draw_fig2(*partly)
    marks = {
        (panel, mark.get_marker()): list(np.asarray(mark.get_xdata()))
        for panel, axes in enumerate(figure.axes[:6])
        for mark in axes.lines
        if mark.get_linestyle() == "None" and len(np.asarray(mark.get_xdata()))
    }
    assert marks == {(2, "o"): [1, 2, 4, 8, 16, 32, 64], (3, "s"): [32], (3, ">"): [64], (4, "x"): [64]}
    assert "no result: 7 pending" in [text.get_text() for text in figure.axes[2].texts]
    assert any("101 of 126 points finished, 1 diverged" in text.get_text() for text in figure.texts)


def test_running_probe_adds_nothing_and_a_diverged_one_infinity_from_where_it_diverged(
    partly: tuple[pd.DataFrame, pd.DataFrame],
) -> None:
    points = probe.average_seeds(probe.measurements(*partly)).set_index(["panel", "depth", "updates"])
    assert np.isnan(points.loc[("fig2d", 64, 0), "residual_rms"])  # though its curve has begun
    assert points.loc[("fig2d", 32, 0), "seeds"] == 2
    assert np.isfinite(points.loc[("fig2e", 64, 4), "residual_rms"])
    assert points.loc[("fig2e", 64, 5), "residual_rms"] == np.inf


def test_csv_has_every_cell_at_every_number_of_updates(
    partly: tuple[pd.DataFrame, pd.DataFrame], store: Store, tmp_path: Path
) -> None:
    folder = store(tmp_path, *partly)
    assert plot_fig2.main(["--results", str(folder), "--out", str(tmp_path), "--format", "png"]) == 0
    written = pd.read_csv(tmp_path / "fig2.csv")
    assert len(written) == len(partly[0]) * 11
    assert written["state"].value_counts()["running"] == 3 * 11


@pytest.mark.parametrize("script", [plot_fig2, plot_fig4, plot_fig9])
def test_sweep_without_any_result_and_small_grids_are_drawn(
    script: object, probe_tables: ProbeTables, with_state: WithState, store: Store, tmp_path: Path
) -> None:
    cells, curves = probe_tables(seeds=(0,), counts=(1, 2))
    run = lambda folder: script.main(["--results", str(folder), "--out", str(tmp_path), "--format", "png"])  # type: ignore[attr-defined] # noqa: E731
    assert run(store(tmp_path / "small", cells, curves)) == 0
    assert run(store(tmp_path / "none", with_state(cells, "seed == 0", "pending"), curves.iloc[:0])) == 0
