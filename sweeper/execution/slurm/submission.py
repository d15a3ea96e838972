"""Submissions: the runs of each job, recorded before sbatch is called.

sweeps/<sweep>/code/<hash>/               snapshots of the code
sweeps/<sweep>/slurm/<name>/              one submission
    submission.json                       options, arrays and their elements; job ids once they are known
    jobs/                                 submitit's files: sbatch scripts, pickled tasks, logs

A job array has the name of its submission. If this process crashes between sbatch and the recording of the job id, the
queue still shows the job's name. An array without a job id that the queue does not show was never submitted, because
sbatch refused it.
"""

import hashlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import asdict, dataclass, field, replace
from getpass import getuser
from importlib.metadata import distributions
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sweeper.errors import UserError
from sweeper.execution.slurm.options import SlurmOptions
from sweeper.files import write_json

RECORD = "submission.json"
WHERE = ("partition", "account", "qos", "constraint")  # options that choose the nodes
STARTS_PER_SECOND = 8  # of jobs of one array
# What helps against a refusal of sbatch, by its text.
REMEDIES = (
    ("wckey", "this site wants a workload key: +hydra.launcher.extra.wckey=KEY"),
    (
        "submit ?(job ?)?limit|max_?submit",
        "this site allows fewer jobs at once: hydra.launcher.jobs=k submits k jobs that train all runs in turn",
    ),
    ("unrecognized option|invalid option", "change hydra.launcher.extra"),
    ("", "check partition, account and limits in conf/site, or hydra.launcher.*"),
)


@dataclass(frozen=True)
class JobArray:
    """One call of sbatch.

    Attributes:
        name: name of the job, unique among all submissions.
        elements: runs of each array element.
        job_id: None until sbatch has returned it.
        claiming: number of jobs that claim runs from the only element. 0 where every element has a job that trains its
            runs.
        turn: 0, or which follow-up it is. It starts when all arrays of the turn before have ended.
        changes: options that are other than those of the submission.
    """

    name: str
    elements: tuple[tuple[str, ...], ...]
    job_id: str | None = None
    claiming: int = 0
    turn: int = 0
    changes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def jobs(self) -> tuple[tuple[str, ...], ...]:
        """Of each job, the runs that it trains or may claim."""
        return self.elements * self.claiming if self.claiming else self.elements

    @property
    def label(self) -> str:
        """For the user: the id and the number of jobs."""
        return f"{self.job_id} ({len(self.jobs)} jobs)"


@dataclass(frozen=True)
class Submission:
    """Jobs submitted together."""

    path: Path
    created: float  # seconds since the epoch
    options: dict[str, Any]
    arrays: tuple[JobArray, ...]
    check: str | None = None  # id of the job that checks a GPU before the others start, once it is known

    @property
    def queued(self) -> list[JobArray]:
        """The arrays that SLURM has accepted."""
        return [array for array in self.arrays if array.job_id is not None]

    @property
    def name(self) -> str:
        """Unique among all submissions of all sweeps."""
        return self.path.name

    def goes_where(self, options: SlurmOptions) -> bool:
        """Whether jobs with `options` would wait for the same nodes."""
        return all(self.options.get(name) == getattr(options, name) for name in WHERE)

    def save(self) -> None:
        """Write or replace the record."""
        self.path.mkdir(parents=True, exist_ok=True)
        record = {"created": self.created, "options": self.options, "arrays": [asdict(array) for array in self.arrays]}
        record |= {"check": self.check} if self.check else {}
        write_json(self.path / RECORD, record)

    @classmethod
    def load(cls, path: Path) -> "Submission":
        """Read the record of the submission in directory `path`."""
        record: dict[str, Any] = json.loads((path / RECORD).read_text())
        arrays = (JobArray(**{**array, "elements": tuple(map(tuple, array["elements"]))}) for array in record["arrays"])
        return cls(path, record["created"], record["options"], tuple(arrays), record.get("check"))

    def jobs_by_run(self) -> Iterator[tuple[str, tuple[str, int]]]:
        """Every run with the name and array index of its job."""
        for array in self.arrays:
            for index, run_ids in enumerate(array.jobs):
                for run_id in run_ids:
                    yield run_id, (array.name, index)

    def log(self, job_name: str, index: int) -> Path | None:
        """Log file of the first task of a job; None until its job id is known."""
        array = next(array for array in self.arrays if array.name == job_name)
        if array.job_id is None:
            return None
        job = array.job_id if len(array.jobs) == 1 else f"{array.job_id}_{index}"
        return self.path / "jobs" / f"{job}_0_log.out"


def submissions(sweeps: Path, sweep: str | None = None) -> list[Submission]:
    """All submissions of a sweep, or of all sweeps, the oldest first."""
    found = [Submission.load(path.parent) for path in sweeps.glob(f"{sweep or '*'}/slurm/*/{RECORD}")]
    return sorted(found, key=lambda submission: submission.created)


def newest_log(known: Sequence[Submission], run_id: str) -> Path | None:
    """Log of the newest job that trained a run, if it has one.

    Args:
        known: submissions, the oldest first.
        run_id: the run.
    """
    newest = None
    for submission in known:
        for array in submission.arrays:
            for index, run_ids in enumerate(array.jobs):
                log = submission.log(array.name, index) if run_id in run_ids else None
                # A job that claims runs prints the names of its own.
                if log and log.is_file() and (not array.claiming or f"{run_id}: " in log.read_text(errors="replace")):
                    newest = log
    return newest


def new_submission(
    sweeps: Path,
    sweep: str,
    run_ids: Sequence[str],
    options: SlurmOptions,
    max_array_size: int,
    changes: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> Submission:
    """Record a submission. It is not submitted yet.

    Args:
        sweeps: directory of sweep manifests.
        sweep: name of the sweep.
        run_ids: in this order.
        options: of the jobs.
        max_array_size: jobs of an array.
        changes: other options of the jobs of some runs. Runs with the same options are in the same arrays.
    """
    name = f"{re.sub(r'[^A-Za-z0-9.-]', '_', sweep)}-{uuid.uuid4().hex[:6]}"
    found = list(_arrays_of_elements(run_ids, options, max_array_size, changes))
    jobs = sum(len(array.elements) for array in found)
    if options.jobs is not None:
        found, jobs = [], min(options.jobs, jobs)
    for turn in range(1 if found else 0, 1 + options.follow_up):
        counts = [min(max_array_size, jobs - start) for start in range(0, jobs, max_array_size)]
        found += [JobArray("", (tuple(run_ids),), claiming=count, turn=turn) for count in counts]
    arrays = tuple(replace(array, name=f"{name}-{number}") for number, array in enumerate(found))
    submission = Submission(sweeps / sweep / "slurm" / name, time.time(), options.to_dict(), arrays)
    submission.save()
    return submission


def _arrays_of_elements(
    run_ids: Sequence[str], options: SlurmOptions, max_array_size: int, changes: Mapping[str, Mapping[str, Any]]
) -> Iterator[JobArray]:
    groups: dict[str, list[str]] = {}
    for run_id in run_ids:
        groups.setdefault(json.dumps(changes.get(run_id, {})), []).append(run_id)
    for text, members in groups.items():
        own = json.loads(text)
        pack = own.get("pack", options.pack)
        elements = tuple(tuple(members[i : i + pack]) for i in range(0, len(members), pack))
        for start in range(0, len(elements), max_array_size):
            yield JobArray("", elements[start : start + max_array_size], changes=own)


def submit(submission: Submission, code: Path, runs: Path, data: Path) -> Submission:
    """Submit to SLURM and record the job ids.

    Args:
        submission: recorded by `new_submission`.
        code: snapshot of the code for the jobs.
        runs: directory of run directories.
        data: directory of prepared data.

    Raises:
        UserError: if sbatch refuses. Earlier arrays stay submitted and recorded.
    """
    import submitit

    from sweeper.execution.slurm.claiming import ClaimingJob
    from sweeper.execution.slurm.job import SlurmJob

    if submission.options.get("check_gpu"):
        submission = _submit_check(submission, code, runs, data)
    for number, array in enumerate(submission.arrays):
        options = SlurmOptions.from_dict({**submission.options, **array.changes})
        folders = [path.resolve() for path in (runs, data, submission.path.parents[2])]
        executor = submitit.SlurmExecutor(
            folder=(submission.path / "jobs").resolve(), python=python_command(code, options, folders)
        )
        parameters = options.sbatch_parameters(array.name, code, folders)
        parameters["setup"] = stagger(min(len(array.jobs), options.array_parallelism)) + parameters["setup"]
        before = "".join(f":{one.job_id}" for one in submission.queued if one.turn == array.turn - 1)
        after_check = f"afterok:{submission.check}" if submission.check and not array.turn else ""
        extra = parameters["additional_parameters"]
        if known := [*filter(None, [f"afterany{before}" if before else "", after_check, extra.get("dependency")])]:
            extra["dependency"] = ",".join(known)
        executor.update_parameters(**parameters)
        slurm_jobs = []
        for index, run_ids in enumerate(array.jobs):
            slurm_job = SlurmJob(
                runs=str(runs.resolve()),
                data=str(data.resolve()),
                run_ids=run_ids,
                rendezvous_dir=str(submission.path.resolve()),
                ranks=options.ranks,
                attempts=options.attempts,
            )
            slurm_jobs.append(ClaimingJob.of(slurm_job, index, options) if array.claiming else slurm_job)
        with _naming_what_is_queued(submission), refusals_in_one_line(), _outside_of_arrays():
            jobs = executor.map_array(SlurmJob.run, slurm_jobs)
        arrays = list(submission.arrays)
        arrays[number] = replace(array, job_id=str(jobs[0].job_id).split("_")[0])
        submission = replace(submission, arrays=tuple(arrays))
        submission.save()
    return submission


def _submit_check(submission: Submission, code: Path, runs: Path, data: Path) -> Submission:
    """Submit the job that checks a GPU, and record its id."""
    import submitit

    from sweeper.execution.slurm.gpu_check import GpuCheck, options_of_check

    options = options_of_check(SlurmOptions.from_dict(submission.options))
    folders = [path.resolve() for path in (runs, data, submission.path.parents[2])]
    jobs = (submission.path / "jobs").resolve()
    executor = submitit.SlurmExecutor(folder=jobs, python=python_command(code, options, folders))
    executor.update_parameters(**options.sbatch_parameters(f"{submission.name}-check", code, folders))
    run_ids = [run_id for array in submission.arrays for element in array.elements for run_id in element]
    ends = tuple(dict.fromkeys((run_ids[0], run_ids[-1])))
    check = GpuCheck(str(runs.resolve()), ends, str(submission.path.resolve() / "check.json"))
    with refusals_in_one_line(), _outside_of_arrays():
        submission = replace(submission, check=str(executor.submit(check.run).job_id))
    submission.save()
    return submission


def python_command(code: Path, options: SlurmOptions, folders: Sequence[Path] = ()) -> str:
    """Shell words that start Python in a job, see `sweeper.execution.slurm.start`: this one, or that of a container.

    Args:
        code: snapshot of the code for the job.
        options: of the job.
        folders: directories that the job needs.
    """
    start, stage = str(code.resolve() / "sweeper/execution/slurm/start.py"), options.stage
    inside = options.container.command(folders, code.resolve(), gpus=options.gpus_per_node > 0)
    python = sys.executable if options.container.kind is None else options.container.python
    staged = ["--stage", stage, sys.prefix, f"loopsweep-{getuser()}-{environment_digest()}"] if stage else []
    # The shell ignores the warning that may come while the first Python starts.
    shell = ["sh", "-c", "trap '' USR2; exec \"$@\"", "sh"]
    return shlex.join([*shell, *inside, python, "-IS", start, *staged, python])


def environment_digest() -> str:
    """Identifies the virtual environment with its packages, so that a copy of another content has another name."""
    packages = sorted(f"{one.name} {one.version}" for one in distributions())
    return hashlib.sha256("\n".join([sys.prefix, sys.version, *packages]).encode()).hexdigest()[:12]


def stagger(elements: int) -> list[str]:
    """Shell lines that spread the starts of many jobs, which would all import torch from one file server at once."""
    seconds = elements // STARTS_PER_SECOND
    return [f"sleep $((${{SLURM_ARRAY_TASK_ID:-0}} % {seconds + 1}))"] if seconds else []


@contextmanager
def _outside_of_arrays() -> Iterator[None]:
    """Hide that this process may be an element of an array itself. Its jobs would inherit that element's numbers."""
    inherited = {name: os.environ.pop(name) for name in [*os.environ] if name.startswith("SLURM_ARRAY_")}
    try:
        yield
    finally:
        os.environ.update(inherited)


@contextmanager
def refusals_in_one_line() -> Iterator[None]:
    """Turn a refusal of sbatch into a `UserError`, and drop what submitit prints about it."""
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    try:
        with redirect_stderr(io.StringIO()):
            yield
    except (FailedJobError, FailedSubmissionError) as error:
        raise UserError(refusal(str(error))) from error


def refusal(text: str) -> str:
    """What sbatch said, in one line, and what helps against it."""
    lines = [re.sub(r"^(sbatch: )?(error: )?", "", line.strip()) for line in text.splitlines()]
    said = "; ".join(line for line in lines if line and not line.startswith("Try ")) or "it gave no reason"
    remedy = next(remedy for pattern, remedy in REMEDIES if re.search(pattern, said, re.IGNORECASE))
    return f"sbatch refused: {said}; {remedy}"


@contextmanager
def _naming_what_is_queued(submission: Submission) -> Iterator[None]:
    """Add to a refusal which arrays of the same submission were queued before."""
    try:
        yield
    except UserError as error:
        if not submission.queued:
            raise
        labels = ", ".join(array.label for array in submission.queued)
        raise UserError(
            f"{error}. {labels} were queued before and stay; the same command submits the others"
        ) from error


def require_slurm() -> int:
    """Check that this machine can submit. Returns the cluster's MaxArraySize.

    Raises:
        UserError: if it cannot.
    """
    if shutil.which("sbatch") is None:
        raise UserError(
            "hydra/launcher=slurm, but there is no sbatch on this machine; use a login node, or hydra/launcher=local"
        )
    done = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True, env={**os.environ})
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", done.stdout, re.MULTILINE)
    if done.returncode or found is None:
        reason = (done.stderr.strip().splitlines() or ["no answer"])[-1]
        raise UserError(f"the SLURM controller does not answer ({reason}); try again later")
    return max(1, int(found[1]))
