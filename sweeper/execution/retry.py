"""When a failed run is tried again, and when it counts as failed for good."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Protocol

from sweeper.records.run_dir import RunDir
from sweeper.run.outcome import Outcome


class RetryPolicy(Protocol):
    """A rule for failed attempts."""

    def failed(self, rundir: RunDir, outcome: Outcome, reason: str, *, stopping: bool) -> bool:
        """Record an attempt that ended in ERROR or INVALID.

        Args:
            rundir: directory of the run. failure.json is written there if the run is not tried again.
            outcome: outcome of the attempt.
            reason: why it failed, in one line.
            stopping: whether the pool is stopping, so that it retries nothing.

        Returns:
            True if the pool should try the run again.
        """


@dataclass
class MaxPerSubmission:
    """`limit` attempts in one pool. The next submission counts from zero."""

    limit: int = 2
    _counts: Counter[str] = field(default_factory=Counter, init=False)

    def failed(self, rundir: RunDir, outcome: Outcome, reason: str, *, stopping: bool) -> bool:
        """See `RetryPolicy`."""
        self._counts[rundir.path.name] += 1
        if outcome is Outcome.ERROR and self._counts[rundir.path.name] < self.limit and not stopping:
            return True
        rundir.write_failure(reason, self._counts[rundir.path.name])
        return False


@dataclass
class MaxPerCheckpoint:
    """`limit` attempts per checkpoint, counted on disk, across requeues and nodes.

    Retries are unlimited as long as a new checkpoint is reached. Otherwise the run fails after `limit` attempts.

    Attributes:
        limit: attempts from one checkpoint.
        in_place: whether to retry in this pool. Otherwise `again` is set.
        again: whether a failed run may be tried again in the next job.
    """

    limit: int
    in_place: bool
    again: bool = False

    def failed(self, rundir: RunDir, outcome: Outcome, reason: str, *, stopping: bool) -> bool:
        """See `RetryPolicy`."""
        if outcome is Outcome.INVALID:
            rundir.write_failure(reason, 1)
            return False
        step, count = rundir.count_attempt()
        if count >= self.limit:
            rundir.write_failure(f"failed {count} times from step {step}: {reason}", count)
            return False
        if self.in_place and not stopping:
            return True
        self.again = True
        return False


@dataclass(frozen=True)
class FollowRankZero:
    """The rule of a rank above 0: only rank 0 decides about the run."""

    def failed(self, rundir: RunDir, outcome: Outcome, reason: str, *, stopping: bool) -> bool:
        """See `RetryPolicy`."""
        return False
