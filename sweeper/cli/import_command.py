"""`loopsweep import`: finished runs from another machine, from a colleague, or from shipped records."""

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from sweeper.errors import UserError
from sweeper.records.compare import Agreement, Difference
from sweeper.records.import_runs import Imported, import_runs

PROGRESS_SECONDS = 5.0
LISTED = 10  # differences and refusals shown by name


def import_command(source: Path, runs: Path, sweeps: Path) -> None:
    """Import finished runs and say what became of them.

    Args:
        source: see `sweeper.records.import_runs.import_runs`.
        runs: directory of run directories.
        sweeps: directory of manifests.

    Raises:
        UserError: if anything was refused. The other runs were taken.
    """
    console = Console(highlight=False, soft_wrap=True, markup=False)
    found = import_runs(source, runs, sweeps, progress(console, "checked"))
    _show(found, console)
    if found.refused:
        name, reason = next(iter(found.refused.items()))
        others = f"; and {len(found.refused) - 1} more, see above" if len(found.refused) > 1 else ""
        raise UserError(f"refused, and not written: {name}: {reason}{others}; all else is imported")


def progress(console: Console, verb: str) -> Callable[[int, int], None]:
    """A report of how many runs are done, printed every few seconds."""
    last = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= PROGRESS_SECONDS and done < total:
            last = time.monotonic()
            console.print(f"{verb} {done} of {total} runs")

    return report


def _show(found: Imported, console: Console) -> None:
    completed = found.here.keys() & set(found.taken)
    replaced = f", of which {len(completed)} replace equal ones restored from records" if completed else ""
    console.print(f"{len(found.taken)} runs taken{replaced}")
    counts = Counter(one.agreement for name, one in found.here.items() if name not in completed)
    if counts:
        agreed = " · ".join(f"{counts[agreement]} {agreement}" for agreement in Agreement)
        console.print(f"{counts.total()} runs are finished here too, and stay as they are here: {agreed}")
    differing = [name for name, one in found.here.items() if one.agreement is Agreement.CLOSE]
    for name in sorted(differing, key=lambda name: -_size(found.here[name]))[:LISTED]:
        console.print(f"  {name}  {found.here[name]}")
    if len(differing) > LISTED:
        console.print(f"  and {len(differing) - LISTED} with smaller differences")
    for name in found.running:
        console.print(f"  {name}  runs here now, and was left alone")
    if len(found.refused) > 1:
        for name, reason in found.refused.items():
            console.print(f"  {name}  refused: {reason}")
    for name, (sweep, changed) in found.sweeps.items():
        other = f", because {name} has other values or runs here" if sweep.name != name else ""
        state = "now has" if changed else "has, as before,"
        console.print(f"sweep {sweep.name} {state} {len(sweep.cells)} cells{other}")


def _size(difference: Difference) -> float:
    return max(difference.final, difference.largest)
