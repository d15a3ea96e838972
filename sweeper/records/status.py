"""Reading runs and sweeps: states and tidy tables. Never imports torch; figures are drawn from this."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeper.records.lock import is_alive, read_owner
from sweeper.records.metrics import SCORES
from sweeper.records.run_dir import RunDir
from sweeper.records.sweep_manifest import Sweep, manifests

if TYPE_CHECKING:
    import pandas as pd


class State(StrEnum):
    """Where a run stands."""

    PENDING = "pending"  # not started, or stopped cleanly
    PREEMPTED = "preempted"  # interrupted, and in SLURM's queue to resume
    HELD = "held"  # in SLURM's queue, but not to start before somebody releases it
    RUNNING = "running"
    DONE = "done"
    DIVERGED = "diverged"  # a result: kept, shown, never retried
    FAILED = "failed"
    TIMEOUT = "timeout"  # its job ran into the time limit and is not queued again
    LOST = "lost"  # nobody works on it any more; the next submission resumes it


FINISHED = (State.DONE, State.DIVERGED)


@dataclass(frozen=True)
class RunStatus:
    """State of one run, read from its directory.

    Attributes:
        state: see `State`.
        step: optimizer steps logged so far.
        val_loss: final validation loss, nats per token; nan while there is none.
        unigram_entropy: of the validation set, nats per token; nan where it was not recorded.
        scores: final ones of a task, by the names of `SCORES`; empty for text.
        reason: why it failed or diverged, one line.
        step_seconds: wall time spent in optimizer steps, finished runs only.
        gpu: driver's name of the GPUs that a finished run took; empty for a CPU.
        gpus: how many that trained it together; 0 for a CPU.
        loss: last training loss logged, nats per token.
        tokens_per_second: of the attempt under way.
        seconds_left: expected, of the attempt under way.
        job: id of its SLURM job.
    """

    state: State
    step: int = 0
    val_loss: float = math.nan
    unigram_entropy: float = math.nan
    scores: Mapping[str, float] = field(default_factory=dict)
    reason: str = ""
    step_seconds: float = math.nan
    gpu: str = ""
    gpus: int = 0
    loss: float = math.nan
    tokens_per_second: float = math.nan
    seconds_left: float = math.nan
    job: str = ""


def run_status(path: Path) -> RunStatus:
    """State of the run in directory `path`, which need not exist."""
    rundir = RunDir(path)
    result = rundir.result()
    if result is not None:
        return finished_status(result)
    last = rundir.last_metrics()
    known = RunStatus(State.PENDING, step=last.get("step", 0), loss=last.get("loss", math.nan))
    failure = rundir.failure()
    if is_alive(rundir.lock):
        speed = rundir.progress()
        rate, left = (speed.get(name, math.nan) for name in ("tokens_per_second", "seconds_left"))
        job = (read_owner(rundir.lock) or {}).get("job") or ""
        return replace(known, state=State.RUNNING, tokens_per_second=rate, seconds_left=left, job=job)
    if failure is not None:
        return replace(known, state=State.FAILED, reason=failure["reason"])
    if rundir.lock.exists():
        return replace(known, state=State.LOST, reason="the process that owned it is gone")
    return known


def finished_status(result: Mapping[str, Any]) -> RunStatus:
    """What a run's result.json says."""
    loss, origin = result["val_loss"], result.get("provenance", {})
    return RunStatus(
        state=State(result["state"]),
        step=result["step"],
        val_loss=math.nan if loss is None else loss,
        unigram_entropy=result.get("unigram_entropy", math.nan),
        scores={name: result[name] for name in SCORES if name in result},
        reason=result["reason"],
        step_seconds=result["seconds"].get("step", math.nan),  # records of earlier versions have none
        gpu=origin.get("gpu", ""),
        gpus=origin.get("gpus", 0),
    )


def sweep_rows(sweep: Sweep, statuses: Mapping[str, RunStatus]) -> list[dict[str, Any]]:
    """One row per cell of the grid, see `sweep_table`."""
    rows: list[dict[str, Any]] = []
    for row in sweep.rows():
        status = statuses[row["run_id"]]
        rows.append(
            {
                "sweep": sweep.name,
                "experiment": sweep.experiment,
                "preset": sweep.preset,
                **row,
                "state": str(status.state),
                "val_loss": status.val_loss,
                "unigram_entropy": status.unigram_entropy,
                **status.scores,
                "step": status.step,
                "step_seconds": status.step_seconds,
                "reason": status.reason,
            }
        )
    return rows


def sweep_table(manifest: Path, runs: Path) -> "pd.DataFrame":
    """One row per cell of the grid, read from the runs' directories.

    Args:
        manifest: the sweep's file.
        runs: directory of run directories.

    Returns:
        Columns sweep, experiment, preset, the base axes, run_id, steps, flops, the extra axes (`Sweep.columns`), state,
        val_loss, unigram_entropy, in a task `SCORES`, step, step_seconds, reason.
    """
    import pandas as pd

    sweep = Sweep.load(manifest)
    return pd.DataFrame(sweep_rows(sweep, {run_id: run_status(runs / run_id) for run_id in sweep.run_ids}))


def latest_sweep(sweeps: Path, experiment: str) -> Path | None:
    """The most recently written manifest of `experiment`, or None."""
    return next((path for path in reversed(manifests(sweeps)) if Sweep.load(path).experiment == experiment), None)
