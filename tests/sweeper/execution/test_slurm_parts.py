"""Rules of the parts that need no cluster."""

import json
import math
import os
import shlex
import signal
import subprocess
import sys
import time
import venv
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.plotting import states
from analysis.records import sources
from analysis.stats import transfer
from sweeper.errors import UserError
from sweeper.execution.retry import MaxPerCheckpoint
from sweeper.execution.slurm.job import SlurmJob, Task
from sweeper.execution.slurm.options import SlurmOptions
from sweeper.execution.slurm.queue import Job
from sweeper.execution.slurm.snapshot import take_snapshot
from sweeper.execution.slurm.status import cluster_status
from sweeper.execution.slurm.submission import new_submission, python_command, refusal, stagger, submissions
from sweeper.records.lock import POLL_SECONDS, STALE_SECONDS, RunLock, RunLocked, read_owner
from sweeper.records.run_dir import RunDir
from sweeper.records.status import RunStatus, State
from sweeper.run.outcome import Outcome
from sweeper.run.stop import StopFlag
from sweeper.training.distributed import Ranks

ONE_TASK = {"SLURM_JOB_ID": "12", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_JOB_NUM_NODES": "1"}
REPOSITORY = Path(__file__).parents[3]
LEAST = {
    "max_gpu_hours": 100,
    "yes": False,
    "time": 60,
    "nodes": 1,
    "gpus_per_node": 1,
    "cpus_per_gpu": 8,
    "pack": 1,
    "array_parallelism": 4,
    "warning_seconds": 60,
    "attempts": 3,
}


@pytest.mark.parametrize(
    ("time", "minutes"),
    [
        (90, 90),
        ("90", 90),
        ("24:00:00", 1440),
        ("00:01:30", 2),
        ("2-00", 2880),
        ("1-06:30", 1830),
        ("1-00:00:30", 1441),
    ],
)
def test_time_limits_are_read_as_sbatch_reads_them(time: str | int, minutes: int) -> None:
    assert SlurmOptions.from_dict({**LEAST, "time": time}).minutes == minutes


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("time", "soon"),
        ("time", "10:30"),  # sbatch takes it for minutes and seconds, people for hours and minutes
        ("nodes", 0),
        ("pack", 0),
        ("gpus_per_node", -1),
        ("warning_seconds", 3600),
        ("partitoin", "gpu"),
        ("setup", "module load cuda"),
        ("srun_args", "--foo"),
        ("extra", "foo"),
    ],
)
def test_impossible_option_is_refused_by_name(key: str, value: object) -> None:
    with pytest.raises(UserError, match=f"hydra.launcher.{key}"):
        SlurmOptions.from_dict({**LEAST, key: value})


def test_packed_runs_stay_on_one_node() -> None:
    with pytest.raises(UserError, match="pack=2"):
        SlurmOptions.from_dict({**LEAST, "pack": 2, "nodes": 2})


@pytest.mark.parametrize(
    "given",
    [
        {"extra": {"gpus_per_task": 1}},
        {"extra": {"gpu_bind": "single:1"}},
        {"srun_args": ["--gpu-bind=single:1"]},
        {"srun_args": ["--gpus-per-task=1"]},
    ],
)
def test_options_that_hide_the_gpus_of_a_run_from_each_other_are_refused(given) -> None:
    """Ranks could not copy from one to another. A run on one GPU has none to hide."""
    [key] = given
    with pytest.raises(UserError, match=rf"hydra\.launcher\.{key}: gpu.* hides the GPUs of a run from each other"):
        SlurmOptions.from_dict({**LEAST, "gpus_per_node": 4, **given})
    SlurmOptions.from_dict({**LEAST, "gpus_per_node": 1, **given})
    SlurmOptions.from_dict({**LEAST, "gpus_per_node": 4, "srun_args": ["--gpu-bind=none"]})


def test_any_sbatch_option_can_be_passed() -> None:
    options = SlurmOptions.from_dict({**LEAST, "extra": {"exclude": "node7"}, "partition": "gpu"})
    parameters = options.sbatch_parameters("name", Path("code"))
    assert parameters["additional_parameters"] == {"requeue": True, "exclude": "node7"}
    assert parameters["partition"] == "gpu"
    assert "account" not in parameters


def test_an_option_that_is_null_or_false_is_not_passed_nor_is_a_workload_key() -> None:
    options = SlurmOptions.from_dict({**LEAST, "extra": {"exclusive": False, "nice": None, "hold": True}})
    parameters = options.sbatch_parameters("name", Path("code"))
    assert parameters["additional_parameters"] == {"requeue": True, "hold": True}
    assert parameters["wckey"] is None
    with_key = SlurmOptions.from_dict({**LEAST, "extra": {"wckey": "mine"}}).sbatch_parameters("name", Path("code"))
    assert with_key["additional_parameters"]["wckey"] == "mine"


@pytest.mark.parametrize(
    ("text", "said", "remedy"),
    [
        (
            "sbatch: error: AssocMaxSubmitJobLimit\nsbatch: error: Batch job submission failed: Job violates "
            "accounting/QOS policy (job submit limit, user's size and/or time limits)\n",
            "AssocMaxSubmitJobLimit; Batch job submission failed: Job violates accounting/QOS policy (job submit "
            "limit, user's size and/or time limits)",
            "this site allows fewer jobs at once",
        ),
        ("sbatch: error: QOSMaxSubmitJobPerUserLimit", "QOSMaxSubmitJobPerUserLimit", "this site allows fewer"),
        (
            "sbatch: unrecognized option '--foo'\nTry \"sbatch --help\" for more information",
            "unrecognized option '--foo'",
            "change hydra.launcher.extra",
        ),
        (
            "sbatch: error: Batch job submission failed: Invalid wckey specification",
            "Batch job submission failed: Invalid wckey specification",
            "this site wants a workload key: +hydra.launcher.extra.wckey=KEY",
        ),
        (
            "sbatch: error: invalid partition specified: long\nsbatch: error: Batch job submission failed: Invalid "
            "partition name specified",
            "invalid partition specified: long; Batch job submission failed: Invalid partition name specified",
            "check partition, account and limits in conf/site",
        ),
        ("", "it gave no reason", "check partition"),
    ],
)
def test_a_refusal_says_what_sbatch_said_and_what_helps(text: str, said: str, remedy: str) -> None:
    assert refusal(text).startswith(f"sbatch refused: {said}; {remedy}")


@given(runs=st.integers(1, 60), pack=st.integers(1, 5), limit=st.integers(1, 12))
def test_every_run_has_one_job_and_no_array_is_too_long(
    tmp_path_factory: pytest.TempPathFactory, runs: int, pack: int, limit: int
) -> None:
    run_ids, sweeps = [f"run{number}" for number in range(runs)], tmp_path_factory.mktemp("sweeps")
    submission = new_submission(sweeps, "a=b,c", run_ids, SlurmOptions.from_dict({**LEAST, "pack": pack}), limit)
    assert [run_id for run_id, _ in submission.jobs_by_run()] == run_ids
    assert all(len(array.elements) <= limit for array in submission.arrays)
    assert len({array.name for array in submission.arrays}) == len(submission.arrays)
    assert not any(set(array.name) & set(", |") for array in submission.arrays)
    assert submissions(sweeps) == submissions(sweeps, "a=b,c") == [submission]


def test_a_run_fails_after_the_limit_of_failures_from_one_checkpoint_only(tmp_path: Path) -> None:
    rundir = RunDir(tmp_path)
    rundir.checkpoints.mkdir()
    attempts = MaxPerCheckpoint(limit=2, in_place=True)

    def fails() -> bool:
        return attempts.failed(rundir, Outcome.ERROR, "boom", stopping=False)

    assert fails()
    for step in (10, 20, 30):
        (rundir.checkpoints / f"step-{step:08d}.json").touch()
        assert fails(), "retries are unlimited while new checkpoints are reached"
    assert not fails()
    failure = rundir.failure()
    assert failure is not None
    assert failure["reason"] == "failed 2 times from step 30: boom"
    rundir.reset_failures()
    assert rundir.failure() is None
    assert fails()


@pytest.mark.parametrize(
    ("seen", "job", "state"),
    [
        (RunStatus(State.PENDING), Job("1", "PENDING"), State.PENDING),
        (RunStatus(State.PENDING, step=5), Job("1", "PENDING"), State.PREEMPTED),
        (RunStatus(State.LOST, step=5), Job("1", "PENDING"), State.PREEMPTED),
        (RunStatus(State.LOST, step=5), Job("1", "RUNNING"), State.RUNNING),
        (RunStatus(State.RUNNING, step=5), Job("1", "PENDING"), State.RUNNING),
        (RunStatus(State.LOST, step=5), Job("1", "PENDING", "launch failed requeued held"), State.HELD),
        (RunStatus(State.PENDING), Job("1", "PENDING", "job requeued in held state"), State.HELD),
        (RunStatus(State.PENDING), Job("1", "PENDING", "JobHeldAdmin"), State.HELD),
        (RunStatus(State.PENDING), Job("1", "REQUEUE_HOLD"), State.HELD),
        (RunStatus(State.LOST, step=5), Job("1", "TIMEOUT"), State.TIMEOUT),
        (RunStatus(State.PENDING, step=5), Job("1", "CANCELLED"), State.LOST),
        (RunStatus(State.LOST), Job("1", "NODE_FAIL"), State.LOST),
        (RunStatus(State.LOST), Job("1", "OUT_OF_MEMORY"), State.FAILED),
        (RunStatus(State.FAILED), Job("1", "RUNNING"), State.FAILED),
        (RunStatus(State.DONE), Job("1", "FAILED"), State.DONE),
        (RunStatus(State.PENDING), None, State.PENDING),
    ],
)
def test_a_result_or_failure_in_the_directory_outweighs_what_slurm_says(
    seen: RunStatus, job: Job | None, state: State
) -> None:
    assert cluster_status(seen, job).state is state


def test_figures_know_every_state() -> None:
    assert set(sources.STATES) == set(transfer.STATE_ORDER) == set(State)
    assert set(states.STATE_MARKERS) | {"done"} == set(State) | {"collapsed"}  # which is a judgement, not a state


@given(sequences=st.integers(1, 8), size=st.sampled_from([1, 2, 4, 8]))
def test_ranks_divide_the_batch_in_order(sequences: int, size: int) -> None:
    batch = list(range(sequences * size))
    parts = [Ranks(rank, size).part(len(batch)) for rank in range(size)]
    assert [i for first, count in parts for i in batch[first : first + count]] == batch


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that locks waited, on a clock that only their waiting moves."""
    slept: list[float] = []
    began = time.time()
    monkeypatch.setattr("sweeper.records.lock.time", SimpleNamespace(sleep=slept.append))
    monkeypatch.setattr("sweeper.records.lock.file_system_time", lambda _: began + sum(slept))
    return slept


@pytest.fixture
def cut_off(tmp_path: Path) -> Path:
    """The lock of job 12, whose process on another machine has just shown that it lives."""
    path = tmp_path / "lock"
    path.write_text(json.dumps({"machine": "elsewhere/0/0", "pid": 1, "process_start": "1", "token": "t", "job": "12"}))
    return path


def test_a_requeued_job_waits_until_its_previous_attempt_is_silent(
    cut_off: Path, slept: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    with RunLock(cut_off, StopFlag()):
        owner = read_owner(cut_off)
    assert owner is not None
    assert owner["pid"] == os.getpid()
    assert STALE_SECONDS - 1 < sum(slept) <= STALE_SECONDS + POLL_SECONDS  # the file's time has its own rounding


def test_another_job_does_not_wait_for_a_live_owner(
    cut_off: Path, slept: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "13")
    with pytest.raises(RunLocked, match="elsewhere"), RunLock(cut_off, StopFlag()):
        pass
    assert slept == []


@pytest.mark.parametrize(
    ("scontrol", "reason"),
    [(None, r"no scontrol on .* put it into PATH with hydra\.launcher\.setup"), ("echo denied >&2; exit 1", "denied")],
    ids=["no scontrol", "refused"],
)
def test_a_job_that_cannot_requeue_itself_ends_with_one_line(
    scontrol: str | None, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its run has stopped with a checkpoint, after a warning."""
    if scontrol is not None:
        (tmp_path / "scontrol").write_text(f"#!/bin/sh\n{scontrol}\n")
        (tmp_path / "scontrol").chmod(0o755)
    for name, value in ONE_TASK.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    stopped = {"a": Outcome.STOPPED}, [signal.SIGUSR2]
    monkeypatch.setattr(SlurmJob, "_train", lambda *_: stopped)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(
        SystemExit, match=rf"^error: job 12 cannot requeue itself: .*{reason}.* `loopsweep retry` resumes"
    ):
        SlurmJob(str(tmp_path), str(tmp_path), ("a",), str(tmp_path), ranks=1, attempts=1).run()


@pytest.mark.parametrize(
    ("variables", "job"),
    [
        ({"SLURM_JOB_ID": "12"}, "12"),
        ({"SLURM_JOB_ID": "13", "SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "0"}, "12_0"),
        ({"SLURM_JOB_ID": "12", "SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "1"}, "12_1"),
    ],
    ids=["no array", "element", "last element"],
)
def test_a_job_names_its_element_and_never_the_whole_array(
    variables: dict[str, str], job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    for name, value in (ONE_TASK | variables).items():
        monkeypatch.setenv(name, value)
    assert Task.here().job == job


def test_a_warning_while_python_starts_is_pending_and_needs_no_new_env(tmp_path: Path) -> None:
    """`env` of coreutils before 8.31 refuses `--block-signal`; nothing may depend on it."""
    env = tmp_path / "env"
    env.write_text("#!/bin/sh\necho \"env: unrecognized option '$1'\" >&2\nexit 125\n")
    env.chmod(0o755)
    warned = "import os, signal; os.kill(os.getpid(), 12); print(signal.sigpending() == {signal.SIGUSR2} == {12})"
    warned += "; signal.signal(12, lambda *_: print('handled')); signal.pthread_sigmask(signal.SIG_UNBLOCK, {12})"
    done = subprocess.run(
        ["sh", "-c", f"{python_command(REPOSITORY, SlurmOptions.from_dict(LEAST))} -u -c {shlex.quote(warned)}"],
        env={**os.environ, "PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "True\nhandled\n")


class TestStaged:
    """The environment is copied to the node's own disk by the first task there."""

    @pytest.fixture
    def prefix(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A small virtual environment, that this process seems to run in."""
        prefix = tmp_path / "env"
        venv.create(prefix, symlinks=True)
        monkeypatch.setattr(sys, "prefix", str(prefix))
        monkeypatch.setattr(sys, "executable", str(prefix / "bin" / "python"))
        monkeypatch.setenv("NODE_DISK", str(tmp_path / "disk"))
        return prefix

    def start(self) -> list[str]:
        """What the job's Python takes for its prefix, and errors."""
        options = SlurmOptions.from_dict({**LEAST, "stage": "$NODE_DISK"})
        command = f"{python_command(REPOSITORY, options)} -c 'import sys; print(sys.prefix)'"
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
        return [done.stdout.strip(), done.stderr]

    def test_once(self, prefix: Path, tmp_path: Path) -> None:
        used, errors = self.start()
        assert errors == ""
        copy = Path(used)
        assert copy.parent == tmp_path / "disk"
        (copy / "mark").touch()
        assert self.start() == [used, ""]
        assert (copy / "mark").exists(), "it was copied again"

    def test_a_half_copy_of_a_task_that_was_killed_is_made_anew(self, prefix: Path, tmp_path: Path) -> None:
        copy = Path(self.start()[0])
        copy.rename(copy.with_name(f"{copy.name}.half"))
        assert self.start() == [str(copy), ""]

    def test_without_room_the_environment_is_used_where_it_is(self, prefix: Path, tmp_path: Path) -> None:
        (tmp_path / "disk").touch()
        used, errors = self.start()
        assert used == str(prefix)
        assert errors == f"no copy of {prefix} in {tmp_path}/disk (File exists); using it where it is\n"


@given(elements=st.integers(1, 1000))
def test_jobs_of_an_array_start_at_most_some_in_a_second(elements: int) -> None:
    lines = stagger(elements)
    assert len(lines) == (elements >= 8)
    if lines:
        seconds = int(lines[0].rpartition("% ")[2].removesuffix("))"))
        assert math.ceil(elements / seconds) <= 8


def test_same_code_is_the_same_snapshot(tmp_path: Path) -> None:
    first, second = take_snapshot(tmp_path), take_snapshot(tmp_path)
    assert first == second
    assert (first / "sweeper/execution/slurm/job.py").is_file()
    assert list(tmp_path.iterdir()) == [first]


def test_metrics_tail_equals_the_last_values_of_the_whole_file(tmp_path: Path) -> None:
    rundir = RunDir(tmp_path)
    assert rundir.last_metrics() == {}
    lines = [f'{{"step": {step}, "loss": {math.sqrt(step)}}}' for step in range(500)]
    rundir.metrics.write_text("\n".join(lines) + '\n{"step": 500, "lo')  # a torn line, left by a kill
    assert rundir.last_metrics() == {"step": 499, "loss": math.sqrt(499)}
    stream = {f"stream_{what}_{n}": math.sqrt(n) for what in ("norm", "grad") for n in range(1, 65)}
    rundir.metrics.write_text("\n".join([*lines, json.dumps({"step": 500, "loss": 2.0, **stream}), '{"st']))
    assert rundir.last_metrics()["step"] == 500  # also behind the longest lines, of 64 loop steps
