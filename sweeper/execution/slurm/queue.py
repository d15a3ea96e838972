"""Query SLURM for all jobs of a sweep at once: one squeue, and one sacct for jobs that squeue no longer lists."""

import getpass
import shutil
import subprocess
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sweeper.errors import UserError
from sweeper.execution.slurm.submission import Submission

WAITING = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"}
WORKING = {"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "RESIZING", "STAGE_OUT"}

Place = tuple[str, int]
"""Name of a job and index in its array."""


@dataclass(frozen=True)
class Job:
    """One element of a job array, in SLURM's terms.

    Attributes:
        id: as squeue shows it, such as 1234_5; "" while unknown.
        state: SLURM's long name, such as PENDING.
        reason: why it waits, or its exit status.
    """

    id: str
    state: str
    reason: str = ""

    @property
    def waits(self) -> bool:
        """Whether it is waiting in the queue."""
        return self.state in WAITING

    @property
    def works(self) -> bool:
        """Whether it has nodes."""
        return self.state in WORKING


GONE = Job("", "UNKNOWN", "SLURM no longer knows the job")


def run_jobs(submissions: Sequence[Submission], run_ids: Collection[str]) -> dict[str, Job]:
    """The job of each run: the one that is waiting or running, else the newest.

    Args:
        submissions: all submissions, the oldest first.
        run_ids: runs to look up.

    Returns:
        Jobs by run id, without runs that were never submitted. Empty if there is no SLURM.

    Raises:
        UserError: if SLURM does not answer.
    """
    selected = set(run_ids)
    places = [pair for submission in submissions for pair in submission.jobs_by_run() if pair[0] in selected]
    if not places or shutil.which("squeue") is None:
        return {}
    known = _squeue()
    if any(place not in known for _, place in places):
        known = _sacct(submissions) | known
    jobs: dict[str, Job] = {}
    for run_id, place in places:
        job, before = known.get(place, GONE), jobs.get(run_id)
        if before is None or job.waits or job.works or not (before.waits or before.works):
            jobs[run_id] = job
    return jobs


def _squeue() -> dict[Place, Job]:
    command = ["squeue", "-h", "-r", "-t", "all", "-u", getpass.getuser(), "-o", "%i|%j|%T|%r"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no answer"])[-1]
        raise UserError(f"{reason}; try again later (the figures need no SLURM)")
    jobs = {}
    for line in done.stdout.splitlines():
        job_id, name, state, reason = line.split("|", 3)
        jobs[name, _index(job_id)] = Job(job_id, state, "" if reason == "None" else reason)
    return jobs


def _sacct(submissions: Sequence[Submission]) -> dict[Place, Job]:
    """Jobs from accounting. Empty on a cluster without it."""
    if shutil.which("sacct") is None:
        return {}
    oldest = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(min(s.created for s in submissions) - 60))
    names = ",".join(array.name for submission in submissions for array in submission.arrays)
    fields = "JobID,JobName,State,ExitCode"
    done = subprocess.run(
        ["sacct", "-n", "-P", "-X", "-S", oldest, f"--name={names}", "-o", fields], capture_output=True, text=True
    )
    jobs: dict[Place, Job] = {}
    for line in done.stdout.splitlines():
        job_id, name, state, exit_code = line.split("|")
        if "[" not in job_id:  # waiting elements share one line; squeue lists them
            jobs[name, _index(job_id)] = Job(job_id, state.split()[0], f"exit {exit_code}")
    return jobs


def _index(job_id: str) -> int:
    _, _, index = job_id.partition("_")
    return int(index or 0)
