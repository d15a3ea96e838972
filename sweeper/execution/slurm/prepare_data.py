"""Data prepared by a job array: each job makes its share of the text into tokens, one more puts the shards together.

The jobs do the tasks of `sweeper.data`, so what one machine has begun a cluster finishes, and the other way round.
The last job runs however the others ended and does what they left.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from sweeper.data import DataSpec, Progress, prepare_data
from sweeper.data.prepare import naming_a_full_disk, tokenize_tasks, with_absolute_paths
from sweeper.data.task_pool import Task, run_tasks
from sweeper.execution.slurm.options import SlurmOptions
from sweeper.execution.slurm.snapshot import take_snapshot
from sweeper.execution.slurm.submission import refusals_in_one_line, require_slurm


class _Requeued:
    """A job that begins again where its records end, when SLURM warns of the time limit or a preemption."""

    def checkpoint(self) -> Any:
        """Called by submitit on the warning; it then puts the job back into the queue."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Share(_Requeued):
    """One element of the array: some of the tasks, on the cores of its allocation."""

    tasks: tuple[Task, ...]

    def __call__(self) -> None:
        """Do them."""
        run_tasks("tokenizing", self.tasks, _print)


@dataclass(frozen=True)
class Rest(_Requeued):
    """The job after the array: whatever is not done yet, the shards and the manifest."""

    spec: DataSpec
    root: Path

    def __call__(self) -> None:
        """Do it."""
        prepare_data(self.spec, self.root, lambda line: print(line, flush=True), _print)


def submit_data(spec: DataSpec, root: Path, options: SlurmOptions, console: Console) -> None:
    """Fetch what is to be fetched, here, and submit the rest. Returns once the jobs are queued.

    Args:
        spec: what to prepare.
        root: where prepared data lies, on a file system that the nodes share.
        options: of the jobs; they ask for no GPU and for `cpus_per_gpu` cores.
        console: where to print.

    Raises:
        UserError: if the text cannot be had or read; if SLURM refuses.
    """
    max_array_size = require_slurm()
    spec, root = with_absolute_paths(spec), root.resolve()
    options = replace(options, nodes=1, gpus_per_node=0, pack=1)
    with naming_a_full_disk(root):
        todo = [task for task in tokenize_tasks(spec, root, console.print) if not task.record.exists()]
    name = f"data-{uuid.uuid4().hex[:6]}"
    folder = root / ".jobs" / name
    code = take_snapshot(root / ".jobs" / "code")
    count = min(len(todo), options.array_parallelism, max_array_size)
    shares = [Share(tuple(todo[number::count])) for number in range(count)]
    array = _submit(shares, options, name, folder, code)
    after = {**options.extra, **({"dependency": f"afterany:{array}"} if array else {})}
    last = _submit([Rest(spec, root)], replace(options, extra=after), f"{name}-last", folder, code)
    console.print(
        f"submitted {count} jobs as {array}, and {last} after them; nothing here needs to stay open.\n"
        f"They are done when the same command says that the data is ready; squeue shows them, {folder} has their logs",
        highlight=False,
        soft_wrap=True,
    )


def _submit(tasks: Sequence[Share | Rest], options: SlurmOptions, name: str, folder: Path, code: Path) -> str | None:
    """Id of the submitted job array; None if there is nothing to do."""
    import submitit

    if not tasks:
        return None
    executor = submitit.SlurmExecutor(folder=folder)
    executor.update_parameters(**options.sbatch_parameters(name, str(code)))
    with refusals_in_one_line():
        jobs = executor.submit_array(tasks)
    return str(jobs[0].job_id).split("_")[0]


def _print(progress: Progress) -> None:
    done = (progress.before + progress.done) / max(progress.total, 1)
    print(f"{progress.stage} {done:.0%}, {progress.tokens:,} tokens", flush=True)
