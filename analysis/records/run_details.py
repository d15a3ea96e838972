"""What the page for a sweep of this machine shows of a run beside its cell."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sweeper.errors import UserError

if TYPE_CHECKING:
    from sweeper.records.run_dir import RunDir


@dataclass(frozen=True)
class RunDetails:
    """What a run's own directory says beside its cell. Empty or NaN where it does not.

    Attributes:
        tokens: of the whole training.
        hours: wall time of all steps and validations.
        machine, commit: that finished it.
        data: hash of its data manifest.
        log: the last lines that it printed, if it failed.
    """

    tokens: float = math.nan
    hours: float = math.nan
    machine: str = ""
    commit: str = ""
    data: str = ""
    log: str = ""


def run_details(runs: Path, run_ids: Iterable[str]) -> dict[str, RunDetails]:
    """The details of local runs, by id."""
    from sweeper.records.run_dir import RunDir

    return {run_id: _details(RunDir(runs / run_id)) for run_id in run_ids}


def _details(rundir: "RunDir") -> RunDetails:
    result, failure = rundir.result() or {}, rundir.failure() or {}
    try:
        config, _ = rundir.load()
    except UserError:  # restored from records, or of another version
        config = None
    origin = result.get("provenance", {})
    seconds = [value for key, value in result.get("seconds", {}).items() if key != "cpu"]
    machine = origin.get("gpu", origin.get("processor", ""))
    return RunDetails(
        tokens=getattr(config, "total_tokens", math.nan),
        hours=math.fsum(seconds) / 3600 if seconds else math.nan,
        machine=", ".join(machine) if isinstance(machine, list) else str(machine),
        commit=", ".join(map(str, commit)) if isinstance(commit := origin.get("commit"), list) else commit or "",
        data=getattr(config, "data", ""),
        log="\n".join(failure.get("log") or (rundir.log_tail(20) if failure else [])),
    )
