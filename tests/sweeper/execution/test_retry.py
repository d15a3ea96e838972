"""Which failed attempts are tried again, and what is recorded when a run fails for good."""

from pathlib import Path

import pytest

from sweeper.execution.retry import FollowRankZero, MaxPerCheckpoint, MaxPerSubmission, RetryPolicy
from sweeper.records.run_dir import RunDir
from sweeper.run.outcome import Outcome


@pytest.fixture
def rundir(tmp_path: Path) -> RunDir:
    rundir = RunDir(tmp_path / "run")
    rundir.checkpoints.mkdir(parents=True)
    return rundir


def again(policy: RetryPolicy, rundir: RunDir, outcome: Outcome = Outcome.ERROR, *, stopping: bool = False) -> bool:
    """Whether an attempt that ended so is tried again in this pool."""
    return policy.failed(rundir, outcome, "boom", stopping=stopping)


def recorded(rundir: RunDir) -> tuple[str, int] | None:
    failure = rundir.failure()
    return None if failure is None else (failure["reason"], failure["attempts"])


def test_a_submission_tries_each_run_twice(rundir: RunDir, tmp_path: Path) -> None:
    other, policy = RunDir(tmp_path / "other"), MaxPerSubmission()
    other.path.mkdir()
    assert again(policy, rundir)
    assert again(policy, other)
    assert recorded(rundir) is None
    assert not again(policy, rundir)
    assert (recorded(rundir), recorded(other)) == (("boom", 2), None)
    assert again(MaxPerSubmission(), rundir)  # the next submission counts from zero


@pytest.mark.parametrize("policy", [MaxPerSubmission(), MaxPerCheckpoint(3, in_place=True)], ids=["local", "slurm"])
def test_an_invalid_run_is_never_tried_again(rundir: RunDir, policy: RetryPolicy) -> None:
    assert not again(policy, rundir, Outcome.INVALID)
    assert recorded(rundir) == ("boom", 1)


def test_a_pool_that_stops_tries_nothing_again(rundir: RunDir) -> None:
    """On this machine the run has failed. A job leaves it to its next start."""
    job = MaxPerCheckpoint(3, in_place=True)
    assert not again(job, rundir, stopping=True)
    assert (recorded(rundir), job.again) == (None, True)
    assert not again(MaxPerSubmission(), rundir, stopping=True)
    assert recorded(rundir) == ("boom", 1)


def test_failures_are_counted_per_checkpoint_across_jobs(rundir: RunDir) -> None:
    assert again(MaxPerCheckpoint(2, in_place=True), rundir)
    (rundir.checkpoints / "step-00000010.json").touch()
    assert again(MaxPerCheckpoint(2, in_place=True), rundir)
    last = MaxPerCheckpoint(2, in_place=True)
    assert not again(last, rundir)
    assert recorded(rundir) == ("failed 2 times from step 10: boom", 2)
    assert not last.again


def test_a_run_of_several_ranks_is_tried_again_by_the_next_job(rundir: RunDir) -> None:
    policy = MaxPerCheckpoint(2, in_place=False)
    assert not again(policy, rundir)
    assert policy.again
    assert recorded(rundir) is None


def test_a_rank_above_zero_records_nothing(rundir: RunDir) -> None:
    assert not again(FollowRankZero(), rundir)
    assert not list(rundir.path.glob("*.json"))
