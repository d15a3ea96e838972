"""Figure 4: how far does one optimizer step move the output of a looped model?

    python analysis/plot_fig4.py [options: see --help]

RMS change of h_N by the first AdamW step, on the same tokens before and after, against N, a curve per rule. Dashed: the
growth expected from Theorem 2, anchored at N = 1. fig4.csv has every cell, fig4-slopes.csv the fitted slopes.
"""

import argparse
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.plotting import panels, rules, script, states, style, updates
from analysis.records import sources
from analysis.stats import probe
from analysis.stats.growth import estimate_text
from sweeper.errors import UserError

SCRIPT = script.Script("fig4", __doc__, lays_out=("panel", "depth", "seed"))
FRAME = panels.Frame(right=2.8, top=0.3)

BESIDE: style.Look = {"va": "center", "fontsize": 7.0, "color": style.MUTED, "annotation_clip": False}


def main(argv: Sequence[str] | None = None) -> int:
    """Draw the figure, write its files, print the slopes. Exit status 0, or 2 on a `UserError`."""
    return script.run(SCRIPT, make, argv)


def make(args: argparse.Namespace, cells: pd.DataFrame) -> script.Drawing:
    """The figure of a sweep's cells, with its numbers."""
    cells = cells[probe.looped(cells)]
    _require_one_panel_a_rule(cells)
    measured = probe.measurements(cells, sources.load_curves(args, cells))
    measured = measured[measured["updates"] == 1]
    slopes = probe.growth_table(measured, "update_rms")
    tables = {"fig4": measured.drop(columns="residual_rms"), "fig4-slopes": slopes}
    figure = draw(cells, probe.average_seeds(measured), slopes)
    return script.Drawing(figure, tables, lambda console: updates.print_growth(slopes, console))


def _require_one_panel_a_rule(cells: pd.DataFrame) -> None:
    """A curve is told from others by its rule alone."""
    for rule, panel in cells.groupby("rule")["panel"]:
        if len(names := sorted(set(panel))) > 1:
            raise UserError(f"panels {' and '.join(names)} are both looped under {rule}; this figure draws one a rule")


def draw(cells: pd.DataFrame, points: pd.DataFrame, slopes: pd.DataFrame) -> Figure:
    """The figure: a curve per rule beside its expected growth, with slopes in the legend."""
    height = max(2.6, 0.62 * len(slopes))  # of the legend, where there are many rules
    figure, grid = panels.panels(1, 1, height, FRAME, unfinished=states.any_left(points["state"]))
    axes = grid[0, 0]
    axes.set_yscale("log")
    counts, curves = sorted(set(points["depth"])), []
    looks, anchor = style.rule_looks(slopes["rule"]), updates.anchor(points)
    for lane, row in enumerate(slopes.to_dict("records")):
        rule, curve = row["rule"], points[(points["panel"] == row["panel"]) & (points["rule"] == row["rule"])]
        growth = rules.update_growth(rule)
        end = updates.draw_reference(axes, growth, counts, anchor)
        if np.isfinite(end):
            beside = {"xytext": (8, 0), "textcoords": "offset points"} | BESIDE
            axes.annotate(rules.growth_text(growth), (counts[-1], end), **beside)
        curves.append(updates.draw_curve(axes, curve, **looks[rule], label=_label(row)))
        states.draw_lane(axes, curve["depth"], curve["state"], looks[rule]["color"], lane, of=curve)
    if not np.isfinite(points["update_rms"]).any():
        states.say(axes, points["state"])
    panels.count_axis(axes, counts, "loop count $N$")
    panels.log_ticks(axes, has_data=bool(np.isfinite(points["update_rms"]).any()))
    axes.set_ylabel(updates.LABEL)
    axes.legend(loc="center left", bbox_to_anchor=(1.12, 0.5), handles=curves, labelspacing=1.2)
    states.add_legend(figure, points["state"], states.LEAD)
    style.add_footer(figure, script.footer(cells))
    return figure


def _label(row: Mapping[Hashable, Any]) -> str:
    """A rule with its fitted slopes and range."""
    rule = row["rule"]
    lines = [rules.named(rule, "N")]
    for low, high in probe.SLOPE_RANGES:
        name = f"slope_{low}_{high}"
        if np.isfinite(row[name]):
            lines.append(f"slope {estimate_text(row[name], row[f'{name}_sem'])} over $N={low}…{high}$")
    if rules.update_growth(rule) == 0 and np.isfinite(row["fold_range"]):
        lines.append(f"max/min over all $N$: {row['fold_range']:.3g}")
    return "\n".join(lines)


if __name__ == "__main__":
    script.leave(main())
