"""Jobs that claim runs: k jobs train all runs of a submission, one after the other.

A job takes the first run that is unfinished and has no live owner, until there is none. The lock of a run is the claim:
of two jobs that take the same run, one becomes its owner, and the other takes the next. The run of a job that died is
free once its lock has no live owner, and is claimed by any job.

After the warning of the time limit, or if little time is left for another run, the job requeues itself, if there are
runs to claim.
"""

import itertools
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from sweeper.execution.retry import FollowRankZero, MaxPerCheckpoint
from sweeper.execution.slurm.job import SIGNALS, Interrupted, RunsFailed, SlurmJob, Task, requeue
from sweeper.execution.slurm.options import SlurmOptions
from sweeper.files import read_json, write_json
from sweeper.records.lock import HEARTBEAT_SECONDS, STALE_SECONDS, is_alive
from sweeper.records.run_dir import RunDir

POLL_SECONDS = 1.0
# How long a job without a run waits for one of an owner that may be dead. An idle GPU should not wait longer.
PATIENCE_SECONDS = STALE_SECONDS + HEARTBEAT_SECONDS


@dataclass
class Claims:
    """The runs that may be claimed.

    Attributes:
        runs: directory of run directories.
        run_ids: in the order in which they are claimed.
        index: the job's number. Its first run is this far down the list, as jobs mostly start together.
    """

    runs: Path
    run_ids: Sequence[str]
    index: int = 0
    _finished: set[str] = field(default_factory=set, init=False)

    def free(self) -> list[str]:
        """Runs that are unfinished, have not failed, and have no live owner."""
        return [run_id for run_id in self.unfinished() if not is_alive(RunDir(self.runs / run_id).lock)]

    def unfinished(self) -> list[str]:
        """Runs that are unfinished and have not failed. A run whose directory was removed is none."""
        left = []
        for run_id in self.run_ids:
            rundir = RunDir(self.runs / run_id)
            if run_id in self._finished or not rundir.config.exists():
                continue
            if rundir.result() is not None:
                self._finished.add(run_id)
            elif rundir.failure() is None:
                left.append(run_id)
        return left

    def take(self, going_on: Callable[[], bool]) -> Iterator[str]:
        """Runs to train, each chosen when it is asked for, as long as `going_on()`."""
        while going_on() and (free := self.free()):
            chosen = free[min(self.index, len(free) - 1)]
            self.index = 0
            yield chosen

    def wait(self, going_on: Callable[[], bool]) -> list[str]:
        """Wait until runs are free. Empty if none is left, or none becomes free for `PATIENCE_SECONDS`."""
        end = time.monotonic() + PATIENCE_SECONDS
        while going_on() and self.unfinished():
            if (free := self.free()) or time.monotonic() > end:
                return free
            time.sleep(POLL_SECONDS)
        return []


@dataclass(frozen=True)
class Announcements:
    """What rank 0 of a job claims, for its other ranks: a file in a shared directory."""

    path: Path

    def announce(self, number: int, run_id: str | None) -> None:
        """Say which run is trained as the job's `number`-th, or that there is none."""
        write_json(self.path, {"number": number, "run": run_id})

    def follow(self, going_on: Callable[[], bool]) -> Iterator[tuple[int, str]]:
        """Every run that is announced, with its number."""
        last = None
        while going_on():
            said = read_json(self.path)
            if not said or said["number"] == last:
                time.sleep(POLL_SECONDS)
                continue
            last, run_id = said["number"], said["run"]
            if run_id is None:
                return
            yield last, run_id


@dataclass(frozen=True)
class ClaimingJob(SlurmJob):
    """A job that claims runs from `run_ids`.

    Attributes:
        index: the job's number in its array.
        pack: runs to train in parallel.
        minutes: the job's time limit.
        warning_seconds: SLURM warns this long before it.
    """

    index: int
    pack: int
    minutes: int
    warning_seconds: int

    @classmethod
    def of(cls, job: SlurmJob, index: int, options: SlurmOptions) -> "ClaimingJob":
        """Like `job`, whose runs are those to claim from."""
        return cls(**asdict(job), index=index, pack=options.pack, minutes=options.minutes,
                   warning_seconds=options.warning_seconds)  # fmt: skip

    def _run(self) -> None:
        received = _noting_signals()
        task = Task.here()
        announcements = Announcements(Path(self.rendezvous_dir) / f"claims-{task.job}-{task.restarts}.json")
        if task.rank > 0:
            self._follow(announcements, task, received)
            return
        claims = Claims(Path(self.runs), self.run_ids, self.index)
        policy = MaxPerCheckpoint(self.attempts, in_place=self.ranks == 1)
        # A run that starts just before the warning would only start and stop.
        last_start = time.monotonic() + max(60 * self.minutes - 2 * self.warning_seconds, 30 * self.minutes)

        def going_on() -> bool:
            return not received and not policy.again and time.monotonic() < last_start

        try:
            for number in itertools.count():
                if not (free := claims.wait(going_on)):
                    break
                taken: Iterable[str] = claims.take(going_on)
                if self.ranks > 1:  # they need a new rendezvous for every run
                    taken = list(itertools.islice(taken, 1)) or free[:1]
                    announcements.announce(number, taken[0])
                pool = self._pool(free[0], min(self.pack, len(free)), policy, task, number)
                pool.run(taken)
                received += pool.received
        finally:
            announcements.announce(-1, None)
        self._conclude(claims.free(), task, received, again=policy.again)

    def _follow(self, announcements: Announcements, task: Task, received: list[int]) -> None:
        """The part of a rank above 0: train what rank 0 claims."""

        def going_on() -> bool:
            return not received

        for number, run_id in announcements.follow(going_on):
            pool = self._pool(run_id, 1, FollowRankZero(), task, number)
            pool.run([run_id])
            received.extend(pool.received)

    def _conclude(self, free: Sequence[str], task: Task, received: Sequence[int], *, again: bool) -> None:
        """Requeue the job if it has something to do."""
        if (free or again) and (not received or signal.SIGUSR2 in received):
            requeue(task)
            return
        if free:
            raise Interrupted(f"stopped with {len(free)} runs unfinished; `loopsweep retry` resumes them")
        failures = {run_id: self._rundir(run_id).failure() for run_id in self.run_ids}
        if failed := [f"{run_id}: {failure.get('reason')}" for run_id, failure in failures.items() if failure]:
            raise RunsFailed("; ".join(failed))


def _noting_signals() -> list[int]:
    """The signals that arrive from now on."""
    received: list[int] = []
    for number in SIGNALS:
        signal.signal(number, lambda number, _: received.append(number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    return received
