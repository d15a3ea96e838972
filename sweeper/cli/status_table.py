"""What the person at the terminal sees of a sweep that runs elsewhere: one row per cell of its grid."""

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from sweeper.records.axes import BASE_AXES, as_text
from sweeper.records.status import FINISHED, RunStatus, State
from sweeper.records.sweep_manifest import Sweep

COLUMNS = ("panel", "L", "N", "rate", "seed", "state", "step", "loss", "tokens/s", "left", "job", "reason")
UNSHOWN = ("rule", "ref_layers", "d_model")
WORDS = ("panel", "state", "job", "reason")  # aligned to the left
STYLES = {
    "done": "green",
    "running": "cyan",
    "diverged": "magenta",
    "preempted": "yellow",
    "held": "yellow",
    "failed": "red",
    "timeout": "red",
    "lost": "red",
}
MOVING = (State.PENDING, State.RUNNING, State.PREEMPTED)


def status_table(sweep: Sweep, statuses: Mapping[str, RunStatus], whole: Sweep | None = None) -> Text:
    """What `loopsweep status` prints: a row per cell, counts below.

    Args:
        sweep: the cells to show.
        statuses: where their runs stand.
        whole: the sweep that they are a part of, whose axes all have a column.
    """
    axes = _shown_axes(whole or sweep)
    cells = sweep.rows([axis for axis in axes if axis not in BASE_AXES or axis == "architecture"])
    rows = [_row(cell, statuses[cell["run_id"]]) | {axis: as_text(cell[axis]) for axis in axes} for cell in cells]
    place = COLUMNS.index("seed") + 1
    columns = (*COLUMNS[:place], *axes, *COLUMNS[place:])
    # Aligned here and not by rich's own table, which takes more than a second over 600 rows.
    widths = [max(len(row[name]) for row in (*rows, {name: name})) for name in columns]
    named = f"{sweep.name} ({sweep.id})" if sweep.id else sweep.name
    head = f"{named}: {len(sweep.run_ids)} runs in {len(sweep.cells)} cells\n"
    shown = Text(head, no_wrap=True, overflow="ignore")
    for row in ({name: name for name in columns}, *rows):
        for name, width in zip(columns, widths, strict=True):
            text = row[name].ljust(width) if name in (*WORDS, *axes) else row[name].rjust(width)
            shown.append(f"{text}  ", STYLES.get(row[name], "") if name == "state" else "")
        shown.rstrip()
        shown.append("\n")
    states = Counter(row["state"] for row in rows)
    return shown.append(" · ".join(f"{states[state]} {state}" for state in State if states[state]))


def _shown_axes(sweep: Sweep) -> list[str]:
    """The axes that need a column beside `COLUMNS`: extra ones, and base axes that the panel and L do not tell."""
    values: dict[tuple[Any, ...], dict[str, set[Any]]] = {}
    for cell in sweep.cells:
        of_panel = values.setdefault((cell["panel"], cell["n_layers"]), {axis: set() for axis in UNSHOWN})
        for axis in UNSHOWN:
            of_panel[axis].add(cell.get(axis))
    return [axis for axis in UNSHOWN if any(len(of_panel[axis]) > 1 for of_panel in values.values())] + sweep.columns


def _row(cell: Mapping[str, Any], status: RunStatus) -> dict[str, str]:
    return {
        "panel": str(cell["panel"]),
        "L": str(cell["n_layers"]),
        "N": str(cell["n_loops"]),
        "rate": f"{cell['base_lr']:g}",
        "seed": str(cell["seed"]),
        "state": str(status.state),
        "step": f"{status.step}/{cell['steps']}",
        "loss": _number(status.val_loss if status.state in FINISHED else status.loss, ".4f"),
        "tokens/s": _number(status.tokens_per_second, ",.0f"),
        "left": duration(status.seconds_left),
        "job": status.job,
        "reason": status.reason,
    }


def watch(show: Callable[[], tuple[Text, bool]], seconds: float, console: Console) -> None:
    """Show a sweep again and again until nothing of it moves any more, or Ctrl-C.

    On a terminal the table is drawn in place. Elsewhere, such as in a pipe or a log, the last line of the table is
    printed when it changes, and the whole table at the end.

    Args:
        show: what to display, and whether anything still moves.
        seconds: between refreshes.
        console: where to draw.
    """
    if not console.is_terminal:
        _watch_in_lines(show, seconds, console)
        return
    with Live(console=console, auto_refresh=False) as live:
        while True:
            shown, moving = show()
            live.update(shown, refresh=True)
            if not moving:
                return
            time.sleep(seconds)


def _watch_in_lines(show: Callable[[], tuple[Text, bool]], seconds: float, console: Console) -> None:
    before = ""
    while True:
        shown, moving = show()
        if not moving:
            console.print(shown)
            return
        line = shown.plain.splitlines()[-1]
        if line != before:
            console.print(f"{time.strftime('%H:%M:%S')}  {line}")
        before = line
        time.sleep(seconds)


def duration(seconds: float) -> str:
    """A time as people say it, coarsely: 45 s, 12 min, 3.5 h, 2.1 d; - for nan."""
    if math.isnan(seconds):
        return "-"
    for unit, size in (("d", 86400), ("h", 3600)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds / 60:.0f} min" if seconds >= 60 else f"{seconds:.0f} s"


def _number(value: float, spec: str) -> str:
    return "-" if math.isnan(value) else format(value, spec)
