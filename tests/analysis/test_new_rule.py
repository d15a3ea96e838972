"""A new rule is one row of `RULES`: every figure that has its records draws it, tells it apart and names it."""

from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from analysis import plot_fig2, plot_fig4, plot_fig5, plot_fig9
from analysis.plotting import rules, style
from analysis.stats import probe
from analysis.stats.transfer import average_seeds, transfer_table
from model.scaling import RULES, ScalingRule, residual_scale
from sweeper.errors import UserError

RULE, ALPHA = "three_quarters", 0.75
ProbeTables = Callable[..., tuple[pd.DataFrame, pd.DataFrame]]
CellTable = Callable[..., pd.DataFrame]
Store = Callable[..., Path]


@pytest.fixture(params=[RULE, f"alpha={ALPHA:g}"])
def rule(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A row of the table that the figures have never seen, or exponents given in its place."""
    if request.param == RULE:
        monkeypatch.setitem(RULES, RULE, ScalingRule(alpha=ALPHA, beta=0.5))
    return str(request.param)


@pytest.fixture
def probes(rule: str, probe_tables: ProbeTables) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The paper's probes, and the new rule's in panels g (deep) and h (looped)."""
    cells, curves = probe_tables()
    added = []
    for old, new in {"fig2c": "fig2g", "fig2f": "fig2h"}.items():
        copied = cells[cells["panel"] == old]
        runs = copied["run_id"].str.replace(old, new)
        lines = curves[curves["run_id"].isin(copied["run_id"])]
        depths = dict(zip(runs, copied["n_layers"] * copied["n_loops"], strict=True))
        lines = lines.assign(run_id=lines["run_id"].str.replace(old, new))
        growth = lines["run_id"].map(depths) ** (1 - ALPHA)
        lines = lines.assign(update_rms=lines["update_rms"] * growth, residual_rms=lines["residual_rms"] * growth)
        added.append((copied.assign(panel=new, rule=rule, run_id=runs), lines))
    return pd.concat([cells, *(a for a, _ in added)]), pd.concat([curves, *(b for _, b in added)])


def titles(figure: Figure) -> dict[str, str]:
    """Title of each panel that shows something, by its letter."""
    shown = [axes.get_title(loc="left") for axes in figure.axes if axes.axison]
    return {title[1]: title for title in shown if title}


def test_figure_2_has_a_panel_of_the_new_rule_in_depth_and_in_loops(
    rule: str, probes: tuple[pd.DataFrame, pd.DataFrame]
) -> None:
    measured = probe.measurements(*probes)
    with style.context():
        figure = plot_fig2.draw(probes[0], probe.average_seeds(measured), probe.range_table(measured, "residual_rms"))
    found = titles(figure)
    assert list(found) == list("abcgdefh")
    assert found["g"] == rf"(g) deep, {rule}, $\varepsilon=1/L^{{0.75}}$"
    assert found["h"] == rf"(h) looped, {rule}, $\varepsilon=1/N^{{0.75}}$"


def test_figure_4_draws_the_new_rule_apart_from_others_beside_its_expected_growth(
    rule: str, probes: tuple[pd.DataFrame, pd.DataFrame]
) -> None:
    cells = probes[0][probe.looped(probes[0])]
    measured = probe.measurements(cells, probes[1])
    measured = measured[measured["updates"] == 1]
    slopes = probe.growth_table(measured, "update_rms")
    with style.context():
        figure = plot_fig4.draw(cells, probe.average_seeds(measured), slopes)
    axes = figure.axes[0]
    labels = [text.get_text().split("\n") for text in axes.get_legend().get_texts()]
    assert [label[0].split(",")[0] for label in labels] == ["none", "sqrt", "linear", rule]
    assert labels[-1][:2] == [rf"{rule}, $\varepsilon=1/N^{{0.75}}$", "slope 0.25 ± 0.00 over $N=16…64$"]
    curves = [bars.lines[0] for bars in axes.containers]
    assert len({(curve.get_color(), curve.get_marker()) for curve in curves}) == len(curves) == 4
    assert r"$\propto N^{0.25}$" in [text.get_text() for text in axes.texts]
    reference = np.asarray(
        axes.lines[[line.get_label() for line in axes.lines].index(r"$\propto N^{0.25}$")].get_ydata()
    )
    assert reference[-1] / reference[0] == pytest.approx(64**0.25)


def test_figure_9_has_a_panel_of_the_new_rule(rule: str, probes: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    cells = probes[0][probe.looped(probes[0])]
    measured = probe.measurements(cells, probes[1])
    with style.context():
        figure = plot_fig9.draw(cells, probe.average_seeds(measured[measured["updates"] > 0]))
    found = titles(figure)
    assert list(found) == list("abcd")
    assert found["d"] == rf"(d) {rule}, $\varepsilon=1/N^{{0.75}}$"


def test_figure_5_names_the_new_rule(rule: str, cell_table: CellTable) -> None:
    cells = cell_table()
    cells = pd.concat([cells, cells[cells["panel"] == "c"].assign(panel="e", rule=rule)], ignore_index=True)
    points = average_seeds(cells)
    with style.context():
        title = titles(plot_fig5.draw(cells, points, transfer_table(points)))["e"]
    assert f"{rule} scaling" in title
    # The exponents in place of a name leave open with which β.
    assert (r"$\varepsilon=1/(N^{0.75}\sqrt{m_L})$" in title) == (rule == RULE)


@pytest.mark.parametrize("script", [plot_fig2, plot_fig4, plot_fig9])
def test_whole_scripts_draw_the_new_rule(
    script: object, rule: str, probes: tuple[pd.DataFrame, pd.DataFrame], store: Store, tmp_path: Path
) -> None:
    folder = store(tmp_path, *probes)
    assert script.main(["--results", str(folder), "--out", str(tmp_path), "--format", "png"]) == 0  # type: ignore[attr-defined]
    tables = [pd.read_csv(file) for file in tmp_path.glob("fig*.csv")]
    assert all(rule in set(table["rule"]) for table in tables)


def test_titles_fit_their_panels(probes: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    cells = probes[0].replace({"rule": {RULE: "a_rule_whose_name_is_far_too_long"}})
    measured = probe.measurements(cells, probes[1])
    with style.context():
        figure = plot_fig2.draw(cells, probe.average_seeds(measured), probe.range_table(measured, "residual_rms"))
        FigureCanvasAgg(figure).draw()
        shown = [axes for axes in figure.axes if axes.axison and axes.get_title(loc="left")]
        gap = plot_fig2.FRAME.between_columns * figure.dpi
        for axes in shown:
            assert axes._left_title.get_window_extent().width < axes.bbox.width + gap  # type: ignore[attr-defined]


@given(alpha=st.sampled_from([0, 0.25, 0.5, 0.75, 1, 1.25]), beta=st.sampled_from([0, 0.5, 0.75, 1]))
def test_formula_is_the_residual_scale(alpha: float, beta: float) -> None:
    """The formula, read as Python, gives the ε that runs are trained with."""
    text = rules.formula(f"alpha={alpha:g} beta={beta:g}").strip("$").removeprefix(r"\varepsilon=")
    for mathtext, python in [(r"\sqrt", "math.sqrt"), (r"\,", "*"), ("m_L", "m"), ("^", "**")]:
        text = text.replace(mathtext, python)
    text = text.replace("{", "(").replace("}", ")").replace("Nmath", "N*math").replace(")math", ")*math")
    found = eval(text, {"math": __import__("math"), "N": 8, "m": 4})
    assert found == pytest.approx(residual_scale(ScalingRule(alpha, beta), 8, 48))


@pytest.mark.parametrize(
    ("rule", "formula", "loop_formula", "growth"),
    [
        ("none", r"$\varepsilon=1$", r"$\varepsilon=1$", r"$\propto N$"),
        ("sqrt", r"$\varepsilon=1/\sqrt{N\,m_L}$", r"$\varepsilon=1/\sqrt{N}$", r"$\propto \sqrt{N}$"),
        ("linear", r"$\varepsilon=1/(N\sqrt{m_L})$", r"$\varepsilon=1/N$", "constant"),
    ],
)
def test_the_papers_rules_read_as_in_the_paper(rule: str, formula: str, loop_formula: str, growth: str) -> None:
    assert rules.formula(rule) == formula
    assert rules.loop_formula(rule, "N") == loop_formula
    assert rules.growth_text(rules.update_growth(rule)) == growth


def test_a_rule_that_nobody_knows_is_named_without_a_formula() -> None:
    assert rules.named("cubic", "N") == "cubic"
    assert rules.named("beta=0", "N") == "beta=0"
    assert rules.formula("alpha=1") == ""
    assert np.isnan(rules.update_growth("cubic"))


def test_every_rule_looks_different_and_a_row_of_the_table_the_same_in_every_figure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(RULES, RULE, ScalingRule(alpha=ALPHA, beta=0.5))
    alone = style.rule_looks([RULE])
    many = style.rule_looks([*RULES, *(f"alpha={alpha / 8:g}" for alpha in range(16))])
    assert many[RULE] == alone[RULE]
    assert list(alone) == [RULE]
    assert all(one != other for one, other in combinations(many.values(), 2))


def test_more_rules_than_looks_are_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"rule 'r20': a figure tells 23 rules apart at most"):
        style.rule_looks([f"r{n:02}" for n in range(21)])


def test_two_panels_of_one_rule_are_refused_by_figure_4(
    probe_tables: ProbeTables, store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cells, curves = probe_tables()
    folder = store(tmp_path, cells.replace({"rule": {"sqrt": "linear"}}), curves)
    assert plot_fig4.main(["--results", str(folder), "--out", str(tmp_path)]) == 2
    assert "panels fig2e and fig2f are both looped under linear" in capsys.readouterr().err


def test_a_panel_with_layers_and_loops_is_refused_by_name(probe_tables: ProbeTables) -> None:
    cells, _ = probe_tables()
    with pytest.raises(UserError, match="panel fig2f: L and N are both above 1"):
        probe.looped(cells.assign(n_layers=cells["n_layers"].mask(cells["panel"] == "fig2f", 2)))
