"""A pool of warm worker processes on this machine, one run each at a time.

If a worker dies, even by `kill -9`, its run has lost one attempt. The run is tried once more from its last checkpoint.
After that it counts as failed. Other runs are not affected.
"""

import json
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from sweeper.errors import UserError
from sweeper.execution.retry import MaxPerSubmission, RetryPolicy
from sweeper.hardware import GPU_ENVIRONMENT, visible_gpus
from sweeper.records.run_dir import RunDir
from sweeper.run.outcome import Outcome
from sweeper.training.distributed import RankInfo

MAX_EARLY_DEATHS = 2
TICK_SECONDS = 0.25
# Keep freed memory in the process for the next step. Returning pages to the system means that it zeroes them again.
# Allocate large tensors in huge pages, if the kernel offers them.
ALLOCATOR = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    "MALLOC_TOP_PAD_": str(2**26),
    "THP_MEM_ALLOC_ENABLE": "1",
}


def worker_environment(threads: int, *, on_gpu: bool = False) -> dict[str, str]:
    """Environment of a process that trains with `threads` CPU threads. What is set already stays."""
    return {**ALLOCATOR, **(GPU_ENVIRONMENT if on_gpu else {}), **os.environ, "OMP_NUM_THREADS": str(threads)}


class View(Protocol):
    """Receives the events of a pool."""

    def started(self, slot: int, run_id: str) -> None:
        """A worker started a run."""

    def progress(self, slot: int, event: dict[str, Any]) -> None:
        """A run reported `step`, `steps`, `loss`, `tokens_per_second`."""

    def ended(self, slot: int, run_id: str, outcome: Outcome, reason: str) -> None:
        """An attempt ended."""

    def retrying(self, run_id: str, reason: str) -> None:
        """An attempt failed and is repeated."""

    def stopping(self) -> None:
        """The user asked to stop. Workers are writing checkpoints."""

    def tick(self) -> None:
        """Called about every `TICK_SECONDS`."""


@dataclass
class _Worker:
    slot: int
    process: subprocess.Popen[bytes]
    run_id: str | None = None
    ready: bool = False
    buffer: bytes = b""

    def events(self) -> tuple[list[dict[str, Any]], bool]:
        """New events, and whether the worker closed its output."""
        assert self.process.stdout is not None
        data = os.read(self.process.stdout.fileno(), 65536)
        *lines, self.buffer = (self.buffer + data).split(b"\n")
        return [json.loads(line) for line in lines], not data


@dataclass
class WorkerPool:
    """Executes runs in the order in which they are given, at most `workers` at once.

    Args:
        runs: directory of run directories.
        data: directory of prepared data.
        workers: number of processes.
        threads: CPU threads of each process.
        gpus: give worker i the i-th GPU. Workers share GPUs if there are fewer GPUs than workers.
        view: receives the events.
        retry_policy: the rule for failed runs.
        rank_info: of this process among the ranks of a run. The pool then has one worker and one run.
        first_gpu: GPU of worker 0.
        signals: the signals that stop the pool cleanly.
        may_kill: whether a second signal kills the workers. Under SLURM it does not, because SLURM kills them.
    """

    runs: Path
    data: Path
    workers: int
    threads: int
    gpus: bool
    view: View
    retry_policy: RetryPolicy = field(default_factory=MaxPerSubmission)
    rank_info: RankInfo = field(default_factory=RankInfo)
    first_gpu: int = 0
    signals: Sequence[signal.Signals] = (signal.SIGINT, signal.SIGTERM)
    may_kill: bool = True
    received: list[int] = field(default_factory=list, init=False)  # received signals, in order
    _source: Iterator[str] = field(default_factory=lambda: iter(()), init=False)
    _queue: list[str] = field(default_factory=list, init=False)  # runs that come before those of the source
    _outcomes: dict[str, tuple[Outcome, str]] = field(default_factory=dict, init=False)
    _selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector, init=False)
    _early_deaths: int = field(default=0, init=False)

    def run(self, run_ids: Iterable[str]) -> dict[str, tuple[Outcome, str]]:
        """Execute all runs, or as many as possible before a signal.

        Args:
            run_ids: each is taken when a worker is free for it, so an iterator may decide then which run is next.

        Returns:
            Outcome and reason of every run that was started.

        Raises:
            UserError: if no worker can start.
        """
        self._source = iter(run_ids)
        workers = min(self.workers, len(run_ids)) if isinstance(run_ids, Sized) else self.workers
        stopping = False
        with self._stopping_on_signals():
            try:
                for slot in range(workers):
                    self._spawn(slot)
                while self._selector.get_map():
                    for key, _ in self._selector.select(TICK_SECONDS):
                        self._serve(key.data)
                    if self.received and not stopping:
                        stopping = True
                        self.view.stopping()
                    self.view.tick()
            finally:
                self._end_workers()
        return self._outcomes

    def _spawn(self, slot: int) -> None:
        environment = worker_environment(self.threads, on_gpu=self.gpus)
        if self.gpus and (names := visible_gpus()):
            environment["CUDA_VISIBLE_DEVICES"] = names[(self.first_gpu + slot) % len(names)]
        process = subprocess.Popen(
            [sys.executable, "-m", "sweeper.execution.worker", str(self.data)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        assert process.stdout is not None
        self._selector.register(process.stdout, selectors.EVENT_READ, _Worker(slot, process))

    def _serve(self, worker: _Worker) -> None:
        events, closed = worker.events()
        for event in events:
            match event["event"]:
                case "ready":
                    worker.ready = True
                    self._assign(worker)
                case "progress":
                    self.view.progress(worker.slot, event)
                case "ended":
                    assert worker.run_id is not None
                    self._ended(worker, worker.run_id, Outcome(event["outcome"]), event["reason"])
                    self._assign(worker)
        if closed:
            self._reap(worker)

    def _assign(self, worker: _Worker) -> None:
        assert worker.process.stdin is not None
        worker.run_id = self._next()
        if worker.run_id is None:
            worker.process.stdin.close()
            return
        self.view.started(worker.slot, worker.run_id)
        task = json.dumps({"run": str(self.runs / worker.run_id), "rank_info": asdict(self.rank_info)}) + "\n"
        try:
            worker.process.stdin.write(task.encode())
            worker.process.stdin.flush()
        except BrokenPipeError:
            pass  # the worker died; its closed output is handled next

    def _next(self) -> str | None:
        """The run that comes next; None if none is left, or the pool is stopping."""
        if self.received:
            return None
        return self._queue.pop(0) if self._queue else next(self._source, None)

    def _ended(self, worker: _Worker, run_id: str, outcome: Outcome, reason: str) -> None:
        if outcome in (Outcome.ERROR, Outcome.INVALID):
            rundir = RunDir(self.runs / run_id)
            if self.retry_policy.failed(rundir, outcome, reason, stopping=bool(self.received)):
                self._queue.insert(0, run_id)
                self.view.retrying(run_id, reason)
                return
        self._outcomes[run_id] = (outcome, reason)
        self.view.ended(worker.slot, run_id, outcome, reason)

    def _reap(self, worker: _Worker) -> None:
        """Reap a worker that exited. Start a replacement if work remains."""
        assert worker.process.stdout is not None
        self._selector.unregister(worker.process.stdout)
        worker.process.stdout.close()
        status = worker.process.wait()
        if worker.run_id is not None:
            cause = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
            self._ended(worker, worker.run_id, Outcome.ERROR, f"worker died with {cause}")
        elif not worker.ready and not self.received:
            self._early_deaths += 1
            if self._early_deaths >= MAX_EARLY_DEATHS:
                raise UserError(
                    f"worker processes end with status {status} before they start; "
                    f"try `{Path(sys.executable).name} -c 'import sweeper.execution.execute_run'`"
                )
        if (run_id := self._next()) is not None:
            self._queue.insert(0, run_id)
            self._spawn(worker.slot)

    @contextmanager
    def _stopping_on_signals(self) -> Iterator[None]:
        """First signal: stop cleanly. Second signal, if `may_kill`: kill. Checkpoints on disk remain valid."""
        previous = {number: signal.signal(number, self._on_signal) for number in self.signals}
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self.signals)  # the parent may have blocked them until now
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, _: object) -> None:
        self.received.append(number)
        first = len(self.received) == 1
        for worker in self._workers():
            if first or self.may_kill:
                worker.process.send_signal(signal.SIGTERM if first else signal.SIGKILL)

    def _workers(self) -> list[_Worker]:
        return [key.data for key in self._selector.get_map().values()]

    def _end_workers(self) -> None:
        for worker in self._workers():
            worker.process.kill()
            worker.process.wait()
        self._selector.close()
