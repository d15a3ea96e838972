"""Options of the job of each run: those of its panel, and a time limit and GPUs that fit its cost."""

import math
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from sweeper.config.resolve import ResolvedRun
from sweeper.execution.slurm.options import SlurmOptions
from sweeper.grid.gpu_times import GpuTimes
from sweeper.grid.plan import Plan, gpu_times

# A GPU may be slower than the plan expects, and a job has to start, compile and validate.
TIME_FACTOR, EXTRA_MINUTES = 1.5, 30
SHORTEST_MINUTES = 60  # time limits are this times a power of two, so that there are few arrays


def run_options(plan: Plan, options: SlurmOptions) -> dict[str, SlurmOptions]:
    """The options of the job of each run to execute.

    Raises:
        UserError: for an option of a panel that is not allowed.
    """
    panels: dict[str, set[str]] = {}
    for cell in plan.sweep.cells:
        panels.setdefault(cell["run_id"], set()).add(str(cell["panel"]))
    plain = {**options.to_dict(), "panels": {}}
    by_panel = {name: SlurmOptions.from_dict({**plain, **changes}) for name, changes in options.panels.items()}
    times = gpu_times(plan, options.gpu)
    chosen = {}
    for run_id in plan.to_run:
        own = next((of for name, of in by_panel.items() if name in panels.get(run_id, ())), options)
        chosen[run_id] = fitted(own, plan.runs[run_id], times) if own.fit else own
    return chosen


def wall_hours(options: SlurmOptions, run: ResolvedRun, times: GpuTimes | None) -> float:
    """Of the job of a run. 0 if it uses no GPU, NaN if its cost is unknown."""
    if times is None or not options.gpus_per_node:
        return 0.0
    if options.pack > 1:  # each in one process, on the GPUs in turn
        return times.run_hours(run) * options.pack / options.gpus_per_node
    return times.run_hours(run, options.ranks)


def gpu_hours(options: SlurmOptions, run: ResolvedRun, times: GpuTimes | None) -> float:
    """What a run is charged: its job's wall time on all GPUs, shared with the runs packed beside it."""
    return wall_hours(options, run, times) * options.nodes * options.gpus_per_node / options.pack


def fitted(options: SlurmOptions, run: ResolvedRun, times: GpuTimes | None) -> SlurmOptions:
    """The fewest GPUs with which a run ends within the time limit, and the time limit that it then needs.

    The options are the most that it gets. A run of unknown cost gets all of it.
    """
    if not wall_hours(options, run, times) > 0:
        return options
    shapes = [(options.nodes, options.gpus_per_node)]
    if options.pack == 1:
        fewer = [count for count in range(1, options.gpus_per_node) if options.gpus_per_node % count == 0]
        shapes = [*product([1], [*fewer, options.gpus_per_node]), *shapes]
    for nodes, gpus in shapes:
        own = replace(options, nodes=nodes, gpus_per_node=gpus)
        minutes = TIME_FACTOR * 60 * wall_hours(own, run, times) + EXTRA_MINUTES
        minutes = max(minutes, 2 * options.warning_seconds / 60)
        rounded = SHORTEST_MINUTES * 2 ** max(0, math.ceil(math.log2(minutes / SHORTEST_MINUTES)))
        if minutes <= options.minutes and run.config.n_parallel % (nodes * gpus) == 0:
            return replace(own, time=min(rounded, options.minutes))
    return options


def changes(options: SlurmOptions, own: SlurmOptions) -> dict[str, Any]:
    """What `own` has differently, for the job of a run."""
    of_all = options.to_dict()
    return {name: value for name, value in own.to_dict().items() if value != of_all[name] and name != "panels"}


def expected_start(options: SlurmOptions, jobs: int) -> str | None:
    """When SLURM expects to start the first of some jobs, or why it would refuse them. None if it does not say.

    Asks `sbatch --test-only`, which queues nothing.
    """
    import submitit

    if shutil.which("sbatch") is None:
        return None
    executor = submitit.SlurmExecutor(folder=".")
    executor.update_parameters(**options.sbatch_parameters("plan", Path()))
    script = executor._make_submission_file_text("true", "plan")
    command = ["sbatch", "--test-only", *([f"--array=0-{jobs - 1}"] if jobs > 1 else [])]
    done = subprocess.run(command, input=script, capture_output=True, text=True)
    return said_about_start(done.stderr.splitlines())


def said_about_start(lines: Sequence[str]) -> str | None:
    """What `sbatch --test-only` printed, shortened."""
    for line in lines:
        if found := re.search(r"to start at (\S+)", line):
            return found[1].replace("T", " ")
        if found := re.search(r"(?:allocation failure|error): (.*)", line):
            return f"never as it is: {found[1]}"
    return None
