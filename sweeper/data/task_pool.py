"""Run tasks on the cores of this machine, each one once, and record the finished ones.

A task replaces its files atomically and writes its record last. A kill at any moment therefore loses only the running
tasks, and the next call runs the tasks without a record. Two processes that run the same task write the same files.
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

# Bytes of work per process. Below it, starting the process would take longer than it saves.
WORTH_A_PROCESS = 16_000_000

Record = dict[str, Any]


class Task(Protocol):
    """One piece of work. A call does it and returns its record: plain values, `tokens` among them."""

    @property
    def record(self) -> Path:
        """Path of the record. It exists once the task is done."""

    @property
    def size(self) -> int:
        """Amount of work, in bytes."""

    def __call__(self) -> Record:
        """Do the work."""


@dataclass(frozen=True)
class Progress:
    """Progress of a stage.

    Attributes:
        stage: name of the stage.
        total: all of its work, in bytes.
        before: part of `total` that was done before this call, in bytes.
        done: part of `total` that was done in this call, in bytes.
        tokens: tokens made in this call.
    """

    stage: str
    total: int
    before: int
    done: int
    tokens: int


Watch = Callable[[Progress], None]


def run_tasks(stage: str, tasks: Sequence[Task], watch: Watch, workers: int | None = None) -> list[Record]:
    """Run the tasks that have no record, in several processes if there is enough work.

    An error of a task is raised here. Running tasks finish first. Waiting tasks are not started.

    Args:
        stage: name of the stage, for `watch`.
        tasks: what to run; pickled for other processes.
        watch: called at the beginning and after each task.
        workers: maximum number of processes; None for one per core.

    Returns:
        The records of all tasks, in order.

    Raises:
        UserError: if a process is killed.
    """
    records = {i: record for i, task in enumerate(tasks) if (record := read_json(task.record)) is not None}
    todo = {i: task for i, task in enumerate(tasks) if i not in records}
    total, left = (sum(task.size for task in group) for group in (tasks, todo.values()))
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

    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_initialize_process) as pool:
        futures = {pool.submit(_do, task): i for i, task in tasks.items()}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool:
            raise UserError(
                "a process that prepares data was killed, perhaps because memory ran out; the same command resumes, "
                "and `taskset -c 0-3` before it limits the number of processes"
            ) from None
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _do(task: Task) -> Record:
    task.record.parent.mkdir(parents=True, exist_ok=True)
    record = task()
    write_json(task.record, record)
    return record


def _initialize_process() -> None:
    """Set up a process of the pool: one thread; the parent handles signals; exit when the parent does."""
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
