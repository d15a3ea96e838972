"""The part of a figure's script around its drawing: options, files, progress, errors in one line."""

import argparse
import gc
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

import pandas as pd
from matplotlib.figure import Figure
from rich.console import Console

from analysis import figures
from analysis.plotting import marks, style
from analysis.records import cell_axes, sources
from analysis.stats.transfer import FINISHED
from sweeper.errors import UserError
from sweeper.files import check_writable


@dataclass(frozen=True)
class Script:
    """A figure's script.

    Attributes:
        name: of its files, such as `fig4`; the script is `plot_<name>.py`.
        doc: the module's docstring, whose first line `--help` shows.
        lays_out: the columns that determine the place of a cell in the figure, see `cell_axes.refuse_beyond`. None if
            the figure shows every axis.
    """

    name: str
    doc: str | None
    lays_out: Sequence[str] | None = tuple(cell_axes.BASE)

    @property
    def experiment(self) -> str:
        """The newest sweep of this experiment is drawn."""
        return figures.row(self.name).experiment

    @property
    def make_command(self) -> str:
        """Starts and continues that experiment."""
        return figures.row(self.name).command


@dataclass(frozen=True)
class Drawing:
    """The output of a script: the figure, its numbers by name of their CSV, and a summary in words."""

    figure: Figure
    tables: Mapping[str, pd.DataFrame]
    print_summary: Callable[[Console], None]


def run(
    script: Script,
    make: Callable[[argparse.Namespace, pd.DataFrame], Drawing],
    argv: Sequence[str] | None,
    add_options: Callable[[argparse.ArgumentParser], None] | None = None,
) -> int:
    """Read the sweep's cells, draw them with `make(args, cells)`, write its files and print the rest.

    Returns the exit status: 0, or 2 on a `UserError`.
    """
    parser = argparse.ArgumentParser(prog=f"plot_{script.name}.py", description=(script.doc or "").split("\n", 1)[0])
    sources.add_arguments(parser)
    if add_options is not None:
        add_options(parser)
    try:
        args = parser.parse_args(argv)
        check_writable(f"--out {args.out}", args.out)
        cells = sources.load_cells(args, script.experiment, script.make_command)
        if script.lays_out is not None:
            cell_axes.refuse_beyond(cells, script.lays_out)
        with style.context():
            drawing = make(args, cells)
            recorded = marks.record(drawing.figure, cells)  # names artists, so before they are drawn
            files = style.save(drawing.figure, args.out, script.name, [one for one in args.formats if one != "json"])
        if "json" in args.formats:
            files.append(style.save_json(recorded, args.out, script.name))
        files += [style.save_csv(table, args.out, name) for name, table in drawing.tables.items()]
        sources.log_figure(args, cells, files)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 120
    drawing.print_summary(console)
    _print_progress(script, cells, console, can_continue=sources.reads_runs(args))
    console.print(f"wrote {', '.join(map(str, files))}", soft_wrap=True)
    return 0


def leave(status: int) -> NoReturn:
    """End the process. Garbage collection is switched off for its objects, because it would take 0.3 s at exit."""
    gc.freeze()
    sys.exit(status)


def _print_progress(script: Script, cells: pd.DataFrame, console: Console, *, can_continue: bool) -> None:
    """Print how much of the grid has a result and, if the rest can still be run, the command for it."""
    counts = cells["state"].value_counts()
    states = ", ".join(f"{counts[state]} {state}" for state in sources.STATES if state in counts)
    console.print(f"{cells['sweep'].iloc[0]}: {states}")
    unfinished = len(cells) - int(cells["state"].isin(FINISHED).sum())
    if unfinished and can_continue:
        first = cells.iloc[0]
        is_plain = first["sweep"] == f"{script.experiment}-{first['preset']}"
        command = f"`{script.make_command} PRESET={first['preset']}`" if is_plain else "the command that made the sweep"
        console.print(f"{unfinished} of {len(cells)} have no result yet: {command} continues")


def footer(cells: pd.DataFrame, replicas: str | None = None, notes: Sequence[str] = ()) -> str:
    """The records behind a figure: preset, seeds, how many of the expected points it has, and `notes`.

    `replicas` replaces the seeds in a figure that averages over something else.
    """
    finished, diverged = int(cells["state"].isin(FINISHED).sum()), int((cells["state"] == "diverged").sum())
    parts = [
        f"preset {', '.join(sorted(set(cells['preset'])))}",
        replicas or _replicas(cells),
        f"{finished} of {len(cells)} points finished" + (f", {diverged} diverged" if diverged else ""),
        *notes,
        *selected(cells),
        f"sweep {cells['sweep'].iloc[0]}",
    ]
    return "  ·  ".join(parts)


def selected(cells: pd.DataFrame) -> list[str]:
    """The extra axes with one value in all cells, as text for a footer."""
    fixed = [name for name in cell_axes.extra_axes(cells) if cells[name].nunique() == 1]
    return [cell_axes.shown({name: cells[name].iloc[0]}) for name in fixed]


def _replicas(cells: pd.DataFrame) -> str:
    """The seeds of the points, panel by panel if the panels differ."""
    panels: dict[tuple[int, ...], str] = {}
    for panel, of_panel in cells.groupby("panel"):
        seeds = tuple(sorted(set(of_panel["seed"])))
        panels[seeds] = panels.get(seeds, "") + str(panel)[-1]
    if len(panels) > 1:
        return "mean over seeds " + ", ".join(f"{seeds_text(seeds)} ({letters})" for seeds, letters in panels.items())
    (seeds,) = panels
    return f"seed {seeds[0]}" if len(seeds) == 1 else f"mean over seeds {seeds_text(seeds)}"


def seeds_text(seeds: Sequence[int]) -> str:
    """Ascending seeds: "0…2" or "0, 3"."""
    consecutive = len(seeds) > 2 and list(seeds) == list(range(seeds[0], seeds[-1] + 1))
    return f"{seeds[0]}…{seeds[-1]}" if consecutive else ", ".join(map(str, seeds))
