"""Reading runs and sweeps: states and tidy tables. Never imports torch; figures are drawn from this."""

import math
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeper.lock import is_alive
from sweeper.rundir import RunDir
from sweeper.sweep import Sweep

if TYPE_CHECKING:
    import pandas as pd


class State(StrEnum):
    """Where a run stands."""

    PENDING = "pending"  # not started, or stopped in good order
    RUNNING = "running"
    DONE = "done"
    DIVERGED = "diverged"  # a result: kept, shown, never retried
    FAILED = "failed"
    LOST = "lost"  # its owner died without a word; the next submission resumes it


FINISHED = (State.DONE, State.DIVERGED)


@dataclass(frozen=True)
class RunStatus:
    """One run, as its directory tells.

    Attributes:
        state: see `State`.
        step: optimizer steps logged so far.
        val_loss: final validation loss, nats per token; nan while there is none.
        reason: why it failed or diverged, one line.
        step_seconds: wall time spent in optimizer steps, finished runs only.
    """

    state: State
    step: int = 0
    val_loss: float = math.nan
    reason: str = ""
    step_seconds: float = math.nan


def run_status(path: Path) -> RunStatus:
    """State of the run in directory `path`, which need not exist."""
    rundir = RunDir(path)
    result = rundir.result()
    if result is not None:
        loss = result["val_loss"]
        return RunStatus(
            state=State(result["state"]),
            step=result["step"],
            val_loss=math.nan if loss is None else loss,
            reason=result["reason"],
            step_seconds=result["seconds"]["step"],
        )
    rows = rundir.read_metrics()
    step = rows[-1]["step"] if rows else 0
    failure = rundir.failure()
    if is_alive(rundir.lock):
        return RunStatus(State.RUNNING, step=step)
    if failure is not None:
        return RunStatus(State.FAILED, step=step, reason=failure["reason"])
    if rundir.lock.exists():
        return RunStatus(State.LOST, step=step, reason="the process that owned it is gone")
    return RunStatus(State.PENDING, step=step)


def sweep_table(manifest: Path, runs: Path) -> "pd.DataFrame":
    """One row per cell of the grid.

    Args:
        manifest: the sweep's file.
        runs: directory of run directories.

    Returns:
        Columns sweep, experiment, preset, the axes, run_id, steps, state, val_loss, step, reason.
    """
    import pandas as pd

    sweep = Sweep.load(manifest)
    statuses = {run_id: run_status(runs / run_id) for run_id in sweep.run_ids}
    rows: list[dict[str, Any]] = []
    for cell in sweep.cells:
        status = statuses[cell["run_id"]]
        rows.append(
            {
                "sweep": sweep.name,
                "experiment": sweep.experiment,
                "preset": sweep.preset,
                **cell,
                "state": str(status.state),
                "val_loss": status.val_loss,
                "step": status.step,
                "reason": status.reason,
            }
        )
    return pd.DataFrame(rows)


def latest_sweep(sweeps: Path, experiment: str) -> Path | None:
    """The most recently written manifest of `experiment`, or None."""
    manifests = sorted(sweeps.glob("*.json"), key=lambda path: path.stat().st_mtime, reverse=True)
    return next((path for path in manifests if Sweep.load(path).experiment == experiment), None)
