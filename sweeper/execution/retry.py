"""When a run that failed is tried again, and when it is given up."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Protocol

from sweeper.records.run_dir import RunDir
from sweeper.run.outcome import Outcome


class RetryPolicy(Protocol):
    """A rule for failed attempts."""

    def failed(self, rundir: RunDir, outcome: Outcome, reason: str, *, stopping: bool) -> bool:
        """Take note of an attempt that ended in ERROR or INVALID.

        Args:
            rundir: of the run; failure.json is written there if it is given up.
            outcome: how the attempt ended.
            reason: why, in one line.
            stopping: the pool is about to end, so nothing is tried again in it.

        Returns:
            True if the pool should try the run again.
        """


@dataclass
class MaxPerSubmission:
    """`limit` attempts in one pool; the next submission starts to count anew."""

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
    """`limit` attempts from one checkpoint, counted on disk, through requeues and on any node.

    A run that gets on between failures is tried for ever; one that fails again and again before its next checkpoint is
    poisoned.

    Attributes:
        limit: attempts from one checkpoint.
        in_place: try again in this pool; otherwise only `again` tells that the run should be.
        again: a failed run is left that may be tried again.
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
            rundir.write_failure(f"gave up after {count} failures from step {step}: {reason}", count)
            return False
        if self.in_place and not stopping:
            return True
        self.again = True
        return False


@dataclass(frozen=True)
class FollowRankZero:
    """Of a rank above 0: what becomes of the run is for rank 0 to say."""

    def failed(self, rundir: RunDir, outcome: Outcome, reason: str, *, stopping: bool) -> bool:
        """See `RetryPolicy`."""
        return False
