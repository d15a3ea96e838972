"""Tasks over the cores of this machine, each done once and recorded when it is done.

A task leaves its files whole and its record last, so a kill at any moment costs the tasks under way and nothing else,
and whoever comes next does what has no record. Two processes that do the same task leave the same files.
"""

import math
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from sweeper.errors import UserError
from sweeper.files import read_json, write_json

# Work (bytes of a task's `size`) for which starting a process pays.
WORTH_A_PROCESS = 16_000_000

Record = dict[str, Any]


class Task(Protocol):
    """A piece of work. Doing it returns what is to be known about the outcome: plain values, `tokens` among them."""

    @property
    def record(self) -> Path:
        """Where that is written down; a record means that the task is done."""

    @property
    def size(self) -> int:
        """How much there is to do, in bytes."""

    def __call__(self) -> Record:
        """Do it."""


@dataclass(frozen=True)
class Progress:
    """How far a stage is.

    Attributes:
        stage: what is being done.
        total: all that there is to do, in bytes.
        before: of that, what was done when the stage began.
        done: what has been done since.
        tokens: that came out of the latter.
    """

    stage: str
    total: int
    before: int
    done: int
    tokens: int


Watch = Callable[[Progress], None]


def run_tasks(stage: str, tasks: Sequence[Task], watch: Watch, workers: int | None = None) -> list[Record]:
    """Do the tasks that have no record, in processes where that pays; returns the records of all, in order.

    Args:
        stage: name of it all, for `watch`.
        tasks: to do; pickled, so that a process can take them.
        watch: is told at the beginning and after each task.
        workers: processes at most; None for as many as this one has cores.

    Raises:
        UserError: if a process is killed; whatever a task raises. Tasks under way end first, the others are not begun.
    """
    records = {i: record for i, task in enumerate(tasks) if (record := read_json(task.record)) is not None}
    todo = {i: task for i, task in enumerate(tasks) if i not in records}
    total, left = (sum(task.size for task in some) for some in (tasks, todo.values()))
    done = tokens = 0
    watch(Progress(stage, total, total - left, done, tokens))
    for i, record in _results(todo, workers or len(os.sched_getaffinity(0))):
        records[i] = record
        done += tasks[i].size
        tokens += record["tokens"]
        watch(Progress(stage, total, total - left, done, tokens))
    return [records[i] for i in range(len(tasks))]


def _results(tasks: Mapping[int, Task], workers: int) -> Iterator[tuple[int, Record]]:
    workers = min(workers, len(tasks), math.ceil(sum(task.size for task in tasks.values()) / WORTH_A_PROCESS))
    if workers <= 1:
        yield from ((i, _do(task)) for i, task in tasks.items())
        return
    from concurrent.futures import ProcessPoolExecutor, as_completed
    from concurrent.futures.process import BrokenProcessPool
    from multiprocessing import get_context

    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_settle_in) as pool:
        futures = {pool.submit(_do, task): i for i, task in tasks.items()}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool:
            raise UserError(
                "a process that prepares data was killed, perhaps for want of memory; the same command goes on where "
                "it stopped, and takes fewer processes behind `taskset -c 0-3`"
            ) from None
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _do(task: Task) -> Record:
    task.record.parent.mkdir(parents=True, exist_ok=True)
    record = task()
    write_json(task.record, record)
    return record


def _settle_in() -> None:
    """In a new process of the pool: threads for one core; signals are the parent's, and its end is this one's."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    for number in (signal.SIGINT, signal.SIGUSR2):  # Ctrl-C, and SLURM's warning
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    from multiprocessing import connection, parent_process

    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)
