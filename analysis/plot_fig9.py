"""Figure 9: does the growth of one optimizer step's change with N last over the first ten steps?

    python analysis/plot_fig9.py [options: see --help]

Figure 4 for each of the steps t = 1…10, mean ± SEM over seeds, a panel per rule; dashed, the expected growth,
anchored at N = 1 and t = 1. fig9.csv has every cell, fig9-slopes.csv the fitted slopes.
"""

import argparse
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.plotting import panels, script, states, style, updates
from analysis.records import sources
from analysis.stats import probe

SCRIPT = script.Script("fig9", __doc__, probe.EXPERIMENT, probe.MAKE_COMMAND)
FRAME = panels.Frame(right=0.6)


def main(argv: Sequence[str] | None = None) -> int:
    """Draw the figure, write its files, print the slopes. Exit status 0, or 2 on a `UserError`."""
    return script.run(SCRIPT, make, argv)


def make(args: argparse.Namespace, cells: pd.DataFrame) -> script.Drawing:
    """The figure of a sweep's cells, with its numbers."""
    cells = updates.looped(cells)
    measured = probe.measurements(cells, sources.load_curves(args, cells))
    measured = measured[measured["updates"] > 0]
    slopes = probe.growth_table(measured, "update_rms")
    tables = {"fig9": measured.drop(columns="residual_rms"), "fig9-slopes": slopes}
    figure = draw(cells, probe.average_seeds(measured))
    return script.Drawing(figure, tables, lambda console: updates.print_growth(slopes, console))


def draw(cells: pd.DataFrame, points: pd.DataFrame) -> Figure:
    """The figure: a panel per rule, a curve per step."""
    colors = style.ordered_colors(sorted(set(points["updates"])))
    shown = sorted(set(points["panel"]))
    at_end = points.loc[points["updates"] == max(colors), "state"]
    figure, grid = panels.panels(1, len(shown), 2.0, FRAME, sharey=True, unfinished=states.any_left(at_end))
    for axes, panel, letter in zip(grid[0], shown, "abc", strict=False):
        of_panel = points[points["panel"] == panel]
        rule = of_panel["rule"].iloc[0]
        axes.set_yscale("log")
        updates.draw_reference(axes, rule, sorted(set(of_panel["depth"])), updates.anchor(points))
        axes.legend(loc="upper left")
        for step, color in colors.items():
            curve = of_panel[of_panel["updates"] == step]
            updates.draw_curve(axes, curve, color=color, marker="o", markersize=2.2, linewidth=1.0)
        last = of_panel[of_panel["updates"] == max(colors)]
        states.draw_lane(axes, last["depth"], last["state"], style.INK)
        if not np.isfinite(of_panel["update_rms"]).any():
            states.say(axes, last["state"])
        panels.count_axis(axes, of_panel["depth"], "loop count $N$")
        axes.set_title(f"({letter}) {rule}, {probe.formula(rule, 'N')}", loc="left", pad=10)
    panels.log_ticks(grid[0, 0], has_data=bool(np.isfinite(points["update_rms"]).any()))
    grid[0, 0].set_ylabel(updates.LABEL)
    panels.step_bar(figure, colors, panels.side_axes(figure, grid[0, -1]))
    states.add_legend(figure, at_end, states.LEAD)
    style.add_footer(figure, script.footer(cells))
    return figure


if __name__ == "__main__":
    script.leave(main())
