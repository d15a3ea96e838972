"""Figure 5: does the learning rate tuned at N = 1 transfer to larger N and L?

    python analysis/plot_fig5.py [--runs DIR | --results DIR|FILE | --wandb ENTITY/PROJECT | --wandb-dir DIR]
                                 [--sweep NAME] [--whole] [--out DIR] [--format LIST] [--log-wandb [ENTITY/PROJECT]]

Draws whatever has finished: figures/fig5.{pdf,png}, fig5.csv (all cells), fig5-transfer.csv and fig5-gain.csv (both
printed too). Losses at far too high or low rates would flatten every curve. So the loss axis reaches as high as the
curves of its row do within two octaves of their optima, and higher losses are triangles with their values.
`--whole` draws them to scale.
"""

import argparse
import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator
from matplotlib.transforms import offset_copy
from rich.console import Console
from rich.table import Table

from analysis.plotting import marks, rules, script, states, style
from analysis.plotting.panels import depth_text
from analysis.plotting.style import Look
from analysis.records import cell_axes, sources
from analysis.stats import transfer
from analysis.stats.sensitivity import initial_loss, with_sensitivity
from sweeper.errors import UserError
from sweeper.records.axes import as_text, ordered

SCRIPT = script.Script("fig5", __doc__, lays_out=None)
FACET = ["panel", "rule", "n_layers"]
MAX_FACETS = 12
NEAR = 2.0  # octaves from an optimum that the loss axis always shows
WORTHWHILE = 0.2  # of the loss axis, the least that is cut off
TITLE_WIDTH = 50  # characters
BAND: Look = {"alpha": 0.18, "linewidth": 0.0}
INTERVAL: Look = {"linewidth": 1.0, "solid_capstyle": "butt", "zorder": 4.5}
GAP: Look = {"linestyle": ":", "linewidth": 0.8}
STAR: Look = {"marker": "*", "markersize": 13, "markeredgewidth": 0.8, "linestyle": "none", "zorder": 4}
VERTEX: Look = {"marker": "|", "markersize": 15, "markeredgewidth": 1.4, "linestyle": "none", "zorder": 5}
BEHIND = {"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 0.4}
ABOVE: Look = {"marker": "^", "markersize": 3.5, "linestyle": "none", "clip_on": False, "zorder": 6}
VALUE: Look = {"textcoords": "offset points", "va": "center", "fontsize": 5.5, "zorder": 6, "bbox": BEHIND}
REFERENCE: Look = {"color": style.GUIDE, "linewidth": 1.0, "linestyle": (0, (4, 3)), "zorder": 0.5}


def main(argv: Sequence[str] | None = None) -> int:
    """Draw the figure, write its files, print the table. Exit status 0, or 2 on a `UserError`."""
    return script.run(SCRIPT, make, argv, add_options)


def add_options(parser: argparse.ArgumentParser) -> None:
    """How far the loss axis reaches."""
    parser.add_argument("--whole", action="store_true", help="a loss axis that reaches the highest loss")


def make(args: argparse.Namespace, cells: pd.DataFrame) -> script.Drawing:
    """The figure of a sweep's cells, with its numbers and the transfer table."""
    found = transfer.analyse(cells)
    points, gains = found.points, found.gains
    table = with_sensitivity(found.table, points, initial_loss(cells))
    figure = draw(cells, points, table, whole=args.whole)
    numbers = {"fig5": plotted_numbers(cells, points), "fig5-transfer": table, "fig5-gain": gains}

    def print_summary(console: Console) -> None:
        print_table(table, console)
        print_gains(gains, console)

    return script.Drawing(figure, numbers, print_summary)


def plotted_numbers(cells: pd.DataFrame, points: pd.DataFrame) -> pd.DataFrame:
    """Every cell with its state. Its point is drawn at `mean_val_loss`, or left out if that is `inf` (diverged)."""
    key = [*transfer.POINT_KEY, *cell_axes.context_columns(points)]
    means = points[[*key, "val_loss"]].rename(columns={"val_loss": "mean_val_loss"})
    numbers = cells.merge(means, on=key, how="left", validate="many_to_one")
    return numbers.drop(columns=["reason", *sources.MEASURED_COLUMNS], errors="ignore")


def draw(cells: pd.DataFrame, points: pd.DataFrame, table: pd.DataFrame, *, whole: bool = False) -> Figure:
    """The figure: a panel per facet, two to a row. The panels of a row share their loss axis, see `loss_ceiling`."""
    key = facet_key(points)
    facets = _facets(cells, points, key)
    colors = style.loop_colors(sorted(set(points["n_loops"])))
    lanes = sorted(set(points.loc[points["state"] != "done", "n_loops"]))
    titles = [panel_title(of_facet) for _, of_facet in facets]
    extra_lines = max(title.count("\n") for title in titles)
    figure, grid = _paper(math.ceil(len(facets) / 2), min(len(facets), 2), len(lanes), extra_lines)
    exponent = math.floor(math.log10(points["base_lr"].min()))
    for panel, title, (facet, of_facet) in zip(grid.flat, titles, facets, strict=False):
        _draw_rate_axis(panel, of_facet["base_lr"], exponent)
        _draw_curves(panel, of_facet, colors)
        _draw_optima(panel, cell_axes.rows_at(table, facet), colors)
        _draw_states(panel, of_facet, lanes, colors)
        panel.set_title(title, loc="left", pad=6 + states.LANE_POINTS * len(lanes))
    for unused in grid.flat[len(facets) :]:
        unused.set_axis_off()
    clipped = False
    for first, row in zip(range(0, len(facets), 2), grid, strict=True):
        row[0].set_ylabel("validation loss (nats/token)")
        of_row = [of_facet for _, of_facet in facets[first : first + 2]]
        if not any(np.isfinite(of_facet["val_loss"]).any() for of_facet in of_row):
            row[0].set_yticks([])  # the default 0…1 would be taken for losses
        if not whole:
            clipped |= _clip(list(zip(row, of_row, strict=False)), loss_ceiling(of_row), colors)
    _add_legends(figure, points, colors)
    style.add_footer(figure, footer(cells, points, table) + ("  ·  ▲ above the axis" if clipped else ""))
    return figure


def facet_key(points: pd.DataFrame) -> list[str]:
    """The columns that choose a panel of the figure: panel, rule, L, and those of the context."""
    return [*FACET, *cell_axes.context_columns(points)]


def _facets(cells: pd.DataFrame, points: pd.DataFrame, key: Sequence[str]) -> list[tuple[dict[str, Any], pd.DataFrame]]:
    """The values of `key` and the points of every panel of the figure, in order.

    Raises:
        UserError: if there are more than `MAX_FACETS`. It names an axis to select from.
    """
    order = {name: {value: i for i, value in enumerate(ordered(points[name]))} for name in key}
    groups = [(dict(zip(key, values, strict=True)), of) for values, of in points.groupby(list(key), sort=False)]
    if len(groups) > MAX_FACETS:
        counts = {name: len(values) for name, values in order.items()}
        most = max(counts, key=lambda name: counts[name])
        first = as_text(next(iter(order[most])))
        raise UserError(
            f"sweep {cells['sweep'].iloc[0]} makes {len(groups)} panels, at most {MAX_FACETS} fit: "
            f"choose some of its {counts[most]} values of {most}, such as --where {most}={first}"
        )
    return sorted(groups, key=lambda one: [order[name][one[0][name]] for name in (key[0], *key[len(FACET) :], *FACET)])


def _paper(n_rows: int, n_columns: int, lanes: int, extra_lines: int = 0) -> tuple[Figure, Any]:
    """Figure and (n_rows, n_columns) axes, laid out in inches, with room above panels for lanes and title lines."""
    panel, title, rate_axis, legend, foot = 1.85, 0.26 + lanes * states.LANE_POINTS / 72, 0.46, 0.3, 0.25
    title += 0.14 * extra_lines
    top, bottom = legend + title, rate_axis + foot + (legend if lanes else 0)
    height = top + n_rows * panel + (n_rows - 1) * (rate_axis + title) + bottom
    figure = Figure(figsize=(style.TEXT_WIDTH, height))
    grid = figure.subplots(n_rows, n_columns, sharey="row", squeeze=False)
    figure.subplots_adjust(0.085, bottom / height, 0.985, 1 - top / height, 0.06, (title + rate_axis) / panel)
    return figure, grid


def panel_title(of_panel: pd.DataFrame) -> str:
    """As in the paper, with the depth of the preset: "(c) L = 24 = 2 L_ref, linear scaling, ε = …".

    The values of the context are on the lines below: "optimizer.weight_decay=0.1".
    """
    first = of_panel.iloc[0]
    depth = depth_text(first["n_layers"], first["depth_multiplier"])
    formula = rules.formula(first["rule"])  # λ = 1
    title = f"({first['panel']}) {depth}, {first['rule']} scaling" + (f", {formula}" if formula else "")
    context = cell_axes.shown({name: first[name] for name in facet_key(of_panel)[len(FACET) :]})
    return "\n".join([title, *textwrap.wrap(context.replace("$", ""), TITLE_WIDTH)])


def footer(cells: pd.DataFrame, points: pd.DataFrame, table: pd.DataFrame) -> str:
    """The records behind the figure: preset, seeds, and how many of the expected points it has."""
    seeds = sorted(set(cells["seed"]))
    drawn = "mean and 95% band" if "margin" in points and points["margin"].notna().any() else "mean"
    finished, diverged, expected = table[["finished", "diverged", "expected"]].sum()
    parts = [
        f"preset {', '.join(sorted(set(cells['preset'])))}",
        f"seed {seeds[0]}" if len(seeds) == 1 else f"{drawn} over seeds {script.seeds_text(seeds)}",
        f"{finished} of {expected} points finished",
        f"{diverged} diverged",
        *script.selected(cells),
        f"sweep {cells['sweep'].iloc[0]}",
    ]
    return "  ·  ".join(parts)


def _draw_rate_axis(axes: Axes, base_lr: "pd.Series[float]", exponent: int) -> None:
    """Ticks at the rates of the grid, in units of 10^exponent, without labels that would collide."""
    rates = sorted(set(base_lr))
    axes.set_xscale("log", base=2)
    margin = 1.08 * (rates[-1] / rates[0]) ** 0.03
    axes.set_xlim(rates[0] / margin, rates[-1] * margin)
    room = math.log2(rates[-1] / rates[0]) / 13  # octaves that a label takes up in a panel of this width
    labels, last = [], -math.inf
    for rate in map(math.log2, rates):
        labels.append(f"{2.0**rate / 10.0**exponent:.3g}" if rate - last >= room else "")
        last = rate if labels[-1] else last
    axes.xaxis.set_major_locator(FixedLocator(rates))
    axes.xaxis.set_major_formatter(FixedFormatter(labels))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(rf"base learning rate $\eta_0$  ($\times 10^{{{exponent}}}$)")


def _draw_curves(axes: Axes, of_panel: pd.DataFrame, colors: dict[int, str]) -> None:
    """A curve per N through its finite losses, dotted where it jumps over a rate that has none, and its band."""
    finite = np.isfinite(of_panel["val_loss"])
    if not finite.any():
        axes.text(0.5, 0.5, "no finite loss yet", transform=axes.transAxes, ha="center", color=style.MUTED)
    for n in sorted(set(of_panel.loc[finite, "n_loops"])):
        curve = of_panel[of_panel["n_loops"] == n]
        losses = curve["val_loss"].where(finite)
        drawn = list[Artist](axes.plot(curve["base_lr"], losses, color=colors[n], marker=style.loop_marker(n)))
        drawn += axes.plot(curve.loc[losses.notna(), "base_lr"], losses.dropna(), color=colors[n], **GAP)
        margin = curve["margin"] if "margin" in curve else pd.Series(math.nan, index=curve.index)
        if margin.notna().any():
            drawn.append(axes.fill_between(curve["base_lr"], losses - margin, losses + margin, color=colors[n], **BAND))
        marks.add(drawn, curve, curve["base_lr"], losses, low=losses - margin, high=losses + margin, name="loss")


def _draw_optima(axes: Axes, of_panel: pd.DataFrame, colors: dict[int, str]) -> None:
    """A star at each optimum (grid), a tick and interval at each optimum (fitted), a line at the rate to transfer."""
    first, last = axes.get_xlim()
    for row in of_panel[of_panel["optimum_lr"].notna()].to_dict("records"):
        if row["n_loops"] == transfer.REFERENCE_LOOPS:
            axes.axvline(row["optimum_lr"], **REFERENCE)
        color = colors[row["n_loops"]]
        drawn = axes.plot([row["optimum_lr"]], [row["optimum_loss"]], **STAR, color=color, markeredgecolor="white")
        drawn += axes.plot([row["fitted_lr"]], [row["fitted_loss"]], **VERTEX, color=color)
        ends = np.clip([row["fitted_lr_low"], row["fitted_lr_high"]], first, last)
        drawn += axes.plot(ends, [row["fitted_loss"]] * 2, **INTERVAL, color=color)
        marks.add(drawn, of_panel[of_panel["n_loops"] == row["n_loops"]])


def loss_ceiling(of_row: Sequence[pd.DataFrame]) -> float:
    """Where the loss axis of a row of panels ends: the highest loss within `NEAR` of its curve's optimum (grid).

    +inf if that would shorten the axis by less than `WORTHWHILE`, or without any finite loss.
    """
    near, spans = [], []
    for _, curve in pd.concat(of_row).groupby([*FACET, "n_loops"]):
        finite = curve[np.isfinite(curve["val_loss"])]
        if len(finite):
            octaves = np.log2(finite["base_lr"] / finite.loc[finite["val_loss"].idxmin(), "base_lr"])
            near.append(finite.loc[octaves.abs() <= NEAR, "val_loss"].max())
            spans.append((finite["val_loss"].min(), finite["val_loss"].max()))
    if not near:
        return math.inf
    low, high = min(low for low, _ in spans), max(high for _, high in spans)
    return float(max(near)) if max(near) - low < (1 - WORTHWHILE) * (high - low) else math.inf


def _clip(row: Sequence[tuple[Axes, pd.DataFrame]], ceiling: float, colors: dict[int, str]) -> bool:
    """End the loss axis of a row at `ceiling` and mark each loss above it. Whether there are any."""
    above = [of_panel[np.isfinite(of_panel["val_loss"]) & (of_panel["val_loss"] > ceiling)] for _, of_panel in row]
    if not any(map(len, above)):
        return False
    low = row[0][0].get_ylim()[0]
    row[0][0].set_ylim(low, ceiling + style.Y_MARGIN * (ceiling - low))
    for (axes, _), points in zip(row, above, strict=True):
        middle = math.sqrt(math.prod(axes.get_xlim()))
        for rate, at_rate in points.groupby("base_lr"):
            right = float(str(rate)) > middle  # the value stands on the side where there is room
            for place, (_, point) in enumerate(at_rate.sort_values("val_loss", ascending=False).iterrows()):
                loss, color = point["val_loss"], colors[point["n_loops"]]
                top = offset_copy(axes.get_xaxis_transform(), axes.figure.figure, y=-3 - 6.5 * place, units="points")
                mark = Line2D([rate], [1.0], color=color, **ABOVE, transform=top)
                axes.add_artist(mark)
                beside: Look = {"xytext": (-4 if right else 4, 0), "ha": "right" if right else "left"}
                text = axes.annotate(f"{loss:.2f}", (rate, 1.0), xycoords=top, color=color, **VALUE, **beside)
                marks.add([mark, text], points.loc[[point.name]], [rate], [1.0], values=[loss], name="loss")
    return True


def _draw_states(axes: Axes, of_panel: pd.DataFrame, lanes: Sequence[int], colors: dict[int, str]) -> None:
    """Above the panel, a lane per N in `lanes`: a mark at each rate that lacks a finite loss of a seed."""
    for lane, n in enumerate(lanes):
        curve = of_panel[of_panel["n_loops"] == n]
        states.draw_lane(axes, curve["base_lr"], curve["state"], colors[n], lane, of=curve)


def _add_legends(figure: Figure, points: pd.DataFrame, colors: dict[int, str]) -> None:
    """On top the curves and the marks of their optima. Below the panels the states, if any point has no result."""
    keys = [Line2D([], [], color=colors[n], marker=style.loop_marker(n), label=f"$N={n}$") for n in colors]
    keys += [
        Line2D([], [], **STAR, color=style.INK, markeredgecolor="white", label="optimum (grid)"),
        Line2D([], [], **VERTEX, color=style.INK, label="optimum (fitted)"),
    ]
    if transfer.REFERENCE_LOOPS in colors:
        keys.append(Line2D([], [], **REFERENCE, label=f"optimum (grid) of $N={transfer.REFERENCE_LOOPS}$"))
    figure.legend(handles=keys, loc="upper center", ncols=len(keys))
    states.add_legend(figure, points["state"], "above a panel, a row per $N$:")


def print_table(table: pd.DataFrame, console: Console) -> None:
    """Print the transfer table: rates as η0, losses and regret in nats per token, shifts in octaves from N = 1."""
    shown = Table(title="Learning-rate transfer: optimum per panel and N", title_justify="left")
    shown.add_column("panel", overflow="fold")
    for heading in ["N", "points", "optimum\n(grid)", "loss", "shift", "regret", "optimum\n(fitted)", "shift"]:
        shown.add_column(heading, justify="right", no_wrap=True)
    shown.add_column("flag")
    previous = None
    key = facet_key(table)
    for row in table.to_dict("records"):
        facet = {name: row[name] for name in key}
        begins_panel = facet != previous
        if begins_panel:
            shown.add_section()
        context = cell_axes.shown({name: row[name] for name in key[len(FACET) :]})
        name = f"{row['panel']} {row['rule']} L={row['n_layers']}" + (f"\n{context}" if context else "")
        shown.add_row(
            name if begins_panel else "",
            str(row["n_loops"]),
            f"{row['finished']}/{row['expected']}",
            _number(row["optimum_lr"], ".3g"),
            _number(row["optimum_loss"], ".4f"),
            _number(row["shift_octaves"], "+.2f"),
            "diverged" if math.isinf(row["regret_nats"]) else estimate_text(row, "regret_nats", ".4f"),
            _number(row["fitted_lr"], ".3g"),
            estimate_text(row, "fitted_shift_octaves", "+.2f"),
            row["flag"],
        )
        previous = facet
    console.print(shown)
    console.print("optimum: base rate η0; shift: octaves from N = 1's; regret: nats per token lost at N = 1's (grid)")
    several = table["seeds"].max() > 1
    console.print("(low…high): 95% intervals, each seed's offset removed" if several else "1 seed, no intervals")


def print_gains(gains: pd.DataFrame, console: Console) -> None:
    """The gain of linear over sqrt at the largest N of each depth that has both."""
    key = cell_axes.context_columns(gains)
    for row in gains.sort_values("n_loops").drop_duplicates([*key, "n_layers"], keep="last").to_dict("records"):
        best, fixed = (estimate_text(row, name, ".4f") for name in ("best_gain_nats", "reference_gain_nats"))
        context = "".join(f"{name}={as_text(row[name])}, " for name in key)
        at = f"linear over sqrt at {context}L = {row['n_layers']:g}, N = {row['n_loops']:g}"
        console.print(f"{at}: {best} nats per token at their optima (grid), {fixed} at N = 1's")


def estimate_text(row: Mapping[Any, Any], name: str, spec: str) -> str:
    """A value of a table with its interval, if it has any width, "0.52 (0.41…0.66)". "-" if there is no value."""
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    interval = "" if math.isnan(low) or low == high else f" ({_number(low, spec)}…{_number(high, spec)})"
    return f"{_number(row[name], spec)}{interval}"


def _number(value: float, spec: str) -> str:
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    return "-" if math.isnan(value) else format(value, spec)


if __name__ == "__main__":
    script.leave(main())
