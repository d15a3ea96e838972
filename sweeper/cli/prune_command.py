"""`loopsweep prune`: free the space of checkpoints of finished runs."""

import sys
from pathlib import Path

from rich.console import Console

from sweeper.cli.import_command import progress
from sweeper.errors import UserError
from sweeper.records.prune import Keep, prunable, prune
from sweeper.records.run_dir import RunDir
from sweeper.records.sweep_manifest import Sweep


def prune_command(sweep: Sweep, runs: Path, keep: Keep, *, sure: bool) -> None:
    """Say what can be freed, ask, and free it.

    Args:
        sweep: whose finished runs.
        runs: directory of run directories.
        keep: what stays of their checkpoints.
        sure: do not ask.

    Raises:
        UserError: if the user does not agree, or there is nobody to ask.
    """
    console = Console(highlight=False, soft_wrap=True)
    found = prunable(runs, sweep.run_ids, keep)
    if not found:
        console.print(f"nothing to prune: no finished run of {sweep.name} has checkpoints beyond what is to stay")
        return
    about, stays = ("some ", "the final weights stay") if keep is Keep.WEIGHTS else ("", "no weights stay")
    size = f"{about}{amount(sum(found.values()))}"
    console.print(
        f"checkpoints of {len(found)} finished runs of {sweep.name}: pruning frees {size} and {stays}; "
        "results, metrics, read-outs and unfinished runs are not touched"
    )
    if not sure:
        if not sys.stdin.isatty():
            raise UserError(f"nothing was pruned; --yes prunes the checkpoints of {len(found)} runs")
        if console.input("Prune them? \\[y/N] ").strip().lower() not in ("y", "yes"):
            raise UserError("nothing was pruned")
    report, freed, damaged = progress(console, "pruned"), 0, []
    for number, run_id in enumerate(found, start=1):
        of_run = prune(RunDir(runs / run_id), keep)
        freed += of_run
        damaged += [run_id] if not of_run else []
        report(number, len(found))
    console.print(f"freed {amount(freed)} in {len(found) - len(damaged)} runs")
    for run_id in damaged:
        console.print(f"  {run_id} left as it is: no valid checkpoint of its last step; --keep nothing deletes them")


def amount(size: float) -> str:
    """A size as people say it: 12 bytes, 3.4 MiB."""
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
