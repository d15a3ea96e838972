"""Collapse and calm: loss, stream norms and gradient norm over the first steps of training, a line per stabiliser.

    python analysis/plot_stability.py [--stabilisers core|all|ARCHITECTURE/RULE,…] [--rate best|base|VALUE]
                                      [--loops N,…] [options: see --help]

Each run is at the best rate of its stabiliser and N, unless `--rate` says otherwise. A line is one run, the median of
a few steps at each point. Norms of the stream are means over tokens at the end of a loop. Those of every loop are of
the first seed. stability.csv has the lines, stability-loops.csv the norms of every loop, stability-runs.csv every run.
"""

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator
from rich.console import Console
from rich.table import Table

from analysis.plotting import marks, panels, script, stabilisers, states, style, trained
from analysis.plotting.stabilisers import Stabiliser
from analysis.records import sources
from analysis.stats import instability
from analysis.stats.collapse import STABILISER
from analysis.stats.stabilisers import COLLAPSED, CURVE, best_table, of_sweep
from sweeper.errors import UserError

SCRIPT = script.Script("stability", __doc__, lays_out=None)
FIRST_STEPS = 2000  # the second paper's window, and what runs record
POINTS = 150  # of a line at most
SHOWN_LOOPS = (6, 9, 12)
RUN = [*STABILISER, "n_loops", "base_lr", "seed", "fate", "run_id"]
MEASURES = ("norm_growth_decades", "grad_norm_std")
OVERLAYS = {"loss": "training loss\n(nats/token)", "norm": "stream norm,\nlast loop"}
NAMED_VALUES = {"loss": "training loss", "norm": "stream norm"}
POINTED = 8  # of the steps of a line, every so many can be pointed at in the report
PER_ROW, LEGEND_COLUMNS = 8, 5
LEFT, BAR_ROOM, TALL, SHORT, GAP, NAMED = 0.72, 0.62, 1.25, 0.78, 0.08, 0.32  # inches
END: style.Look = {"marker": "x", "markersize": 4.5, "markeredgewidth": 1.2, "linestyle": "none", "zorder": 5}
FILL: style.Look = {"alpha": 0.3, "linewidth": 0}
GREY: style.Look = {"fontsize": 6.5, "color": style.MUTED}
SMALL: style.Look = {"ha": "right", "va": "top", "fontsize": 6.0, "color": style.MUTED}


def main(argv: Sequence[str] | None = None) -> int:
    """Draw the figure, write its files, print a line per run. Exit status 0, or 2 on a `UserError`."""
    return script.run(SCRIPT, make, argv, add_options)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Which runs to draw."""
    stabilisers.add_options(parser, "core")
    stabilisers.add_rate_option(parser)
    text = f"loop counts, a column each (default: those of {', '.join(map(str, SHOWN_LOOPS))} that the sweep has)"
    parser.add_argument("--loops", metavar="N,…", help=text)


def make(args: argparse.Namespace, cells: pd.DataFrame) -> script.Drawing:
    """The figure of a sweep's cells, with its numbers."""
    whole = stabilisers.select(of_sweep(cells), args.stabilisers)
    runs = stabilisers.at_rate(whole, best_table(whole), args.rate)
    runs = runs[runs["n_loops"].isin(shown_loops(runs, args.loops))].reset_index(drop=True)
    curves = first_steps(runs, sources.load_curves(args, runs))
    lines, norms = binned(runs, curves), loop_norms(runs, curves)
    summary = summarised(runs, curves)
    figure = draw(runs, lines, norms)
    tables = {"stability": lines, "stability-loops": norms, "stability-runs": summary}
    return script.Drawing(figure, tables, lambda console: print_runs(summary, console))


def shown_loops(runs: pd.DataFrame, option: str | None) -> list[int]:
    """The loop counts of option `--loops`.

    Raises:
        UserError: for a count that is not in the sweep.
    """
    known = sorted(set(runs["n_loops"]))
    if option is None:
        return [n for n in SHOWN_LOOPS if n in known] or known[-3:]
    texts = [text.strip() for text in option.split(",")]
    if unknown := [text for text in texts if text not in map(str, known)]:
        raise UserError(f"--loops: {unknown[0]!r} is not in this sweep; choose of {', '.join(map(str, known))}")
    return sorted({int(text) for text in texts})


def first_steps(runs: pd.DataFrame, curves: pd.DataFrame) -> pd.DataFrame:
    """The metrics of the first steps of the runs, with the columns loss, grad_norm and stream_norm_1 … in any case."""
    norms = [f"stream_norm_{i}" for i in range(1, int(runs["n_loops"].max()) + 1)]
    columns = ["run_id", "step", "base_lr", "loss", "grad_norm", *norms]
    chosen = curves[curves["run_id"].isin(runs["run_id"]) & (curves["step"] <= FIRST_STEPS)]
    return chosen.reindex(columns=columns).sort_values(["run_id", "step"], ignore_index=True)


def binned(runs: pd.DataFrame, curves: pd.DataFrame) -> pd.DataFrame:
    """Medians over at most `POINTS` intervals of steps, per run: `loss`, `norm` of the last loop, `grad_norm`.

    `grad_norm_low` and `_high` are its range there. A run without any step has one row of NaN.
    """
    width = max(1, math.ceil((curves["step"].max() + 1) / POINTS)) if len(curves) else 1
    loops = curves["run_id"].map(dict(zip(runs["run_id"], runs["n_loops"], strict=True)))
    last = pd.Series(math.nan, index=curves.index)
    for n in set(runs["n_loops"]):
        last = last.mask(loops == n, curves[f"stream_norm_{n}"])
    middle = (curves["step"] // width * width + width // 2).clip(upper=curves["step"].max())
    finite = curves.assign(norm=last, step=middle).replace([np.inf, -np.inf], math.nan)
    grouped = finite.groupby(["run_id", "step"])
    table = grouped[["loss", "norm", "grad_norm"]].median()
    table["grad_norm_low"], table["grad_norm_high"] = grouped["grad_norm"].min(), grouped["grad_norm"].max()
    return runs[RUN].merge(table.reset_index(), on="run_id", how="left")


def loop_norms(runs: pd.DataFrame, curves: pd.DataFrame) -> pd.DataFrame:
    """A row per run, step and loop: `norm` of the stream at the end of the loop, where it was recorded."""
    norms = {f"stream_norm_{i}": i for i in range(1, int(runs["n_loops"].max()) + 1)}
    long = curves.melt(["run_id", "step"], list(norms), "loop", "norm").dropna(subset="norm")
    long["loop"] = long["loop"].map(norms).astype("int64")
    table = runs[RUN].merge(long, on="run_id", how="inner")
    return table.sort_values(["run_id", "step", "loop"], ignore_index=True)


def summarised(runs: pd.DataFrame, curves: pd.DataFrame) -> pd.DataFrame:
    """A row per run: result, and `norm_growth_decades` and `grad_norm_std` as in `analysis.stats.instability`."""
    by_run = dict(iter(curves.groupby("run_id")))
    rows = []
    for run in runs.to_dict("records"):
        lines = by_run.get(run["run_id"], curves.iloc[:0])
        growth = instability.growth_over_loops(lines, run["n_loops"])
        deviation, *_ = instability.oscillation(lines, run["base_lr"])
        rows.append(
            {name: run[name] for name in [*RUN, "val_loss"]} | dict(zip(MEASURES, (growth, deviation), strict=True))
        )
    return pd.DataFrame(rows, columns=[*RUN, "val_loss", *MEASURES])


def draw(runs: pd.DataFrame, lines: pd.DataFrame, norms: pd.DataFrame) -> Figure:
    """The figure: losses and norms with a column per N, then norms by loop and gradient norms per stabiliser."""
    names = list(dict.fromkeys(zip(runs["architecture"], runs["rule"], strict=True)))
    counts = sorted(set(runs["n_loops"]))
    looks = style.stabiliser_looks(names)
    page = _Page.of(len(counts), len(names))
    figure = Figure(figsize=(style.TEXT_WIDTH, page.height))
    _draw_overlays(figure, page, runs, lines, looks)
    last_step = lines["step"].max() if lines["step"].notna().any() else 1.0
    _draw_loops(figure, page, norms, looks, counts[-1], last_step)
    _draw_gradients(figure, page, counts, lines, looks, last_step)
    keys = [Line2D([], [], **_line_of(look), label=stabilisers.name(one)) for one, look in looks.items()]
    if (runs["fate"] == COLLAPSED).any():
        keys.append(Line2D([], [], **END, color=style.INK, label="collapsed"))
    figure.legend(handles=keys, loc="upper center", ncols=min(len(keys), LEGEND_COLUMNS))
    seeds = sorted(set(runs["seed"]))
    replicas = f"seed {seeds[0]}" if len(seeds) == 1 else f"a line per seed, {script.seeds_text(seeds)}"
    rates = "each at its best rate" if runs.groupby(CURVE)["base_lr"].first().nunique() > 1 else trained.rate_text(runs)
    style.add_footer(figure, stabilisers.footer(runs, [rates], replicas))
    return figure


@dataclass(frozen=True)
class _Page:
    """Inches from the top at which the rows of panels begin."""

    n_counts: int
    n_names: int
    overlays: float
    loops: float
    gradients: float
    height: float

    @classmethod
    def of(cls, n_counts: int, n_names: int) -> "_Page":
        overlays = 0.2 * math.ceil((n_names + 1) / LEGEND_COLUMNS) + 0.32
        bands = math.ceil(n_names / PER_ROW)
        loops = overlays + len(OVERLAYS) * (TALL + GAP) + 0.95
        gradients = loops + bands * (SHORT + NAMED) + 0.42
        height = gradients + bands * (n_counts * (SHORT + GAP) + NAMED) + 0.3
        return cls(n_counts, n_names, overlays, loops, gradients, height)

    @property
    def n_columns(self) -> int:
        """Of small panels."""
        return min(max(self.n_names, 4), PER_ROW)

    def small(self, figure: Figure, top: float, between: float, shared: Axes | None) -> list[Axes]:
        """A panel per stabiliser, all with the axes of `shared`, or of the first of them."""
        found: list[Axes] = []
        columns = panels.across(self.n_columns, LEFT, BAR_ROOM, 0.07)
        for number in range(self.n_names):
            row, column = divmod(number, self.n_columns)
            left, width = columns[column]
            first = shared or (found[0] if found else None)
            axes = panels.placed(figure, panels.Place(left, top + row * between, width, SHORT), first, first)
            axes.tick_params(labelleft=column == 0)
            found.append(axes)
        return found


def _line_of(look: style.Look) -> style.Look:
    return {"color": look["color"], "linestyle": look["linestyle"]}


def _draw_overlays(
    figure: Figure, page: _Page, runs: pd.DataFrame, lines: pd.DataFrame, looks: dict[Stabiliser, style.Look]
) -> None:
    """Loss and norm of the last loop, all stabilisers in one panel, a column per N."""
    counts = sorted(set(runs["n_loops"]))
    columns = panels.across(len(counts), LEFT, 0.1, 0.12)
    first: Axes | None = None
    for row, (quantity, label) in enumerate(OVERLAYS.items()):
        left_axes: Axes | None = None
        for column, ((left, width), n) in enumerate(zip(columns, counts, strict=True)):
            place = panels.Place(left, page.overlays + row * (TALL + GAP), width, TALL)
            axes = panels.placed(figure, place, sharex=first, sharey=left_axes)
            first, left_axes = first or axes, left_axes or axes
            axes.tick_params(labelleft=column == 0, labelbottom=row == len(OVERLAYS) - 1)
            of_count = lines[lines["n_loops"] == n]
            _draw_lines(axes, of_count, quantity, looks)
            is_empty = bool(of_count[quantity].isna().all())
            if is_empty:
                states.say(axes, runs.loc[runs["n_loops"] == n, "state"], otherwise="not recorded")
            if row == 0:
                axes.set_title(f"({'abcdefgh'[column]}) $N={n}$", loc="left")
                if not is_empty:
                    _say_missing(axes, runs[runs["n_loops"] == n])
            else:
                axes.set_xlabel("optimizer step")
                axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        assert left_axes is not None
        left_axes.set_ylabel(label)
        _value_axis(left_axes, lines[quantity], is_log=quantity == "norm")


def _draw_lines(axes: Axes, lines: pd.DataFrame, quantity: str, looks: dict[Stabiliser, style.Look]) -> None:
    """A line per run, and a cross at the end of a collapsed one."""
    for (architecture, rule, _), line in lines.groupby(["architecture", "rule", "run_id"], sort=False):
        look = looks[str(architecture), str(rule)]
        known = line[line[quantity].notna()]
        drawn = axes.plot(known["step"], known[quantity], **_line_of(look), linewidth=0.9)
        if len(known) and line["fate"].iloc[0] == COLLAPSED:
            drawn += axes.plot(known["step"].iloc[-1:], known[quantity].iloc[-1:], **END, color=look["color"])
        pointed = known.iloc[::POINTED]
        marks.add(drawn, pointed, pointed["step"], pointed[quantity], name=NAMED_VALUES[quantity])


def _say_missing(axes: Axes, runs: pd.DataFrame) -> None:
    """In a corner, the runs that have not finished. What they have recorded is drawn."""
    unfinished = runs[~runs["fate"].isin(["done", COLLAPSED])]
    texts = [
        f"{stabilisers.name((str(architecture), str(rule)))}: {states.count_text(of_one['fate'])}"
        for (architecture, rule), of_one in unfinished.groupby(STABILISER, sort=False)
    ]
    if texts:
        axes.text(0.98, 0.97, "\n".join(texts), transform=axes.transAxes, **SMALL)


def _draw_loops(
    figure: Figure, page: _Page, norms: pd.DataFrame, looks: dict[Stabiliser, style.Look], n: int, last_step: float
) -> None:
    """The norm at the end of each loop, for one seed."""
    _heading(figure, page.loops, f"({'abcdefgh'[page.n_counts]}) stream norm at the end of each loop, $N={n}$")
    small = page.small(figure, page.loops, SHORT + NAMED, None)
    colors = style.ordered_colors(range(1, n + 1))
    of_count = norms[norms["n_loops"] == n]
    for axes, (one, look) in zip(small, looks.items(), strict=True):
        of_one = of_count[(of_count["architecture"] == one[0]) & (of_count["rule"] == one[1])]
        for loop, line in of_one[of_one["seed"] == of_one["seed"].min()].groupby("loop"):
            axes.plot(line["step"], line["norm"], color=colors[int(str(loop))], linewidth=0.8)
        _name(axes, one, look, is_empty=of_one.empty)
    _step_axis(small[0], last_step)
    _value_axis(small[0], of_count["norm"], is_log=True)
    if len(of_count):
        edges = [loop + 0.5 for loop in (0.0, *colors)]
        scale = ScalarMappable(BoundaryNorm(edges, n), ListedColormap(list(colors.values())))
        bar_axes = panels.side_axes(figure, small[min(len(small), page.n_columns) - 1])
        bar = figure.colorbar(scale, cax=bar_axes, ticks=[1, n], label="loop")
        bar.outline.set_visible(False)
        bar.ax.tick_params(length=0)
        bar.ax.minorticks_off()


def _draw_gradients(
    figure: Figure,
    page: _Page,
    counts: Sequence[int],
    lines: pd.DataFrame,
    looks: dict[Stabiliser, style.Look],
    last_step: float,
) -> None:
    """Median and range of the gradient norm, a row per N."""
    text = "gradient norm before clipping, median and range of a few steps"
    _heading(figure, page.gradients, f"({'abcdefgh'[page.n_counts + 1]}) {text}")
    first: Axes | None = None
    for row, n in enumerate(counts):
        top, band = page.gradients + row * (SHORT + GAP), len(counts) * (SHORT + GAP) + NAMED
        small = page.small(figure, top, band, first)
        first = first or small[0]
        of_count = lines[(lines["n_loops"] == n) & lines["grad_norm"].notna()]
        for number, (axes, (one, look)) in enumerate(zip(small, looks.items(), strict=True)):
            of_one = of_count[(of_count["architecture"] == one[0]) & (of_count["rule"] == one[1])]
            for _, line in of_one.groupby("run_id", sort=False):
                low, high = line["grad_norm_low"], line["grad_norm_high"]
                axes.fill_between(line["step"], low, high, color=look["color"], **FILL)
                axes.plot(line["step"], line["grad_norm"], color=look["color"], linewidth=0.7)
            _name(axes, one if row == 0 else None, look, is_empty=of_one.empty)
            axes.tick_params(labelbottom=row == len(counts) - 1)
            if number % page.n_columns == 0:
                axes.set_ylabel(f"$N={n}$")
    assert first is not None
    _step_axis(first, last_step)
    _value_axis(first, lines["grad_norm"], is_log=True)


def _value_axis(axes: Axes, values: "pd.Series[float]", *, is_log: bool) -> None:
    if values.isna().all():
        axes.set_yticks([])  # the default ones would be taken for measured values
    elif is_log:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(numticks=6))
        panels.log_ticks(axes, has_data=True)


def _step_axis(axes: Axes, last: float) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(2, integer=True))
    axes.set_xlim(-0.04 * last, 1.04 * last)


def _name(axes: Axes, one: Stabiliser | None, look: style.Look, *, is_empty: bool) -> None:
    if one is not None:
        panels.title(axes, stabilisers.name(one), pad=3, color=look["color"], fontsize=7.0)
    if is_empty:
        axes.text(0.5, 0.5, "none", transform=axes.transAxes, ha="center", va="center", **GREY)


def _heading(figure: Figure, top: float, text: str) -> None:
    figure.text(LEFT / style.TEXT_WIDTH, 1 - (top - 0.27) / figure.get_figheight(), text, fontsize=8.5, va="bottom")


def print_runs(summary: pd.DataFrame, console: Console) -> None:
    """Print a line per stabiliser and N: means over seeds."""
    shown = Table(
        "stabiliser", "N", "η0", "seeds", "collapsed", "loss", "norm over loops (decades)", "std of gradient norm"
    )
    for (architecture, rule, n), of_cell in summary.groupby([*STABILISER, "n_loops"], sort=False):
        numbers = [of_cell[name].mean() for name in ("val_loss", *MEASURES)]
        collapsed = int((of_cell["fate"] == COLLAPSED).sum())
        texts = ["-" if math.isnan(value) else f"{value:.3g}" for value in numbers]
        shown.add_row(
            stabilisers.name((str(architecture), str(rule))),
            str(n),
            f"{of_cell['base_lr'].iloc[0]:g}",
            str(len(of_cell)),
            str(collapsed),
            *texts,
        )
    console.print(shown)


if __name__ == "__main__":
    script.leave(main())
