"""Which stabiliser reaches the lowest loss as loops are added, each at its own best rate, and does that rate stay?

    python analysis/plot_architectures.py [--stabilisers all|core|ARCHITECTURE/RULE,…] [options: see --help]

A stabiliser is an architecture with a rule for ε. Above: lowest validation loss on the grid of rates, mean over seeds
with its 95% interval, against N, the operations of one run, and the time of one run. Collapsed cells are crosses above
the panels. Below: octaves from the optimum at N = 1 to that at N. architectures.csv has a row per stabiliser and N,
architectures-runs.csv every run.
"""

import argparse
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MultipleLocator, NullLocator
from rich.console import Console
from rich.table import Table

from analysis.claims.transfer import SAME_OCTAVES
from analysis.plotting import labels, marks, panels, script, stabilisers, states, style
from analysis.plotting.stabilisers import Stabiliser
from analysis.stats import transfer
from analysis.stats.stabilisers import COLLAPSED, best_table, of_sweep

SCRIPT = script.Script("architectures", __doc__, lays_out=None)
COSTS = {  # column: label of its axis
    "n_loops": "loops $N$",
    "flops": "FLOPs of one run",
    "seconds": "time of one run",
}
UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0, "days": 86400.0}  # seconds
GROUPS = ("plain and the second paper's", "other stabilisers")
LEFT, PANEL, LABELS, GAP, RIGHT = 0.6, (1.75, 1.72, 1.72), 1.12, 0.14, 0.15  # inches, across
NAMES = 1.12  # inches, for the names beside the shifts
HEIGHT, TITLE, TICKS, SHIFT_TITLE, LINE, FOOT = 1.75, 0.3, 0.46, 0.46, 0.158, 0.64  # inches, down
LANE = 7.0  # points
FAINT: style.Look = {"color": style.GUIDE, "linewidth": 0.7, "zorder": 1}
BAR: style.Look = {"linewidth": 0.9, "zorder": 3}
RISE: style.Look = {"linestyle": (0, (1, 1.6)), "linewidth": 0.9, "zorder": 2}
BAND = "#f0f0f0"
SMALL: style.Look = {"fontsize": 6.5, "color": style.MUTED}


def main(argv: Sequence[str] | None = None) -> int:
    """Draw the figure, write its files, print the losses. Exit status 0, or 2 on a `UserError`."""
    return script.run(SCRIPT, make, argv, lambda parser: stabilisers.add_options(parser, "all"))


def make(args: argparse.Namespace, cells: pd.DataFrame) -> script.Drawing:
    """The figure of a sweep's cells, with its numbers."""
    runs = stabilisers.select(of_sweep(cells), args.stabilisers)
    table = best_table(runs)
    figure = draw(runs, table)
    tables = {"architectures": table, "architectures-runs": runs.drop(columns=["panel", "reason"])}
    return script.Drawing(figure, tables, lambda console: print_table(table, console))


def groups(names: Sequence[Stabiliser]) -> list[list[Stabiliser]]:
    """The core and the others, each a row of panels. One row if all fit into it."""
    core = [one for one in names if one in stabilisers.CORE]
    others = [one for one in names if one not in stabilisers.CORE]
    return [group for group in (core, others) if group] if len(names) > len(stabilisers.CORE) else [list(names)]


def draw(runs: pd.DataFrame, table: pd.DataFrame) -> Figure:
    """The figure: losses, a row of panels per group, and shifts below."""
    names = stabilisers.present(table)
    looks = style.stabiliser_looks(names)
    rows = groups(names)
    lanes = [[one for one in group if (_of(table, one)["state"] != "done").any()] for group in rows]
    shifted = sorted(n for n in set(table["n_loops"]) if n > transfer.REFERENCE_LOOPS)
    figure, grid, bottom = _paper(lanes, len(names), len(shifted))
    for axes_of_row, group, of_lanes, letters, title in zip(grid, rows, lanes, ("abc", "def"), GROUPS, strict=False):
        _draw_losses(axes_of_row, table, names, group, of_lanes, looks)
        for axes, letter in zip(axes_of_row, letters, strict=True):
            text = f"({letter}) {title}" if axes is axes_of_row[0] and len(rows) > 1 else f"({letter})"
            axes.set_title(text, loc="left", pad=6 + LANE * len(of_lanes))
    if bottom:
        _draw_shifts(bottom, table, shifted, names, looks, "abcdefg"[3 * len(rows)])
    states.add_legend(figure, table["state"], "above a panel, a row per stabiliser:")
    _add_legend(figure)
    collapsed = int((runs["fate"] == COLLAPSED).sum())
    style.add_footer(figure, stabilisers.footer(runs, [f"{collapsed} collapsed"] if collapsed else []))
    return figure


def _of(table: pd.DataFrame, one: Stabiliser) -> pd.DataFrame:
    return table[(table["architecture"] == one[0]) & (table["rule"] == one[1])].sort_values("n_loops")


def _paper(
    lanes: Sequence[Sequence[Stabiliser]], n_names: int, n_shifts: int
) -> tuple[Figure, list[list[Axes]], list[Axes]]:
    """The figure, its rows of three panels of losses, and a panel of shifts per N."""
    forest = n_names * LINE
    heads = [TITLE + LANE * len(of_row) / 72 for of_row in lanes]
    whole = sum(heads) + len(lanes) * (HEIGHT + TICKS) + FOOT
    whole += (SHIFT_TITLE + forest + TICKS) if n_shifts else 0.0
    figure = Figure(figsize=(style.TEXT_WIDTH, whole))
    grid: list[list[Axes]] = []
    top = 0.0
    for head in heads:
        top += head
        left, of_row = LEFT, list[Axes]()
        for width, gap in zip(PANEL, (LABELS, GAP, 0.0), strict=True):
            place = panels.Place(left, top, width, HEIGHT)
            of_row.append(panels.placed(figure, place, sharey=of_row[0] if of_row else None))
            of_row[-1].tick_params(labelleft=len(of_row) == 1)
            left += width + gap
        grid.append(of_row)
        top += HEIGHT + TICKS
    columns = panels.across(n_shifts, NAMES, RIGHT, GAP) if n_shifts else []
    places = [panels.Place(left, top + SHIFT_TITLE, width, forest) for left, width in columns]
    return figure, grid, [panels.placed(figure, place) for place in places]


def _draw_losses(
    axes_of_row: Sequence[Axes],
    table: pd.DataFrame,
    names: Sequence[Stabiliser],
    group: Sequence[Stabiliser],
    lanes: Sequence[Stabiliser],
    looks: dict[Stabiliser, style.Look],
) -> None:
    """The losses of one group against each of `COSTS`, those of the others grey behind them."""
    unit = [name for name, seconds in UNITS.items() if name == "s" or table["seconds"].max() >= 2 * seconds][-1]
    table = table.assign(seconds=table["seconds"] / UNITS[unit])
    axes_of_row[0].set_ylim(*_loss_limits(table))
    for axes, (column, label) in zip(axes_of_row, COSTS.items(), strict=True):
        for one in names:
            curve = _of(table, one)
            if one in group:
                _draw_curve(axes, curve, column, looks[one])
            else:
                axes.plot(curve[column], curve["best_loss"].where(curve["state"] == "done"), **FAINT)
        for lane, one in enumerate(lanes):
            curve = _of(table, one)
            states.draw_lane(axes, curve[column], curve["state"], looks[one]["color"], lane, LANE, of=_at_best(curve))
        _cost_axis(axes, table, column, f"{label} ({unit})" if column == "seconds" else label)
    axes_of_row[0].set_ylabel("validation loss (nats/token)")
    if not (table["state"] == "done").any():
        axes_of_row[0].set_yticks([])  # the default ones would be taken for losses
    _label_ends(axes_of_row[0], table, group, lanes, looks)


def _loss_limits(table: pd.DataFrame) -> tuple[float, float]:
    """The range of the losses of trained cells, with room at both ends."""
    trained = table.loc[table["state"] == "done", "best_loss"]
    if trained.empty:
        return 0.0, 1.0
    room = 0.06 * (trained.max() - trained.min()) or 0.05
    return float(trained.min() - room), float(trained.max() + room)


def _draw_curve(axes: Axes, curve: pd.DataFrame, column: str, look: style.Look) -> None:
    """Losses with intervals, dotted where the next N collapsed. Open where there is no optimum (fitted)."""
    x, losses = curve[column], curve["best_loss"].where(curve["state"] == "done")
    top, rises = axes.get_ylim()[1], list[Artist]()
    for before, after in pairwise(curve.index):
        if curve["state"][before] == "done" and curve["state"][after] == COLLAPSED:
            rises += axes.plot(x[[before, after]], [losses[before], top], color=look["color"], **RISE)
    low, high = curve["best_loss_low"], curve["best_loss_high"]
    drawn = list[Artist](axes.plot(x, losses, **look, zorder=4))
    drawn.append(axes.vlines(x, low, high, color=look["color"], **BAR))
    drawn += axes.plot(
        x, losses.where(curve["flag"] != ""), **look | {"linestyle": "none"}, markerfacecolor="white", zorder=4
    )
    marks.add([*drawn, *rises], _at_best(curve), x, losses, low=low, high=high, name="loss")


def _at_best(curve: pd.DataFrame) -> pd.DataFrame:
    """What tells the cells of each point."""
    return curve[["architecture", "rule", "n_loops"]].assign(base_lr=curve["best_lr"])


def _cost_axis(axes: Axes, table: pd.DataFrame, column: str, label: str) -> None:
    if column == "n_loops":
        stabilisers.loop_axis(axes, list(table["n_loops"]), label)
        return
    axes.set_xlabel(label)
    known = table[column].dropna()
    if known.empty:
        axes.text(0.5, 0.5, "not recorded", transform=axes.transAxes, ha="center", color=style.MUTED)
        axes.set_xticks([])
        return
    axes.set_xscale("log")
    axes.set_xlim(known.min() / 1.15, known.max() * 1.15)
    ticks = log_ticks(*axes.get_xlim())
    text = power_text if column == "flops" else "{:g}".format
    axes.set_xticks(ticks, [text(tick) for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())


def log_ticks(low: float, high: float) -> list[float]:
    """Round numbers between the ends of a log axis, the coarsest of which there are two."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0), (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)):
        ticks = [step * 10.0**decade for decade in decades for step in steps if low <= step * 10.0**decade <= high]
        if len(ticks) >= 2:
            break
    return ticks


def power_text(value: float) -> str:
    """ "2·10¹²" in mathtext."""
    exponent = math.floor(math.log10(value) + 1e-9)
    return rf"${value / 10.0**exponent:.2g}\!\cdot\!10^{{{exponent}}}$"


def _label_ends(
    axes: Axes,
    table: pd.DataFrame,
    group: Sequence[Stabiliser],
    lanes: Sequence[Stabiliser],
    looks: dict[Stabiliser, style.Look],
) -> None:
    """The name of each curve beside its end: in its lane if its last cell has no loss."""
    one_point = np.diff(axes.get_ylim()).item() / (HEIGHT * 72)
    ends = []
    for one in group:
        last = _of(table, one).iloc[-1]
        in_lane = axes.get_ylim()[1] + (5 + LANE * (lanes.index(one) if one in lanes else 0)) * one_point
        ends.append((float(last["n_loops"]), float(last["best_loss"]) if last["state"] == "done" else in_lane))
    colors = [looks[one]["color"] for one in group]
    labels.beside(axes, ends, [stabilisers.name(one) for one in group], colors)


def _draw_shifts(
    shown: Sequence[Axes],
    table: pd.DataFrame,
    counts: Sequence[int],
    names: Sequence[Stabiliser],
    looks: dict[Stabiliser, style.Look],
    letter: str,
) -> None:
    """A panel per N, a line per stabiliser. Filled: optima (fitted). Open: optima (grid), where one has no fit."""
    shifts = table[["shift_octaves", "fitted_shift_octaves"]].abs()
    reach = max(1.25, math.ceil(4 * (float(shifts.max().max()) + 0.2)) / 4) if shifts.notna().any(axis=None) else 1.25
    for axes, n in zip(shown, counts, strict=True):
        axes.set_xlim(-reach, reach)
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.axvspan(-SAME_OCTAVES, SAME_OCTAVES, color=BAND, zorder=0)
        axes.axvline(0.0, color=style.GUIDE, linewidth=0.8, zorder=0.5)
        axes.xaxis.set_major_locator(MultipleLocator(1.0))
        axes.set_yticks(range(len(names)), [""] * len(names))
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False)
        axes.spines["left"].set_visible(False)
        axes.set_title(f"$N={n}$", loc="left")
        axes.set_xlabel("octaves from $N=1$")
        for line, one in enumerate(names):
            rows = _of(table, one)
            rows = rows[rows["n_loops"] == n]
            if len(rows):
                _draw_shift(axes, line, rows.iloc[0], looks[one])
    width = shown[0].get_position().width * style.TEXT_WIDTH
    shown[0].set_title(f"({letter}) shift of the optimum, $N={counts[0]}$", loc="left", x=-(NAMES - 0.06) / width)
    shown[0].set_yticklabels([stabilisers.name(one) for one in names])
    for label, one in zip(shown[0].get_yticklabels(), names, strict=True):
        label.set(color=looks[one]["color"], fontsize=7.0)


def _draw_shift(axes: Axes, line: int, row: "pd.Series[Any]", look: style.Look) -> None:
    first, last = axes.get_xlim()
    fitted, grid = row["fitted_shift_octaves"], row["shift_octaves"]
    if math.isnan(grid):
        text = row["state"] if row["state"] != "done" else "no $N=1$"
        axes.text(0.0, line, text, ha="center", va="center", **SMALL)
        return
    low, high = row["fitted_shift_octaves_low"], row["fitted_shift_octaves_high"]
    if not math.isnan(low):
        axes.plot(np.clip([low, high], first, last), [line, line], color=look["color"], linewidth=1.0)
        for end, limit, marker in ((low, first, "<"), (high, last, ">")):
            if abs(end) >= abs(limit):
                axes.plot([limit], [line], color=look["color"], marker=marker, markersize=3.0, clip_on=False)
    shown = {"color": look["color"], "marker": look["marker"], "linestyle": "none"}
    if math.isnan(fitted):
        axes.plot([grid], [line], **shown, markerfacecolor="white")
    else:
        axes.plot([fitted], [line], **shown)


def _add_legend(figure: Figure) -> None:
    keys: list[Artist] = [
        Line2D([], [], color=style.INK, marker="o", linestyle="none", label="optimum (fitted)"),
        Line2D(
            [], [], color=style.INK, marker="o", linestyle="none", markerfacecolor="white", label="grid only, no fit"
        ),
        Line2D([], [], color=style.INK, **RISE, label="collapses at the next $N$"),
        Patch(color=BAND, label=rf"within $\pm{SAME_OCTAVES:g}$ octaves"),
    ]
    place = (0.5, 0.4 / figure.get_figheight())
    figure.legend(handles=keys, loc="lower center", bbox_to_anchor=place, ncols=len(keys))


def print_table(table: pd.DataFrame, console: Console) -> None:
    """Print the lowest loss of every stabiliser and N, and the octaves from the optimum of N = 1."""
    counts = sorted(set(table["n_loops"]))
    shown = Table("stabiliser", *(f"N = {n}" for n in counts), title="Lowest loss, shift of the optimum (grid)")
    for one in stabilisers.present(table):
        rows = _of(table, one).set_index("n_loops")
        shown.add_row(stabilisers.name(one), *(_cell_text(rows.loc[n]) if n in rows.index else "-" for n in counts))
    console.print(shown)


def _cell_text(row: "pd.Series[Any]") -> str:
    if row["state"] != "done":
        return str(row["state"])
    shift = "" if math.isnan(row["shift_octaves"]) else f" ({row['shift_octaves']:+.1f})"
    return f"{row['best_loss']:.3f}{shift}"


if __name__ == "__main__":
    script.leave(main())
