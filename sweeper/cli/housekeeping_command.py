"""`loopsweep list`, `rename`, `rm` and `du`: sweeps as a whole."""

import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from sweeper.cli.prune_command import amount
from sweeper.errors import UserError
from sweeper.execution.slurm.queue import live_jobs
from sweeper.execution.slurm.submission import submissions
from sweeper.records import housekeeping
from sweeper.records.status import State, run_status
from sweeper.records.sweep_manifest import Sweep, find, manifests


def list_sweeps(sweeps: Path, runs: Path) -> None:
    """Print a line per sweep, the newest last."""
    rows: list[tuple[str, ...]] = [("sweep", "id", "experiment", "cells", "runs", "changed", "states")]
    for path in manifests(sweeps):
        sweep = Sweep.load(path)
        counts = Counter(run_status(runs / run_id).state for run_id in sweep.run_ids)
        states = ", ".join(f"{counts[state]} {state}" for state in State if counts[state])
        changed = time.strftime("%Y-%m-%d %H:%M", time.localtime(path.stat().st_mtime))
        numbers = (str(len(sweep.cells)), str(len(sweep.run_ids)))
        rows.append((sweep.name, sweep.id or "-", sweep.experiment, *numbers, changed, states))
    if len(rows) == 1:
        raise UserError(f"no sweep in {sweeps}; submit one: make sweep-lr-transfer")
    _print(rows, right=(3, 4))


def show_space(sweeps: Path, runs: Path, name: str | None) -> None:
    """Print what the runs of one sweep, or of each, take on the disk."""
    chosen = [find(sweeps, name)] if name is not None else manifests(sweeps)
    rows: list[tuple[str, ...]] = [("sweep", "runs", "all", "its own", "checkpoints")]
    for sweep in map(Sweep.load, chosen):
        found = housekeeping.space(sweep, sweeps, runs)
        sizes = (found.runs, found.own, found.checkpoints)
        rows.append((sweep.name, str(len(sweep.run_ids)), *map(amount, sizes)))
    _print(rows, right=(1, 2, 3, 4))
    if name is None:
        print(f"{runs}: {amount(housekeeping.directory_size(runs))}, each run once")
    print("its own: what `loopsweep rm` frees; checkpoints: what `loopsweep prune` can free of finished runs")


def rename_sweep(sweeps: Path, runs: Path, name: str, to: str) -> None:
    """Give a sweep another name."""
    path = find(sweeps, name)
    _refuse_queued(Sweep.load(path), sweeps, "rename")
    renamed = housekeeping.rename(path, to, runs)
    print(f"{path.stem} is now {renamed.stem}; the command that made it would make {path.stem} again, of the same runs")


def remove(sweeps: Path, runs: Path, name: str, *, sure: bool) -> None:
    """Say what would be deleted, ask, and delete a sweep with the runs that no other sweep uses.

    Raises:
        UserError: if the user does not agree, nobody can be asked, or the sweep is under way.
    """
    path = find(sweeps, name)
    sweep = Sweep.load(path)
    _refuse_queued(sweep, sweeps, "rm")
    own = housekeeping.own_runs(sweep, sweeps)
    housekeeping.refuse_live(own, runs, f"rm {sweep.name}")
    size = amount(housekeeping.space(sweep, sweeps, runs).own)
    shared = len(sweep.run_ids) - len(own)
    stay = f"; {shared} runs that other sweeps use stay" if shared else ""
    print(f"{sweep.name}: its manifest and {len(own)} runs go, with results and checkpoints, {size}{stay}")
    if not sure:
        if not sys.stdin.isatty():
            raise UserError(f"nothing was deleted; --yes deletes {len(own)} runs")
        if input("Delete them? [y/N] ").strip().lower() not in ("y", "yes"):
            raise UserError("nothing was deleted")
    housekeeping.remove_sweep(path, own, runs)
    print(f"deleted {sweep.name} and {len(own)} runs")


def _refuse_queued(sweep: Sweep, sweeps: Path, doing: str) -> None:
    submitted = [one for one in submissions(sweeps, sweep.name) if one.queued]
    if submitted and (jobs := live_jobs(submitted, sweep.run_ids)):
        raise UserError(
            f"{doing} {sweep.name}: {len(jobs)} of its jobs are queued or running; `loopsweep cancel` it first"
        )


def _print(rows: Sequence[Sequence[str]], right: Sequence[int]) -> None:
    """Aligned columns; those in `right` to the right."""
    console = Console(highlight=False, soft_wrap=True, markup=False)
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    for row in rows:
        cells = [
            text.rjust(w) if place in right else text.ljust(w)
            for place, (text, w) in enumerate(zip(row, widths, strict=True))
        ]
        console.print("  ".join(cells).rstrip())
