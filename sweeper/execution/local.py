"""A grid executed on this machine, or only planned."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pkgutil import resolve_name

from hydra.types import HydraContext
from omegaconf import DictConfig
from rich.console import Console

from sweeper.config.resolve import ResolvedRun
from sweeper.display.sweep_progress import SweepView
from sweeper.errors import SweepIncomplete
from sweeper.execution.step_timing import cache_file
from sweeper.execution.worker_pool import WorkerPool
from sweeper.grid.build import Roots, compose_grid
from sweeper.grid.gpu_times import GpuTimes
from sweeper.grid.plan import Plan, StepTimes, gpu_times, learned_step_times, print_plan
from sweeper.hardware import installed_gpu, visible_gpus
from sweeper.records.housekeeping import directory_size
from sweeper.records.run_dir import RunDir
from sweeper.records.status import FINISHED, State, run_status
from sweeper.run.spec import KINDS

PLANNED_GPU = "H100"  # where this machine has none
PRUNE_BYTES = 10 * 2**20  # of checkpoints; less is not worth a word


def launch_local(
    context: HydraContext,
    config: DictConfig,
    jobs: Sequence[Sequence[str]],
    *,
    workers: int | None,
    gpu: str | None,
    plan_only: bool,
) -> None:
    """Execute a grid on this machine, or only show its plan.

    Args:
        context: of the running Hydra application.
        config: the multirun's master configuration.
        jobs: overrides of each grid point.
        workers: runs at once; None for as many as the machine carries.
        gpu: kind of GPU that the plan is for; None for this machine's.
        plan_only: print the plan and write nothing.

    Raises:
        UserError: for anything in the configuration or the data that the user has to change, before runs are
            written; at the end, if runs failed.
    """
    console = Console()
    grid = compose_grid(context, config, jobs, console, prepare=not plan_only, here=True)
    first = next(iter(grid.plan.runs.values()))
    slots = default_workers(first) if workers is None else workers
    of_gpu = gpu_times(grid.plan, gpu or installed_gpu() or PLANNED_GPU)
    if plan_only:
        times = of_gpu or _step_times(grid.plan, first, slots, console)
        print_plan(grid.plan, times, slots, console)
        grid.say_what_is_missing(console)
        return
    execute_plan(grid.write(), slots, grid.roots, console, of_gpu)


def default_workers(run: ResolvedRun) -> int:
    """Runs at once on this machine: one a GPU, or as many as have their CPU threads to themselves."""
    if run.execution.device == "cuda":
        return max(1, len(visible_gpus()))
    return max(1, len(os.sched_getaffinity(0)) // run.execution.threads)


def _step_times(plan: Plan, run: ResolvedRun, workers: int, console: Console) -> StepTimes | None:
    learned = learned_step_times(plan)
    if learned is not None or not plan.to_run:
        return learned
    if (timer := KINDS[run.config.KIND].step_timer) is None:
        return None
    console.print("timing a few steps on this machine (some 20 seconds, once per shape)")
    times: StepTimes = resolve_name(timer)(run.config, run.execution, workers, cache_file())
    return times


def execute_plan(plan: Plan, slots: int, roots: Roots, console: Console, times: GpuTimes | None = None) -> None:
    """Execute what is left of a written plan, `slots` runs at once. `times` are those of its GPUs.

    Raises:
        SweepIncomplete: if runs failed or are left.
    """
    todo = plan.to_run
    print_plan(plan, times or learned_step_times(plan), slots, console)
    if not todo:
        console.print(f"nothing to train: every run of {plan.sweep.name} is finished or running")
        return
    run = plan.runs[todo[0]]
    costs = {run_id: plan.runs[run_id].config.flops for run_id in todo}
    finished = plan.count(*FINISHED)
    with SweepView(console, costs, finished) as view:
        pool = WorkerPool(
            roots.runs,
            roots.data,
            workers=slots,
            threads=run.execution.threads,
            gpus=run.execution.device == "cuda",
            view=view,
        )
        pool.run(todo)
    _conclude(plan, roots, console)


def _offer_prune(plan: Plan, roots: Roots, console: Console) -> None:
    """Say what the checkpoints of a finished sweep take, if that is worth a command."""
    size = sum(directory_size(RunDir(roots.runs / run_id).checkpoints) for run_id in plan.runs)
    if size >= PRUNE_BYTES:
        command = f"loopsweep prune {plan.sweep.name} --keep weights"
        line = f"checkpoints take {size / 2**20:,.0f} MiB; `{command}` frees most of it"
        console.print(line, highlight=False, soft_wrap=True)


def _conclude(plan: Plan, roots: Roots, console: Console) -> None:
    plan = replace(plan, status={run_id: run_status(roots.runs / run_id) for run_id in plan.runs})
    left = len(plan.to_run)
    console.print(
        f"{plan.sweep.name}: {plan.count(State.DONE)} done, {plan.count(State.DIVERGED)} diverged, "
        f"{plan.count(State.FAILED)} failed, {left - plan.count(State.FAILED)} left",
        highlight=False,
    )
    if whole := plan.part_of:
        status = {run_id: run_status(roots.runs / run_id) for run_id in whole.run_ids}
        counts = Counter(str(one.state) for one in status.values())
        shown = ", ".join(f"{counts[state]} {state}" for state in State if counts[state])
        console.print(f"the whole of {whole.name}: {shown}", highlight=False)
    if not left:
        _offer_prune(plan, roots, console)
    failed = [run_id for run_id in plan.runs if plan.status[run_id].state is State.FAILED]
    for run_id in failed:
        console.print(f"{run_id} failed: {plan.status[run_id].reason}", style="red", highlight=False)
        for line in RunDir(roots.runs / run_id).log_tail(5):
            console.print(f"    {line}", style="dim", highlight=False, markup=False)
    if failed:
        raise SweepIncomplete(
            f"{len(failed)} of {len(plan.runs)} runs failed; their logs are in {roots.runs}/<run>/log.txt; "
            "the same command tries them again"
        )
    if left:
        raise SweepIncomplete(f"stopped with {left} runs left; the same command resumes them")
