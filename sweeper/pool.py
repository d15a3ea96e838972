"""A pool of warm worker processes on this machine, one run each at a time.

A worker that dies, even by `kill -9`, costs its run one attempt: the run is tried once more from its last checkpoint,
then counts as failed. Everything else goes on.
"""

import json
import os
import selectors
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from sweeper.errors import UserError
from sweeper.outcome import Outcome
from sweeper.rundir import RunDir

MAX_ATTEMPTS = 2
TICK_SECONDS = 0.25
# Keep freed activations in the process instead of handing their pages back after every operation.
ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": str(2**25),
    "MALLOC_TRIM_THRESHOLD_": str(2**32),
    "MALLOC_TOP_PAD_": str(2**26),
}


def worker_environment(threads: int) -> dict[str, str]:
    """Environment of a process that trains with `threads` CPU threads."""
    return {**ALLOCATOR, **os.environ, "OMP_NUM_THREADS": str(threads)}


class View(Protocol):
    """What the pool tells while it works."""

    def started(self, slot: int, run_id: str) -> None:
        """A worker took up a run."""

    def progress(self, slot: int, event: dict[str, Any]) -> None:
        """A running run reported `step`, `steps`, `loss`, `tokens_per_second`."""

    def ended(self, slot: int, run_id: str, outcome: Outcome, reason: str) -> None:
        """An attempt ended."""

    def retrying(self, run_id: str, reason: str) -> None:
        """An attempt failed and is repeated."""

    def stopping(self) -> None:
        """The user asked to stop; workers are writing checkpoints."""

    def tick(self) -> None:
        """Some time has passed."""


@dataclass
class _Worker:
    slot: int
    process: subprocess.Popen[bytes]
    run_id: str | None = None
    ready: bool = False
    buffer: bytes = b""

    def events(self) -> tuple[list[dict[str, Any]], bool]:
        """Events that have arrived, and whether the worker closed its end."""
        assert self.process.stdout is not None
        data = os.read(self.process.stdout.fileno(), 65536)
        *lines, self.buffer = (self.buffer + data).split(b"\n")
        return [json.loads(line) for line in lines], not data


@dataclass
class Pool:
    """Runs `run_ids` in order of the list, at most `workers` at once.

    Args:
        runs: directory of run directories.
        data: directory of prepared data.
        workers: processes.
        threads: CPU threads of each.
        gpus: give worker i the i-th GPU alone.
        view: is told what happens.
    """

    runs: Path
    data: Path
    workers: int
    threads: int
    gpus: bool
    view: View
    _queue: list[str] = field(default_factory=list, init=False)
    _attempts: Counter[str] = field(default_factory=Counter, init=False)
    _outcomes: dict[str, tuple[Outcome, str]] = field(default_factory=dict, init=False)
    _selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector, init=False)
    _stop_requests: int = field(default=0, init=False)
    _early_deaths: int = field(default=0, init=False)

    def run(self, run_ids: Sequence[str]) -> dict[str, tuple[Outcome, str]]:
        """Carry out all runs, or as many as there is time for before SIGINT or SIGTERM.

        Returns:
            Outcome and reason of every run that was started.

        Raises:
            UserError: if workers cannot start at all.
        """
        self._queue = list(run_ids)
        with self._stopping_on_signals():
            try:
                for slot in range(min(self.workers, len(self._queue))):
                    self._spawn(slot)
                while self._selector.get_map():
                    for key, _ in self._selector.select(TICK_SECONDS):
                        self._serve(key.data)
                    self.view.tick()
            finally:
                self._end_workers()
        return self._outcomes

    def _spawn(self, slot: int) -> None:
        environment = worker_environment(self.threads)
        if self.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = str(slot)
        process = subprocess.Popen(
            [sys.executable, "-m", "sweeper.worker", str(self.data)],
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
            self._bury(worker)

    def _assign(self, worker: _Worker) -> None:
        assert worker.process.stdin is not None
        worker.run_id = None
        if self._stop_requests or not self._queue:
            worker.process.stdin.close()
            return
        worker.run_id = self._queue.pop(0)
        self._attempts[worker.run_id] += 1
        self.view.started(worker.slot, worker.run_id)
        task = json.dumps({"run": str(self.runs / worker.run_id)}) + "\n"
        try:
            worker.process.stdin.write(task.encode())
            worker.process.stdin.flush()
        except BrokenPipeError:
            pass  # it died; its closed output says so in a moment

    def _ended(self, worker: _Worker, run_id: str, outcome: Outcome, reason: str) -> None:
        if outcome is Outcome.ERROR and self._attempts[run_id] < MAX_ATTEMPTS and not self._stop_requests:
            self._queue.insert(0, run_id)
            self.view.retrying(run_id, reason)
            return
        if outcome in (Outcome.ERROR, Outcome.REFUSED):
            RunDir(self.runs / run_id).write_failure(reason, self._attempts[run_id])
        self._outcomes[run_id] = (outcome, reason)
        self.view.ended(worker.slot, run_id, outcome, reason)

    def _bury(self, worker: _Worker) -> None:
        """Take leave of a worker whose output closed; a replacement goes on if there is work."""
        assert worker.process.stdout is not None
        self._selector.unregister(worker.process.stdout)
        worker.process.stdout.close()
        status = worker.process.wait()
        if worker.run_id is not None:
            cause = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
            self._ended(worker, worker.run_id, Outcome.ERROR, f"worker died with {cause}")
        elif not worker.ready and not self._stop_requests:
            self._early_deaths += 1
            if self._early_deaths >= MAX_ATTEMPTS:
                raise UserError(
                    f"worker processes end with status {status} before they start; "
                    f"try `{Path(sys.executable).name} -c 'import sweeper.execute'`"
                )
        if self._queue and not self._stop_requests:
            self._spawn(worker.slot)

    @contextmanager
    def _stopping_on_signals(self) -> Iterator[None]:
        """First SIGINT or SIGTERM: stop in good order. Second: kill; the checkpoints on disk stay good."""
        numbers = (signal.SIGINT, signal.SIGTERM)
        previous = {number: signal.signal(number, self._on_signal) for number in numbers}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _on_signal(self, *_: object) -> None:
        self._stop_requests += 1
        if self._stop_requests == 1:
            self.view.stopping()
        for worker in self._workers():
            worker.process.send_signal(signal.SIGTERM if self._stop_requests == 1 else signal.SIGKILL)

    def _workers(self) -> list[_Worker]:
        return [key.data for key in self._selector.get_map().values()]

    def _end_workers(self) -> None:
        for worker in self._workers():
            worker.process.kill()
            worker.process.wait()
        self._selector.close()
