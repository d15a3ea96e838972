"""Query SLURM for all jobs of a sweep at once: one squeue, and one sacct for jobs that squeue no longer lists.

Jobs are looked up by their recorded names and ids, not by user: in a shared directory they may be another user's.
"""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sweeper.errors import UserError
from sweeper.execution.slurm.gpu_check import NEVER
from sweeper.execution.slurm.submission import JobArray, Submission
from sweeper.records.redact import redact

HELD = {"REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"}
WAITING = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", *HELD}
WORKING = {"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "RESIZING", "STAGE_OUT"}

TAIL_BYTES = 4096  # of a job's log, in which its last line is looked for
MAX_WORDS = 300  # characters of that line

Place = tuple[str, int]
"""Name of a job and index in its array."""


@dataclass(frozen=True)
class Job:
    """One element of a job array, in SLURM's terms.

    Attributes:
        id: as squeue shows it, such as 1234_5; "" while unknown.
        state: SLURM's long name, such as PENDING.
        reason: why it waits, or its exit status.
        claiming: whether it claims runs, so that it may be working on another run.
    """

    id: str
    state: str
    reason: str = ""
    claiming: bool = False

    @property
    def waits(self) -> bool:
        """Whether it is waiting in the queue."""
        return self.state in WAITING

    @property
    def held(self) -> bool:
        """Whether it waits for a release: after a failed launch or check, after too many requeues, or on request."""
        return self.waits and (self.state in HELD or "held" in self.reason.lower() or self.check_failed)

    @property
    def check_failed(self) -> bool:
        """Whether the job that it depends on has failed."""
        return self.reason == NEVER

    @property
    def works(self) -> bool:
        """Whether it has nodes."""
        return self.state in WORKING

    @property
    def lives(self) -> bool:
        """Whether it is waiting or has nodes."""
        return self.waits or self.works


GONE = Job("", "UNKNOWN", "SLURM no longer knows the job")
NEVER_STARTED = Job("", "UNKNOWN", "its job left the queue before it started: cancelled, or removed by the site")


def run_jobs(submissions: Sequence[Submission], run_ids: Collection[str]) -> dict[str, Job]:
    """The job of each run: the newest that has nodes, else that waits, else that is held, else that has ended.

    Args:
        submissions: all submissions, the oldest first.
        run_ids: runs to look up.

    Returns:
        Jobs by run id, without runs that were never submitted. Empty if there is no SLURM.

    Raises:
        UserError: if SLURM does not answer.
    """
    jobs = jobs_by_run(submissions, run_ids)
    return {run_id: max(reversed(found), key=_liveliness) for run_id, found in jobs.items()}


def _liveliness(job: Job) -> tuple[bool, bool, bool]:
    return job.works, job.waits and not job.held, job.lives


def live_jobs(submissions: Sequence[Submission], run_ids: Collection[str]) -> list[str]:
    """Ids of all jobs of the runs that are waiting or running. A run has two after a submission that crashed."""
    jobs = jobs_by_run(submissions, run_ids).values()
    return sorted({job.id for found in jobs for job in found if job.lives})


def live_checks(submissions: Sequence[Submission]) -> list[str]:
    """Ids of the jobs that check a GPU and are waiting or running."""
    ids = [one.check for one in submissions if one.check is not None]
    if not ids or shutil.which("squeue") is None:
        return []
    # An id that has left the queue makes squeue fail, if it is the only one.
    command = ["squeue", "-h", f"--jobs={','.join(ids)}", "-o", "%i"]
    return subprocess.run(command, capture_output=True, text=True).stdout.split()


def jobs_by_run(submissions: Sequence[Submission], run_ids: Collection[str]) -> dict[str, list[Job]]:
    """All jobs of each run, the oldest first. See `run_jobs`."""
    selected = set(run_ids)
    arrays = {array.name: (submission, array) for submission in submissions for array in submission.arrays}
    places = [pair for submission in submissions for pair in submission.jobs_by_run() if pair[0] in selected]
    if not places or shutil.which("squeue") is None:
        return {}
    known = _squeue({name for _, (name, _) in places})
    if missing := {name for _, (name, index) in places if (name, index) not in known}:
        known = _sacct([arrays[name] for name in sorted(missing)]) | known
    at = {place: _job(*arrays[place[0]], place, known.get(place)) for place in {place for _, place in places}}
    jobs: dict[str, list[Job]] = {}
    for run_id, place in places:
        if (job := at[place]) is not None:
            jobs.setdefault(run_id, []).append(job)
    return jobs


def _job(submission: Submission, array: JobArray, place: Place, known: Job | None) -> Job | None:
    """What is known of a job, with the last line of its log if it failed. None if it never reached SLURM."""
    job = known or _forgotten(submission, array, place)
    if job is not None and job.state == "FAILED" and (said := last_words(submission.log(*place))):
        job = replace(job, reason=f"{job.reason}: {said}".removeprefix(": "))
    return job and replace(job, claiming=array.claiming > 0)


def _forgotten(submission: Submission, array: JobArray, place: Place) -> Job | None:
    """A job of which SLURM says nothing. None if it never reached SLURM."""
    log = submission.log(*place)
    if array.job_id is None or log is None:
        return None
    return GONE if log.exists() else NEVER_STARTED  # SLURM opens the log when it starts the job


def last_words(log: Path | None) -> str:
    """The last line that a job printed; empty if there is none. SLURM says only that the exit status was not 0."""
    if log is None or not log.is_file():
        return ""
    with log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines()]
    own = [line for line in lines if line and not line.startswith(("srun: ", "slurmstepd: "))]
    return redact(own[-1])[:MAX_WORDS].removeprefix("error: ") if own else ""


def _squeue(names: Collection[str]) -> dict[Place, Job]:
    command = ["squeue", "-h", "-r", "-t", "all", f"--name={','.join(sorted(names))}", "-o", "%i|%j|%T|%r"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no answer"])[-1]
        raise UserError(f"{reason}; try again later (the figures need no SLURM)")
    jobs = {}
    for line in done.stdout.splitlines():
        job_id, name, state, reason = line.split("|", 3)
        for index in _elements(job_id):
            jobs[name, index] = Job(job_id, state, "" if reason == "None" else reason)
    return jobs


def _sacct(arrays: Sequence[tuple[Submission, JobArray]]) -> dict[Place, Job]:
    """Jobs from accounting. Empty on a cluster without it.

    Elements that were cancelled before they started are listed only if asked for by id.
    """
    if shutil.which("sacct") is None:
        return {}
    ids = [array.job_id for _, array in arrays if array.job_id is not None]
    names = [array.name for _, array in arrays if array.job_id is None]  # a crash before the id was recorded
    oldest = min(submission.created for submission, _ in arrays) - 60
    since = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(oldest))
    jobs: dict[Place, Job] = {}
    for asked in [*([f"--jobs={','.join(ids)}"] if ids else []), *([f"--name={','.join(names)}"] if names else [])]:
        command = ["sacct", "-n", "-P", "-X", "-a", "-S", since, asked, "-o", "JobID,JobName,State,ExitCode"]
        done = subprocess.run(command, capture_output=True, text=True)
        for line in done.stdout.splitlines():
            job_id, name, state, exit_code = line.split("|")
            for index in _elements(job_id):
                job = Job(_element_id(job_id, index), state.split()[0], f"exit {exit_code}")
                if not job.lives:  # squeue lists those, and accounting may be late
                    jobs[name, index] = job
    return jobs


def _elements(job_id: str) -> Iterator[int]:
    """Array indices of a job id: 1234 (index 0), 1234_5 or 1234_[0-3,7%2]."""
    _, _, indices = job_id.partition("_")
    for part in indices.strip("[]").partition("%")[0].split(","):
        first, _, last = part.partition("-")
        if re.fullmatch(r"\d*", first + last):
            yield from range(int(first or 0), int(last or first or 0) + 1)


def _element_id(job_id: str, index: int) -> str:
    return f"{job_id.partition('_')[0]}_{index}" if "[" in job_id else job_id
