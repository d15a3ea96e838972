"""State of the runs of a sweep, from their directories and, for unfinished runs, from SLURM."""

from dataclasses import replace
from pathlib import Path

from sweeper.execution.slurm.queue import Job, run_jobs
from sweeper.execution.slurm.submission import submissions
from sweeper.records.status import FINISHED, RunStatus, State, run_status
from sweeper.records.sweep_manifest import Sweep


def sweep_status(sweep: Sweep, runs: Path, sweeps: Path) -> dict[str, RunStatus]:
    """State of every run of a sweep, from its directory and, for unfinished runs, from SLURM.

    Calls squeue once and sacct at most once, for any number of runs. Calls neither if all runs are finished or none was
    submitted to SLURM.
    """
    statuses = {run_id: run_status(runs / run_id) for run_id in sweep.run_ids}
    open_runs = [run_id for run_id, status in statuses.items() if status.state not in FINISHED]
    jobs = run_jobs(submissions(sweeps), open_runs)
    return {run_id: cluster_status(status, jobs.get(run_id)) for run_id, status in statuses.items()}


def cluster_status(status: RunStatus, job: Job | None) -> RunStatus:
    """State of a run, from its directory and its SLURM job. `job` is None if the run was never submitted to SLURM."""
    if job is None or status.state in (*FINISHED, State.FAILED):
        return status
    status = replace(status, job=job.id)
    if status.state is State.RUNNING:
        return status
    if job.works:
        return replace(status, state=State.RUNNING, reason="starting")
    if job.held:
        return replace(status, state=State.HELD, reason=f"{job.reason}; `loopsweep retry` releases it")
    if job.waits:
        started = status.step > 0 or status.state is State.LOST
        return replace(status, state=State.PREEMPTED if started else State.PENDING, reason=job.reason)
    ended = f"job {job.id} ended {job.state} {job.reason}".rstrip() if job.id else job.reason
    match job.state:
        case "TIMEOUT":
            return replace(status, state=State.TIMEOUT, reason=ended)
        case "FAILED" | "OUT_OF_MEMORY" | "BOOT_FAIL":
            return replace(status, state=State.FAILED, reason=ended)
    return replace(status, state=State.LOST, reason=ended)
