"""Data prepared by a job array: each job tokenizes a share of the text, and one more job writes the shards.

The jobs run the tasks of `sweeper.data`. A preparation that was started on one machine can be finished on a cluster,
and the other way round. The last job always runs, and does the tasks that the others left.
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
from sweeper.execution.slurm.container import Container
from sweeper.execution.slurm.options import SlurmOptions
from sweeper.execution.slurm.snapshot import take_snapshot
from sweeper.execution.slurm.submission import refusals_in_one_line, require_slurm


class _Requeued:
    """A job that is requeued when SLURM warns of the time limit or a preemption. Finished tasks are not repeated."""

    def checkpoint(self) -> Any:
        """Called by submitit on the warning. submitit then requeues the job."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Share(_Requeued):
    """One element of the array: a part of the tasks, on the cores of its allocation."""

    tasks: tuple[Task, ...]

    def __call__(self) -> None:
        """Run them."""
        run_tasks("tokenizing", self.tasks, _print)


@dataclass(frozen=True)
class Rest(_Requeued):
    """The job after the array: the remaining tasks, the shards and the manifest."""

    spec: DataSpec
    root: Path

    def __call__(self) -> None:
        """Finish the preparation."""
        prepare_data(self.spec, self.root, lambda line: print(line, flush=True), _print)


def submit_data(spec: DataSpec, root: Path, options: SlurmOptions, console: Console) -> None:
    """Download the inputs here and submit the rest. Returns once the jobs are queued.

    Args:
        spec: what to prepare.
        root: directory of prepared data, on a file system that the nodes share.
        options: options of the jobs. They request no GPU and `cpus_per_gpu` cores.
        console: where to print.

    Raises:
        UserError: if the text cannot be fetched or read, or SLURM refuses.
    """
    max_array_size = require_slurm()
    spec, root = with_absolute_paths(spec), root.resolve()
    options = replace(options, nodes=1, gpus_per_node=0, pack=1, jobs=None, container=Container())
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
        f"submitted {count} jobs as {array}, and {last} after them; this terminal may be closed.\n"
        f"The data is ready when the same command says so; squeue shows the jobs, {folder} has their logs",
        highlight=False,
        soft_wrap=True,
    )


def _submit(tasks: Sequence[Share | Rest], options: SlurmOptions, name: str, folder: Path, code: Path) -> str | None:
    """Submit a job array. Returns its id; None if there are no tasks."""
    import submitit

    if not tasks:
        return None
    executor = submitit.SlurmExecutor(folder=folder)
    executor.update_parameters(**options.sbatch_parameters(name, code))
    with refusals_in_one_line():
        jobs = executor.submit_array(tasks)
    return str(jobs[0].job_id).split("_")[0]


def _print(progress: Progress) -> None:
    done = (progress.before + progress.done) / max(progress.total, 1)
    print(f"{progress.stage} {done:.0%}, {progress.tokens:,} tokens", flush=True)
