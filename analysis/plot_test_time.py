"""How does a trained model do with other loop counts than it was trained with?

    python analysis/plot_test_time.py [--stabilisers all|core|ARCHITECTURE/RULE,…] [--rate best|base|VALUE]
                                      [options: see --help]

Validation loss against N_test, the loops at test time: a panel per stabiliser, a line per N that models were trained
at, mean over seeds with their range. A large mark stands at N_test = N. Each run is at the best rate of its stabiliser
and N, unless `--rate` says otherwise. test_time.csv has the loss of every run at every N_test.
"""

import argparse
import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import blended_transform_factory
from rich.console import Console
from rich.table import Table

from analysis.plotting import marks, panels, script, stabilisers, states, style, trained
from analysis.records import sources
from analysis.stats.collapse import STABILISER
from analysis.stats.stabilisers import COLLAPSED, CURVE, best_table, of_sweep

SCRIPT = script.Script("test_time", __doc__, lays_out=None)
READOUT = "test_loss"
RUN = [*STABILISER, "n_loops", "base_lr", "seed", "fate", "run_id"]
COLUMNS = 5  # of panels at most
ABOVE_ENTROPY = 0.4  # nats per token; higher losses are marked at the top of their panel
TICKS = (1, 3, 6, 12, 24)
LINE: style.Look = {"linewidth": 1.1, "markersize": 2.4, "zorder": 3}
OWN: style.Look = {
    "markersize": 6.0,
    "markeredgecolor": "white",
    "markeredgewidth": 0.6,
    "linestyle": "none",
    "zorder": 5,
}
OUTSIDE: style.Look = {"marker": "^", "markersize": 3.5, "linestyle": "none", "zorder": 4, "clip_on": False}
ENTROPY: style.Look = {"color": style.MUTED, "linewidth": 0.8, "linestyle": (0, (1, 1.5)), "zorder": 1}
BEHIND = {"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 0.5}
SMALL: style.Look = {"ha": "center", "va": "top", "fontsize": 6.0, "color": style.MUTED, "bbox": BEHIND, "zorder": 6}


def main(argv: Sequence[str] | None = None) -> int:
    """Draw the figure, write its files, print what other loop counts cost. Exit status 0, or 2 on a `UserError`."""
    return script.run(SCRIPT, make, argv, add_options)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Which runs to draw."""
    stabilisers.add_options(parser, "all")
    stabilisers.add_rate_option(parser)


def make(args: argparse.Namespace, cells: pd.DataFrame) -> script.Drawing:
    """The figure of a sweep's cells, with its numbers."""
    whole = stabilisers.select(of_sweep(cells), args.stabilisers)
    runs = stabilisers.at_rate(whole, best_table(whole), args.rate)
    losses = test_losses(runs, sources.load_readouts(args, runs))
    tables = {"test_time": losses}
    return script.Drawing(draw(runs, losses), tables, lambda console: print_costs(losses, console))


def test_losses(runs: pd.DataFrame, readouts: pd.DataFrame) -> pd.DataFrame:
    """A row per run and N_test, `test_loops`: the validation loss `test_loss`. One row of NaN for a run without any."""
    rows = readouts[readouts["readout"] == READOUT].rename(columns={"i": "test_loops", "mean": "test_loss"})
    rows = rows[rows["run_id"].isin(runs.loc[runs["state"] == "done", "run_id"])]
    columns = ["run_id", "test_loops", "test_loss"]
    table = runs[RUN].merge(rows[columns], on="run_id", how="left").astype({"test_loops": "Int64"})
    entropy = runs.get("unigram_entropy", pd.Series(math.nan, index=runs.index)).median()
    return table.assign(unigram_entropy=entropy)


def draw(runs: pd.DataFrame, losses: pd.DataFrame) -> Figure:
    """The figure: a panel per stabiliser, all with one loss axis."""
    names = list(dict.fromkeys(zip(runs["architecture"], runs["rule"], strict=True)))
    counts = sorted(set(runs["n_loops"]))
    colors, looks = style.ordered_colors(counts), style.stabiliser_looks(names)
    rows = math.ceil(len(names) / COLUMNS)
    columns = math.ceil(len(names) / rows)
    frame = panels.Frame(left=0.68, top=0.52, bottom=0.68, between_columns=0.1, between_rows=0.32)
    figure, grid = panels.panels(rows, columns, 1.3, frame, sharey=True)
    low, high = limits(losses)
    tested = losses["test_loops"].dropna()
    for axes, one in zip(grid.flat, names, strict=False):
        axes.set_ylim(low, high)
        of_one = losses[(losses["architecture"] == one[0]) & (losses["rule"] == one[1])]
        _draw_panel(axes, of_one, colors, high)
        axes.axhline(losses["unigram_entropy"].iloc[0], **ENTROPY)
        panels.title(axes, stabilisers.name(one), pad=5, color=looks[one]["color"], fontsize=7.5)
        axes.set_xscale("log", base=2)
        _test_axis(axes, tested)
        _say_missing(axes, runs[(runs["architecture"] == one[0]) & (runs["rule"] == one[1])], of_one)
    for number, axes in enumerate(grid.flat):
        if number >= len(names):
            axes.set_axis_off()
        axes.tick_params(labelbottom=number + columns >= len(names))
        if number + columns >= len(names):
            axes.set_xlabel(r"loops at test time $N_\mathrm{test}$" if columns < 4 else r"$N_\mathrm{test}$")
    for row in grid:
        row[0].set_ylabel("validation loss\n(nats/token)")
        if losses["test_loss"].isna().all():
            row[0].set_yticks([])  # the default ones would be taken for losses
    _add_legend(figure, colors)
    seeds = sorted(set(runs["seed"]))
    replicas = f"seed {seeds[0]}" if len(seeds) == 1 else f"mean and range over seeds {script.seeds_text(seeds)}"
    rates = "each at its best rate" if runs.groupby(CURVE)["base_lr"].first().nunique() > 1 else trained.rate_text(runs)
    style.add_footer(figure, stabilisers.footer(runs, [rates], replicas))
    return figure


def limits(losses: pd.DataFrame) -> tuple[float, float]:
    """The loss axis: every loss at N_test = N, and others up to `ABOVE_ENTROPY` above the unigram entropy."""
    finite = losses["test_loss"].replace([np.inf, -np.inf], math.nan)
    if finite.isna().all():
        return 0.0, 1.0
    own = finite[(losses["test_loops"] == losses["n_loops"]).fillna(False)]
    entropy = losses["unigram_entropy"].iloc[0]
    high = float(finite.max())
    if not math.isnan(entropy):
        high = min(high, max(float(own.max()), entropy + ABOVE_ENTROPY))
    room = 0.06 * (high - float(finite.min()))
    return float(finite.min()) - room, high + room


def _test_axis(axes: Axes, tested: "pd.Series[int]") -> None:
    if tested.empty:
        axes.set_xticks([])
        return
    first, last = int(tested.min()), int(tested.max())
    axes.set_xlim(first / 1.2, last * 1.2)
    ticks = [n for n in TICKS if first <= n <= last]
    axes.set_xticks(ticks, list(map(str, ticks)))
    axes.minorticks_off()


def _draw_panel(axes: Axes, losses: pd.DataFrame, colors: dict[float, str], high: float) -> None:
    """A line per N with the range over seeds, a large mark at N_test = N, and triangles for losses beyond the panel."""
    at_top = blended_transform_factory(axes.transData, axes.transAxes)
    for n in sorted(set(losses["n_loops"])):
        of_count = losses[(losses["n_loops"] == n) & losses["test_loss"].notna()]
        if of_count.empty:
            continue
        grouped = of_count.groupby("test_loops")["test_loss"]
        x = grouped.mean().index.to_numpy(dtype=float)
        mean, low, top = (
            of.replace(np.inf, math.nan).to_numpy() for of in (grouped.mean(), grouped.min(), grouped.max())
        )
        drawn = list[Artist](axes.plot(x, mean, color=colors[n], marker="o", **LINE))
        drawn.append(axes.fill_between(x, low, top, color=colors[n], alpha=0.2, linewidth=0))
        beyond = ~(mean <= high)
        drawn += axes.plot(x[beyond], np.ones(beyond.sum()), color=colors[n], transform=at_top, **OUTSIDE)
        own = x == n
        collapsed = (of_count["fate"] == COLLAPSED).any()
        marker = "X" if collapsed else style.loop_marker(n)
        drawn += axes.plot(x[own], mean[own], color=colors[n], marker=marker, **OWN)
        of = of_count[["architecture", "rule", "n_loops", "base_lr"]].iloc[[0] * len(x)]
        marks.add(drawn, of, x, np.where(beyond, math.nan, mean), name="loss")


def _say_missing(axes: Axes, runs: pd.DataFrame, losses: pd.DataFrame) -> None:
    """On top, the runs without losses, and why."""
    without = runs[runs["run_id"].isin(losses.loc[losses["test_loss"].isna(), "run_id"])]
    texts = []
    for n, of_count in without.groupby("n_loops"):
        why = states.count_text(of_count["fate"]) or "no read-outs"
        texts.append(f"$N={n}$: {why}")
    if texts:
        axes.text(0.5, 0.98, "\n".join(texts), transform=axes.transAxes, **SMALL)


def _add_legend(figure: Figure, colors: dict[float, str]) -> None:
    keys = [Line2D([], [], linestyle="none", label="trained at")]
    keys += [
        Line2D([], [], color=color, marker=style.loop_marker(int(n)), markersize=5, label=f"$N={n:g}$")
        for n, color in colors.items()
    ]
    keys += [
        Line2D([], [], color=style.INK, marker="X", markersize=5, linestyle="none", label="collapsed"),
        Line2D([], [], **ENTROPY, label="unigram entropy"),
        Line2D([], [], color=style.INK, **OUTSIDE, label="beyond"),
    ]
    figure.legend(handles=keys, loc="upper center", ncols=len(keys))


def print_costs(losses: pd.DataFrame, console: Console) -> None:
    """Print, per stabiliser and N, the nats that each N_test adds to the loss at N_test = N, mean over seeds."""
    tested = sorted(set(losses["test_loops"].dropna()))
    shown = Table("stabiliser", "N", "loss", *(f"{n}" for n in tested), title="Nats added at N_test loops")
    for (architecture, rule, n), of_cell in losses.groupby(CURVE, sort=False):
        mean = of_cell.groupby("test_loops")["test_loss"].mean()
        own = mean.get(n, math.nan)
        texts = [_text(mean.get(i, math.nan) - own, "+.2f") for i in tested]
        shown.add_row(stabilisers.name((str(architecture), str(rule))), str(n), _text(own, ".3f"), *texts)
    console.print(shown)


def _text(value: float, form: str) -> str:
    return "" if math.isnan(value) else f"{value:{form}}"


if __name__ == "__main__":
    script.leave(main())
