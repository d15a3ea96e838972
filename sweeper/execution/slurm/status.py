"""State of the runs of a sweep, from their directories and, for unfinished runs, from SLURM."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from sweeper.errors import UserError
from sweeper.execution.slurm.gpu_check import HELD_BY_CHECK
from sweeper.execution.slurm.queue import Job, run_jobs
from sweeper.execution.slurm.submission import submissions
from sweeper.records.status import FINISHED, RunStatus, State, run_status
from sweeper.records.sweep_manifest import Sweep

QUEUE_SECONDS = 30.0  # SLURM is asked at most this often by one process


@dataclass
class SweepView:
    """The states of a sweep's runs, asked for again and again.

    Run directories are read every time. SLURM is asked at most once in `QUEUE_SECONDS`, because many sites limit how
    often one may. If it does not answer, its last answer stands.

    Attributes:
        sweep: the sweep.
        runs: directory of run directories.
        sweeps: directory of sweep manifests.
        trouble: why SLURM did not answer the last time, in one line; empty if it did.
        is_fresh: whether the last states rest on a new answer of SLURM.
    """

    sweep: Sweep
    runs: Path
    sweeps: Path
    trouble: str = field(default="", init=False)
    is_fresh: bool = field(default=False, init=False)
    _jobs: dict[str, Job] = field(default_factory=dict, init=False)
    _asked: float = field(default=-math.inf, init=False)

    def statuses(self) -> dict[str, RunStatus]:
        """State of every run.

        Raises:
            UserError: if SLURM does not answer the first time.
        """
        statuses = {run_id: run_status(self.runs / run_id) for run_id in self.sweep.run_ids}
        self.is_fresh = False
        if time.monotonic() - self._asked >= QUEUE_SECONDS:
            self._ask([run_id for run_id, status in statuses.items() if status.state not in FINISHED])
        return {run_id: cluster_status(status, self._jobs.get(run_id)) for run_id, status in statuses.items()}

    def ask_anew(self) -> None:
        """Ask SLURM the next time, because its queue has changed."""
        self._asked = min(self._asked, time.monotonic() - QUEUE_SECONDS)

    def _ask(self, run_ids: Sequence[str]) -> None:
        try:
            self._jobs, self.trouble = run_jobs(submissions(self.sweeps), run_ids), ""
            self.is_fresh = True
        except UserError as error:
            if self._asked == -math.inf:
                raise
            self.trouble = str(error)
        self._asked = time.monotonic()


def sweep_status(sweep: Sweep, runs: Path, sweeps: Path) -> dict[str, RunStatus]:
    """State of every run of a sweep, from its directory and, for unfinished runs, from SLURM.

    Calls squeue once and sacct at most once, for any number of runs. Calls neither if all runs are finished or none was
    submitted to SLURM.
    """
    return SweepView(sweep, runs, sweeps).statuses()


def cluster_status(status: RunStatus, job: Job | None) -> RunStatus:
    """State of a run, from its directory and its SLURM job. `job` is None if the run was never submitted to SLURM."""
    if job is None or status.state in (*FINISHED, State.FAILED):
        return status
    if status.state is State.RUNNING:
        return status if job.claiming else replace(status, job=job.id)
    if not job.claiming:
        status = replace(status, job=job.id)
    if job.works and not job.claiming:
        return replace(status, state=State.RUNNING, reason="starting")
    if job.held and job.check_failed:
        words = f"{HELD_BY_CHECK}; `loopsweep retry` trains nevertheless, `loopsweep cancel` cancels"
        return replace(status, state=State.HELD, job=job.id, reason=words)
    if job.held:
        return replace(status, state=State.HELD, job=job.id, reason=f"{job.reason}; `loopsweep retry` releases it")
    if job.lives:
        started = status.step > 0 or status.state is State.LOST
        reason = "until a job claims it" if job.works else job.reason
        return replace(status, state=State.PREEMPTED if started else State.PENDING, reason=reason)
    ended = f"job {job.id} ended {job.state} {job.reason}".rstrip() if job.id else job.reason
    match job.state:
        case "TIMEOUT":
            return replace(status, state=State.TIMEOUT, reason=ended)
        case "FAILED" | "OUT_OF_MEMORY" | "BOOT_FAIL" if not job.claiming:
            return replace(status, state=State.FAILED, reason=ended)
    return replace(status, state=State.LOST, reason=ended)
