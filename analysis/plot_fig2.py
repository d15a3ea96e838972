"""Figure 2: how large does the residual stream become in the first ten optimizer steps?

    python analysis/plot_fig2.py [options: see --help]

R = d^(−1/2)·‖h_N‖₂ against depth L (top) and loop count N (bottom), a line per optimizer step t = 1…10. A step is a
forward pass and then an update. Its R is measured in the forward pass, as a training loop would log it. Line t
therefore shows the record after t − 1 updates, and line 1 the model at initialisation. fig2.csv has every cell at 0…10
updates.
"""

import argparse
import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from analysis.plotting import marks, panels, rules, script, states, style
from analysis.records import sources
from analysis.stats import probe
from analysis.stats.growth import estimate_text

SCRIPT = script.Script("fig2", __doc__, lays_out=("panel", "depth", "seed"))
FRAME = panels.Frame(right=0.6)
COLUMNS = 3


def main(argv: Sequence[str] | None = None) -> int:
    """Draw the figure, write its files, print R's range per panel. Exit status 0, or 2 on a `UserError`."""
    return script.run(SCRIPT, make, argv)


def make(args: argparse.Namespace, cells: pd.DataFrame) -> script.Drawing:
    """The figure of a sweep's cells, with its numbers."""
    measured = probe.measurements(cells, sources.load_curves(args, cells))
    ranges = probe.range_table(measured, "residual_rms")
    figure = draw(cells, probe.average_seeds(measured), ranges)
    tables = {"fig2": measured.drop(columns="update_rms"), "fig2-range": ranges}
    return script.Drawing(figure, tables, lambda console: print_ranges(ranges, console))


def draw(cells: pd.DataFrame, points: pd.DataFrame, ranges: pd.DataFrame) -> Figure:
    """The figure: deep stacks above, looped ones below, a panel per rule."""
    steps = range(1, int(points["updates"].max()) + 1)
    initial = points.loc[points["updates"] == 0, "state"]
    colors = style.ordered_colors(steps)
    rows = _rows(cells)
    figure, grid = panels.panels(len(rows), COLUMNS, 1.6, FRAME, sharey="row", unfinished=states.any_left(initial))
    for axes in grid.flat:
        axes.set_axis_off()
    for row, (looped, curves) in zip(grid, rows, strict=True):
        kind, count, label = ("looped", "N", "loop count $N$") if looped else ("deep", "L", "depth $L$")
        finite = False
        for axes, (panel, rule) in zip(row, curves, strict=False):
            axes.set_axis_on()
            of_panel = points[(points["panel"] == panel) & (points["rule"] == rule)]
            finite |= bool(np.isfinite(of_panel["residual_rms"]).any())
            _draw_panel(axes, of_panel, colors)
            panels.title(axes, f"{panels.letter(panel)} {kind}, {rules.named(rule, count)}", pad=10)
            panels.count_axis(axes, of_panel["depth"], label)
            shown = (ranges["panel"] == panel) & (ranges["rule"] == rule) & (ranges["updates"] == len(steps) - 1)
            last = ranges.loc[shown, "fold_range"].iloc[0]
            if np.isfinite(last):
                text = rf"max/min over ${count}$ at $t={len(steps)}$: {last:.3g}"
                axes.text(0.04, 0.95, text, transform=axes.transAxes, va="top", fontsize=7.0, color=style.MUTED)
        row[0].set_ylabel(r"$R = d^{-1/2}\,\Vert h\Vert_2$")
        panels.log_ticks(row[0], has_data=finite)
    panels.step_bar(figure, colors, panels.side_axes(figure, grid[0, -1], grid[-1, -1]))
    states.add_legend(figure, initial, states.LEAD)
    style.add_footer(figure, script.footer(cells))
    return figure


def _rows(cells: pd.DataFrame) -> list[tuple[bool, list[tuple[str, str]]]]:
    """Per row of the figure, whether its panels are looped, and the panel and rule of each."""
    shown = cells.assign(looped=probe.looped(cells)).groupby(["looped", "panel", "rule"], sort=True).size()
    rows = []
    for looped in (False, True):
        curves = [(str(panel), str(rule)) for is_looped, panel, rule in shown.index if is_looped == looped]
        rows += [(looped, curves[first : first + COLUMNS]) for first in range(0, len(curves), COLUMNS)]
    return rows


def _draw_panel(axes: Axes, of_panel: pd.DataFrame, colors: dict[float, str]) -> None:
    axes.set_yscale("log")
    axes.margins(y=0.14)
    for step, color in colors.items():
        line = of_panel[of_panel["updates"] == step - 1]
        values = line["residual_rms"].where(np.isfinite(line["residual_rms"]))
        drawn = axes.plot(line["depth"], values, color=color, marker="o", markersize=2.2, linewidth=1.0)
        marks.add(drawn, line, line["depth"], values, name=f"R at step {step}")
    initial = of_panel[of_panel["updates"] == 0]
    states.draw_lane(axes, initial["depth"], initial["state"], style.INK, of=initial)
    if initial["residual_rms"].isna().all():
        states.say(axes, initial["state"])


def print_ranges(ranges: pd.DataFrame, console: Console) -> None:
    """Print R's max over min in depth or loops: at initialisation, in the last step drawn, and after its update."""
    last = int(ranges["updates"].max())
    shown = Table("panel", "rule", title="R: largest over smallest, in L (deep) or N (looped)", title_justify="left")
    for heading in ("step 1", f"step {last}", f"after step {last}"):
        shown.add_column(heading, justify="right")
    for (panel, rule), table in ranges.groupby(["panel", "rule"], sort=True):
        at = table.set_index("updates")["fold_range"]
        shown.add_row(
            str(panel), str(rule), *(estimate_text(at[made], math.nan, ".3g") for made in (0, last - 1, last))
        )
    console.print(shown)


if __name__ == "__main__":
    script.leave(main())
