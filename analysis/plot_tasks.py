"""What more loops buy on a task: how often models answer its questions.

    python analysis/plot_tasks.py [options: see --help]

Accuracy is the share of an answer's tokens that are right, mean over examples. Each architecture, rule, depth and N is
at its best rate, which has the lowest validation loss. Left: accuracy against N. Middle: against the level of a
question (hops, or digits), a line per N; levels right of the dotted line were not trained. Right: against the loops at
test time, on trained levels (solid) and beyond (dashed). Middle and right are of one architecture and rule. Bands are
the range over seeds. tasks.csv has the left panel's numbers, tasks_levels.csv those of the others.
"""

import argparse
from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from rich.console import Console
from rich.table import Table

from analysis.plotting import panels, script, style
from analysis.records import sources
from analysis.stats import accuracy
from sweeper.errors import UserError
from sweeper.records.axes import PLAIN

SCRIPT = script.Script("tasks", __doc__, lays_out=None)
LINE: style.Look = {"linewidth": 1.3, "markersize": 4.0}
FAMILY = ["architecture", "rule", "n_layers"]


def main(argv: Sequence[str] | None = None) -> int:
    """Draw the figure, write its files, print the accuracies. Exit status 0, or 2 on a `UserError`."""
    return script.run(SCRIPT, make, argv)


def make(args: argparse.Namespace, cells: pd.DataFrame) -> script.Drawing:
    """The figure of a sweep's cells, with its numbers."""
    if not accuracy.has_accuracy(cells):
        raise UserError(
            f"sweep {cells['sweep'].iloc[0]} has no accuracy: its data are text, or nothing has finished; "
            "train a task with `make sweep-lr-transfer PRESET=phop_quick`"
        )
    runs = accuracy.at_best_rates(cells)
    table = accuracy.accuracy_table(cells)
    shown = runs[(runs[FAMILY] == _family(table)).all(axis=1)]
    levels = accuracy.level_table(shown, sources.load_readouts(args, shown))
    tables = {"tasks": table, "tasks_levels": levels}
    return script.Drawing(draw(cells, runs, levels), tables, lambda console: print_accuracies(table, console))


def draw(cells: pd.DataFrame, runs: pd.DataFrame, levels: pd.DataFrame) -> Figure:
    """The figure: accuracy against N, against the level, against the loops at test time."""
    frame = panels.Frame(left=0.5, top=0.58, bottom=0.66, between_columns=0.14)
    figure, [[by_count, by_level, by_test]] = panels.panels(1, 3, 1.9, frame, sharey=True)
    counts = sorted(set(runs["n_loops"]))
    colors = style.ordered_colors(counts)
    _draw_by_count(by_count, runs)
    _draw_by_level(by_level, levels, colors)
    _draw_by_test_loops(by_test, levels, colors)
    panels.count_axis(by_count, counts, "loop count $N$")
    by_count.set_ylabel("accuracy")
    by_count.set_ylim(0, 1.03)
    keys = [Line2D([], [], color=colors[n], marker=style.loop_marker(n), **LINE, label=f"$N={n}$") for n in counts]
    by_level.legend(handles=keys, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3, columnspacing=0.9)
    style.add_footer(figure, script.footer(cells, notes=["each at its best rate"]))
    return figure


def _family(table: pd.DataFrame) -> list[object]:
    """The architecture, rule and depth of the middle and right panels: plain under linear at L_ref if it is there."""
    order = table.assign(is_other=(table["architecture"] != PLAIN) | (table["rule"] != "linear"))
    return order.sort_values(["is_other", "n_layers"], kind="stable")[FAMILY].iloc[0].tolist()


def _draw_by_count(axes: Axes, runs: pd.DataFrame) -> None:
    looks = style.rule_looks(runs["rule"])
    of_others = style.stabiliser_looks(zip(runs["architecture"], runs["rule"], strict=True))
    depths = sorted(set(runs["n_layers"]))
    for _, of_line in runs.groupby(FAMILY, sort=False):
        architecture, rule = str(of_line["architecture"].iloc[0]), str(of_line["rule"].iloc[0])
        n_layers = int(of_line["n_layers"].iloc[0])
        look = looks[rule] if architecture == PLAIN else of_others[architecture, rule]
        name = rule if architecture == PLAIN else f"{architecture}, {rule}"
        dashes = {"linestyle": ["-", "--", ":", "-."][depths.index(n_layers) % 4]}
        _band(axes, of_line, "n_loops", accuracy.ACCURACY, {**look, **LINE, **dashes}, f"{name}, $L={n_layers}$")
    axes.legend(loc="lower left", bbox_to_anchor=(-0.04, 1.0), ncols=2, columnspacing=0.9)


def _draw_by_level(axes: Axes, levels: pd.DataFrame, colors: dict[float, str]) -> None:
    own = levels[levels["test_loops"] == levels["n_loops"]]
    for n in sorted(set(own["n_loops"])):
        look = {"color": colors[n], "marker": style.loop_marker(n), **LINE}
        _band(axes, own[own["n_loops"] == n], "level", "accuracy", look)
    axes.set_xticks(sorted(set(own["level"])))
    axes.set_xlabel("level (hops, digits)")
    trained, beyond = (own.loc[own["kind"] == kind, "level"] for kind in ("trained", "beyond"))
    if len(trained) and len(beyond):
        axes.axvline((trained.max() + beyond.min()) / 2, color=style.MUTED, linestyle=":", linewidth=0.9)


def _draw_by_test_loops(axes: Axes, levels: pd.DataFrame, colors: dict[float, str]) -> None:
    means = levels.groupby(["kind", "n_loops", "seed", "test_loops"])["accuracy"].mean().reset_index()
    for kind, linestyle in (("trained", "-"), ("beyond", "--")):
        for n in sorted(set(means["n_loops"])):
            of_count = means[(means["kind"] == kind) & (means["n_loops"] == n)]
            look = {"color": colors[n], "linestyle": linestyle, "linewidth": 1.2}
            _band(axes, of_count, "test_loops", "accuracy", look)
            at_own = of_count.loc[of_count["test_loops"] == n, "accuracy"].mean()
            axes.plot([n], [at_own], color=colors[n], marker=style.loop_marker(n), markersize=5)
    if len(levels):
        tested = sorted(set(levels["test_loops"]))
        panels.count_axis(axes, tested, r"loops at test time $N_\mathrm{test}$")
        ticks = [n for n in tested if n & (n - 1) == 0]
        axes.set_xticks(ticks, list(map(str, ticks)))
    keys = [
        Line2D([], [], color=style.INK, linestyle="-", label="trained levels"),
        Line2D([], [], color=style.INK, linestyle="--", label="beyond"),
    ]
    axes.legend(handles=keys, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, columnspacing=0.9)


def _band(axes: Axes, rows: pd.DataFrame, x: str, y: str, look: style.Look, label: str | None = None) -> None:
    """A line through the means over seeds, and a band over their range."""
    grouped = rows.dropna(subset=y).groupby(x)[y]
    mean, low, high = grouped.mean(), grouped.min(), grouped.max()
    at = mean.index.to_numpy(dtype=float)
    axes.plot(at, mean.to_numpy(), label=label, **look)
    axes.fill_between(at, low.to_numpy(), high.to_numpy(), color=look["color"], alpha=0.18, linewidth=0)


def print_accuracies(table: pd.DataFrame, console: Console) -> None:
    """Print a row per curve: best rate, loss, accuracy, exact match."""
    shown = Table("architecture", "rule", "L", "N", "best rate", "val loss", "accuracy", "exact match", "seeds")
    for row in table.to_dict("records"):
        curve = (row["architecture"], row["rule"], str(row["n_layers"]), str(row["n_loops"]), f"{row['base_lr']:g}")
        numbers = (f"{row[name]:.3f}" for name in ("val_loss", "accuracy", "exact_match"))
        shown.add_row(*curve, *numbers, str(row["seeds"]))
    console.print(shown)


if __name__ == "__main__":
    script.leave(main())
