"""Jobs that claim runs: which run comes next, who waits for whom, and how a job ends."""

import json
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sweeper.execution.slurm import claiming
from sweeper.execution.slurm.claiming import PATIENCE_SECONDS, Announcements, ClaimingJob, Claims
from sweeper.execution.slurm.job import SlurmJob
from sweeper.execution.slurm.options import SlurmOptions
from sweeper.execution.slurm.queue import Job
from sweeper.execution.slurm.status import cluster_status
from sweeper.execution.slurm.submission import JobArray, Submission, new_submission, newest_log, submissions
from sweeper.records.lock import RunLock
from sweeper.records.run_dir import RunDir
from sweeper.records.status import RunStatus, State, run_status
from sweeper.run.stop import StopFlag

from .test_slurm_parts import LEAST, ONE_TASK

RUN_IDS = ("a", "b", "c")


def yes() -> bool:
    return True


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Three runs that were submitted."""
    for run_id in RUN_IDS:
        (tmp_path / run_id).mkdir()
        (tmp_path / run_id / "config.yaml").touch()
    return tmp_path


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that jobs waited, on a clock that only their waiting moves."""
    slept: list[float] = []
    clock = SimpleNamespace(sleep=slept.append, monotonic=lambda: sum(slept))
    monkeypatch.setattr(claiming, "time", clock)
    return slept


def finish(runs: Path, run_id: str) -> None:
    RunDir(runs / run_id).write_result({"state": "done"})


def owned(runs: Path, run_id: str) -> RunLock:
    return RunLock(RunDir(runs / run_id).lock, StopFlag())


def test_the_first_run_without_result_failure_and_live_owner_is_taken(runs: Path) -> None:
    taken = Claims(runs, RUN_IDS).take(yes)
    assert next(taken) == "a"
    finish(runs, "a")
    with owned(runs, "b"):
        assert next(taken) == "c"
    assert next(taken) == "b"
    RunDir(runs / "b").write_failure("boom", 3)
    (runs / "c" / "config.yaml").unlink()  # the user has removed the run
    assert list(taken) == []


def test_jobs_that_start_together_take_different_runs_and_then_the_longest(runs: Path) -> None:
    assert [next(Claims(runs, RUN_IDS, index).take(yes)) for index in range(5)] == ["a", "b", "c", "c", "c"]
    taken = Claims(runs, RUN_IDS, index=2).take(yes)
    assert [next(taken), next(taken)] == ["c", "a"]


def test_a_job_waits_for_the_run_of_an_owner_that_may_be_dead_but_not_longer(runs: Path, slept: list[float]) -> None:
    claims = Claims(runs, RUN_IDS)
    finish(runs, "a")
    finish(runs, "b")
    with owned(runs, "c"):
        assert claims.wait(yes) == []
        assert PATIENCE_SECONDS < sum(slept) < PATIENCE_SECONDS + 5
    assert claims.wait(yes) == ["c"]
    finish(runs, "c")
    slept.clear()
    assert claims.wait(yes) == []
    assert slept == []


def test_the_other_ranks_follow_what_rank_0_announces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    announcements = Announcements(tmp_path / "claims.json")
    to_say = iter([(0, "a"), (2, "c"), (-1, None)])  # 1 was over before this rank looked
    monkeypatch.setattr(claiming, "time", SimpleNamespace(sleep=lambda _: announcements.announce(*next(to_say))))
    assert list(announcements.follow(yes)) == [(0, "a"), (2, "c")]


class FakePool:
    """Takes runs, and ends each as `train` says. Stands for the training processes of a job."""

    def __init__(self, train: Callable[[str], None], received: Sequence[int]) -> None:
        self.train, self.received = train, received

    def run(self, run_ids: Sequence[str]) -> None:
        for run_id in run_ids:
            self.train(run_id)
            if self.received:
                return


class TestJob:
    """How a job ends."""

    @pytest.fixture(autouse=True)
    def alone(self, monkeypatch: pytest.MonkeyPatch, slept: list[float]) -> None:
        for name, value in ONE_TASK.items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)
        monkeypatch.setattr(claiming, "_noting_signals", list)

    def trained(
        self,
        runs: Path,
        monkeypatch: pytest.MonkeyPatch,
        train: Callable[[str], Any],
        received: Sequence[int] = (),
        ranks: int = 1,
    ) -> tuple[list[str], list[str]]:
        """Runs that a job of an hour took, and the job if it requeued itself."""
        taken: list[str] = []
        requeued: list[str] = []

        def noted(run_id: str) -> None:
            taken.append(run_id)
            train(run_id)

        monkeypatch.setattr(SlurmJob, "_pool", lambda *_: FakePool(noted, received))
        monkeypatch.setattr(claiming, "requeue", lambda task: requeued.append(task.job))
        job = SlurmJob(str(runs), str(runs), RUN_IDS, str(runs), ranks=ranks, attempts=3)
        ClaimingJob.of(job, 0, SlurmOptions.from_dict({**LEAST, "jobs": 1})).run()
        return taken, requeued

    @pytest.mark.parametrize("ranks", [1, 2])
    def test_one_job_trains_all_runs(self, ranks: int, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        taken, requeued = self.trained(runs, monkeypatch, lambda run_id: finish(runs, run_id), ranks=ranks)
        assert (taken, requeued) == (["a", "b", "c"], [])
        said = json.loads((runs / "claims-12-0.json").read_text())
        assert said["run"] is None

    def test_after_a_warning_it_requeues_itself(self, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert self.trained(runs, monkeypatch, lambda _: None, [signal.SIGUSR2]) == (["a"], ["12"])

    def test_after_the_warning_of_the_last_run_it_ends(self, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for run_id in "bc":
            finish(runs, run_id)
        assert self.trained(runs, monkeypatch, lambda _: finish(runs, "a"), [signal.SIGUSR2]) == (["a"], [])

    def test_with_little_time_left_it_takes_no_run_and_requeues_itself(
        self, runs: Path, monkeypatch: pytest.MonkeyPatch, slept: list[float]
    ) -> None:
        def train(run_id: str) -> None:
            finish(runs, run_id)
            slept.append(29.5 * 60)  # the limit is an hour, the warning comes a minute before

        assert self.trained(runs, monkeypatch, train) == (["a", "b"], ["12"])

    def test_a_signal_without_a_warning_names_what_is_left(self, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(SystemExit, match="stopped with 3 runs unfinished; `loopsweep retry` resumes them"):
            self.trained(runs, monkeypatch, lambda _: None, [signal.SIGTERM])

    def test_a_failed_run_is_named_at_the_end(self, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def train(run_id: str) -> None:
            if run_id == "b":
                RunDir(runs / "b").write_failure("boom", 3)
            else:
                finish(runs, run_id)

        with pytest.raises(SystemExit, match="error: b: boom"):
            self.trained(runs, monkeypatch, train)


@pytest.mark.parametrize(
    ("count", "jobs", "pack", "limit", "arrays"),
    [(60, 4, 1, 1000, [4]), (60, 4, 1, 3, [3, 1]), (2, 4, 1, 1000, [2]), (7, 4, 3, 1000, [3])],
)
def test_a_submission_has_as_many_claiming_jobs_as_asked_for(
    count: int, jobs: int, pack: int, limit: int, arrays: list[int], tmp_path: Path
) -> None:
    run_ids = [f"run{number}" for number in range(count)]
    options = SlurmOptions.from_dict({**LEAST, "jobs": jobs, "pack": pack})
    submission = new_submission(tmp_path, "s", run_ids, options, limit)
    assert [array.claiming for array in submission.arrays] == [len(array.jobs) for array in submission.arrays] == arrays
    assert {job for array in submission.arrays for job in array.jobs} == {tuple(run_ids)}
    assert submissions(tmp_path) == [submission]


def test_jobs_elsewhere_may_be_added_to_jobs_that_claim_runs() -> None:
    first = SlurmOptions.from_dict({**LEAST, "jobs": 4, "partition": "long"})
    submission = Submission(Path("s"), 1e9, first.to_dict(), ())
    assert submission.goes_where(replace(first, jobs=2, time=30))
    assert not submission.goes_where(replace(first, partition="short"))


@pytest.mark.parametrize(
    ("seen", "job", "state"),
    [
        (RunStatus(State.PENDING), "RUNNING", State.PENDING),
        (RunStatus(State.LOST, step=5), "RUNNING", State.PREEMPTED),
        (RunStatus(State.PENDING), "PENDING", State.PENDING),
        (RunStatus(State.PENDING), "REQUEUE_HOLD", State.HELD),
        (RunStatus(State.PENDING), "FAILED", State.LOST),
        (RunStatus(State.RUNNING, job="1_3"), "RUNNING", State.RUNNING),
    ],
)
def test_a_run_is_not_taken_for_the_one_that_a_claiming_job_works_on(seen: RunStatus, job: str, state: State) -> None:
    status = cluster_status(seen, Job("1_0", job, claiming=True))
    assert status.state is state
    assert status.job == ("1_3" if state is State.RUNNING else "1_0" if state is State.HELD else "")


def test_a_running_run_names_the_job_that_owns_it(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"JOB_ID": "15", "ARRAY_JOB_ID": "12", "ARRAY_TASK_ID": "3"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    with owned(runs, "a"):
        assert run_status(runs / "a").job == "12_3"


def test_the_log_of_a_run_is_that_of_the_job_that_claimed_it(tmp_path: Path) -> None:
    jobs = tmp_path / "jobs"
    jobs.mkdir()
    submission = Submission(tmp_path, 1e9, {}, (JobArray("s", (RUN_IDS,), "7", claiming=2),))
    for index, text in enumerate(["a: started\nb: started\n", "c: started\n"]):
        (jobs / f"7_{index}_0_log.out").write_text(text)
    assert newest_log([submission], "b") == jobs / "7_0_0_log.out"
    assert newest_log([submission], "c") == jobs / "7_1_0_log.out"
    assert newest_log([submission], "d") is None
