"""Figure 9: does the growth of one optimizer step's change with N last over the first ten steps?

    python analysis/plot_fig9.py [options: see --help]

Figure 4 for each of the steps t = 1…10, mean ± SEM over seeds, a panel per rule. Dashed: the expected growth, anchored
at N = 1 and t = 1. fig9.csv has every cell, fig9-slopes.csv the fitted slopes.
"""

import argparse
import math
from collections.abc import Sequence
from string import ascii_lowercase

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.plotting import panels, rules, script, states, style, updates
from analysis.records import sources
from analysis.stats import probe

SCRIPT = script.Script("fig9", __doc__, lays_out=("panel", "depth", "seed"))
FRAME = panels.Frame(right=0.6)
COLUMNS = 3


def main(argv: Sequence[str] | None = None) -> int:
    """Draw the figure, write its files, print the slopes. Exit status 0, or 2 on a `UserError`."""
    return script.run(SCRIPT, make, argv)


def make(args: argparse.Namespace, cells: pd.DataFrame) -> script.Drawing:
    """The figure of a sweep's cells, with its numbers."""
    cells = cells[probe.looped(cells)]
    measured = probe.measurements(cells, sources.load_curves(args, cells))
    measured = measured[measured["updates"] > 0]
    slopes = probe.growth_table(measured, "update_rms")
    tables = {"fig9": measured.drop(columns="residual_rms"), "fig9-slopes": slopes}
    figure = draw(cells, probe.average_seeds(measured))
    return script.Drawing(figure, tables, lambda console: updates.print_growth(slopes, console))


def draw(cells: pd.DataFrame, points: pd.DataFrame) -> Figure:
    """The figure: a panel per rule, a curve per step."""
    colors = style.ordered_colors(sorted(set(points["updates"])))
    shown = sorted(set(zip(points["panel"], points["rule"], strict=True)))
    columns = min(len(shown), COLUMNS)
    at_end = points.loc[points["updates"] == max(colors), "state"]
    unfinished, rows = states.any_left(at_end), math.ceil(len(shown) / columns)
    figure, grid = panels.panels(rows, columns, 2.0, FRAME, sharey=True, unfinished=unfinished)
    for axes in grid.flat[len(shown) :]:
        axes.set_axis_off()
    for axes, (panel, rule), letter in zip(grid.flat, shown, ascii_lowercase, strict=False):
        of_panel = points[(points["panel"] == panel) & (points["rule"] == rule)]
        axes.set_yscale("log")
        counts = sorted(set(of_panel["depth"]))
        updates.draw_reference(axes, rules.update_growth(rule), counts, updates.anchor(points))
        axes.legend(loc="upper left")
        for step, color in colors.items():
            curve = of_panel[of_panel["updates"] == step]
            updates.draw_curve(axes, curve, color=color, marker="o", markersize=2.2, linewidth=1.0)
        last = of_panel[of_panel["updates"] == max(colors)]
        states.draw_lane(axes, last["depth"], last["state"], style.INK, of=last)
        if not np.isfinite(of_panel["update_rms"]).any():
            states.say(axes, last["state"])
        panels.count_axis(axes, of_panel["depth"], "loop count $N$")
        panels.title(axes, f"({letter}) {rules.named(rule, 'N')}", pad=10)
    for first in grid[:, 0]:
        panels.log_ticks(first, has_data=bool(np.isfinite(points["update_rms"]).any()))
        first.set_ylabel(updates.LABEL)
    panels.step_bar(figure, colors, panels.side_axes(figure, grid[0, -1], grid[-1, -1]))
    states.add_legend(figure, at_end, states.LEAD)
    style.add_footer(figure, script.footer(cells))
    return figure


if __name__ == "__main__":
    script.leave(main())
