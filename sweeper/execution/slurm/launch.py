"""From a composed grid to jobs in a cluster's queue: plan, ask, freeze, submit, return."""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.types import HydraContext
from omegaconf import DictConfig
from rich.console import Console

from sweeper.config.resolve import ResolvedRun
from sweeper.errors import UserError
from sweeper.execution.slurm.options import SlurmOptions
from sweeper.execution.slurm.queue import run_jobs
from sweeper.execution.slurm.resources import changes, expected_start, gpu_hours, run_options, wall_hours
from sweeper.execution.slurm.snapshot import take_snapshot
from sweeper.execution.slurm.submission import Submission, new_submission, require_slurm, submissions, submit
from sweeper.grid.build import Roots, compose_grid, saved_plan
from sweeper.grid.gpu_times import GpuTimes
from sweeper.grid.plan import Plan, gpu_times, print_plan
from sweeper.hardware import GPUS
from sweeper.records.lock import Guard
from sweeper.records.run_dir import RunDir
from sweeper.records.status import State, run_status
from sweeper.records.sweep_manifest import Sweep


def launch_slurm(
    context: HydraContext,
    config: DictConfig,
    jobs: Sequence[Sequence[str]],
    options: SlurmOptions,
    *,
    plan_only: bool,
) -> None:
    """Submit what is left of a grid, or only show what that would mean. Returns once the jobs are queued.

    Args:
        context: of the running Hydra application.
        config: the multirun's master configuration.
        jobs: overrides of each grid point.
        options: of the jobs.
        plan_only: print the plan and write nothing.

    Raises:
        UserError: for anything the user has to change, before anything is submitted; if SLURM refuses.
    """
    console = Console()
    max_array_size = 0 if plan_only else require_slurm()
    grid = compose_grid(context, config, jobs, console, prepare=not plan_only)
    plan = _with_queue(grid.plan, options, grid.roots)
    own = run_options(plan, options)
    _check_shares(plan, own)
    times = gpu_times(plan, options.gpu)
    print_plan(plan, times, 1, console)
    _print_all_jobs(plan, own, times, console, with_start=plan_only)
    if plan_only:
        grid.say_what_is_missing(console)
        return
    if own:
        _confirm(plan, own, options, times, console)
    with _submitting(grid.roots):
        plan = replace(grid, plan=_with_queue(plan, options, grid.roots)).write()
        _submit(plan, options, grid.roots, max_array_size, console)


def retry_on_slurm(
    sweep: Sweep, run_ids: Sequence[str], last: Submission, changes: Mapping[str, Any], roots: Roots, console: Console
) -> None:
    """Submit some runs of a sweep again, with the code as it is now.

    Args:
        sweep: the sweep.
        run_ids: runs that nobody works on.
        last: submission whose options are used again.
        changes: options to change.
        roots: where things lie.
        console: where to print.

    Raises:
        UserError: for an option that is not allowed; if SLURM refuses.
    """
    max_array_size = require_slurm()
    options = SlurmOptions.from_dict({**last.options, "check_gpu": False, **changes})  # checked before
    plan = saved_plan(sweep, run_ids, roots.runs)
    _check_shares(plan, run_options(plan, options))
    with _submitting(roots):
        _submit(_with_queue(plan, options, roots), options, roots, max_array_size, console)


def _submitting(roots: Roots) -> Guard:
    """Of two submissions at once, the second finds the first one's jobs in the queue."""
    roots.sweeps.mkdir(parents=True, exist_ok=True)
    return Guard(roots.sweeps / "submitting.guard")


def _with_queue(plan: Plan, options: SlurmOptions, roots: Roots) -> Plan:
    """The plan with every status read anew and the queue asked, so that nothing is submitted twice.

    Jobs that claim runs may be added in another partition, where other jobs wait or work already.
    """
    status = {run_id: run_status(roots.runs / run_id) for run_id in plan.runs}
    plan = replace(plan, status=status, queued=frozenset())
    known = submissions(roots.sweeps)
    if options.jobs is not None:
        known = [one for one in known if one.options.get("jobs") is None or one.goes_where(options)]
    jobs = run_jobs(known, plan.to_run)
    # A failed run has no owner, even if its job is still training other runs packed with it.
    live = (i for i, job in jobs.items() if job.lives and status[i].state is not State.FAILED)
    return replace(plan, queued=frozenset(live))


def _check_shares(plan: Plan, own: Mapping[str, SlurmOptions]) -> None:
    for run_id, options in own.items():
        run = plan.runs[run_id]
        if run.config.n_parallel % options.ranks:
            raise UserError(
                f"hydra.launcher.nodes={options.nodes} x gpus_per_node={options.gpus_per_node} does not divide "
                f"the {run.config.n_parallel} sequences of a step; use a number of GPUs that does, or pack=k"
            )
        if run.execution.device == "cuda" and not options.gpus_per_node:
            raise UserError("hydra.launcher.gpus_per_node=0, but execution.device=cuda; ask for at least one GPU")


def _print_all_jobs(
    plan: Plan, own: Mapping[str, SlurmOptions], times: GpuTimes | None, console: Console, *, with_start: bool
) -> None:
    """A line or two for the jobs of each kind, and when SLURM expects to start them."""
    kinds: dict[str, list[str]] = {}
    for run_id, options in own.items():
        kinds.setdefault(repr(options), []).append(run_id)
    for run_ids in kinds.values():
        options = own[run_ids[0]]
        jobs = _print_jobs([plan.runs[run_id] for run_id in run_ids], options, times, console)
        if with_start and (start := expected_start(options, jobs)) is not None:
            console.print(f"expected start of the first: {start} (sbatch --test-only)", highlight=False)


def _print_jobs(todo: Sequence[ResolvedRun], options: SlurmOptions, times: GpuTimes | None, console: Console) -> int:
    """Print what jobs these runs take. Returns how many."""
    elements = math.ceil(len(todo) / options.pack)
    gpus = options.nodes * options.gpus_per_node
    shape = f"{options.nodes} node{'s' * (options.nodes > 1)}, {gpus} GPU{'s' * (gpus != 1)}"
    packed = f", {options.pack} runs in each" if options.pack > 1 else ""
    if options.jobs is not None:
        elements = min(elements, options.jobs)
        packed = f", which claim the {len(todo)} runs{packed.replace('runs in each', 'at once in each')}"
    console.print(f"jobs: {elements} of {shape}{packed}; time limit {options.minutes / 60:g} hours", highlight=False)
    wall = max(wall_hours(options, run, times) for run in todo)
    if wall > 0:
        limits = wall / (options.minutes / 60 - options.warning_seconds / 3600)
        fits = "fits" if limits <= 1 else f"resumes by itself in about {math.ceil(limits)} jobs"
        console.print(
            f"longest job: about {wall:,.3g} hours on {gpus} {options.gpu} against that limit: {fits}", highlight=False
        )
    return elements


def _confirm(
    plan: Plan, own: Mapping[str, SlurmOptions], options: SlurmOptions, times: GpuTimes | None, console: Console
) -> None:
    hours = math.fsum(gpu_hours(of_run, plan.runs[run_id], times) for run_id, of_run in own.items())
    if options.yes or hours <= options.max_gpu_hours:
        return
    above = f"{hours:,.0f} GPU-hours are above hydra.launcher.max_gpu_hours={options.max_gpu_hours:g}"
    if math.isnan(hours):
        known = ", ".join(GPUS)
        above = f"the cost on hydra.launcher.gpu={options.gpu} is unknown, as no rates are known but of {known}"
    if not sys.stdin.isatty():
        raise UserError(f"{above}; hydra.launcher.yes=true submits without asking")
    if console.input(f"{above}. Submit? \\[y/N] ").strip().lower() not in ("y", "yes"):
        raise UserError("nothing was submitted")


def _submit(plan: Plan, options: SlurmOptions, roots: Roots, max_array_size: int, console: Console) -> None:
    todo = plan.to_run
    if not todo:
        console.print(f"nothing to submit: every run of {plan.sweep.name} is finished, running or queued")
        return
    code = take_snapshot(roots.sweeps / plan.sweep.name / "code")
    for run_id in todo:
        RunDir(roots.runs / run_id).reset_failures()
    other = {run_id: changes(options, own) for run_id, own in run_options(plan, options).items()}
    submission = new_submission(roots.sweeps, plan.sweep.name, todo, options, max_array_size, other)
    submission = submit(submission, code, roots.runs, roots.data)
    ids = ", ".join(array.label for array in submission.arrays)
    if submission.check:
        console.print(f"check of a GPU: {submission.check}; the others start if it ends well", highlight=False)
    console.print(f"submitted {len(todo)} runs as {ids}; nothing here needs to stay open", highlight=False)
    places = "".join(
        f" --{name} {path}" for name, path in (("runs", roots.runs), ("sweeps", roots.sweeps)) if path != Path(name)
    )
    console.print(
        f"watch:  loopsweep watch {plan.sweep.name}{places}\ncancel: loopsweep cancel {plan.sweep.name}{places}",
        highlight=False,
        soft_wrap=True,
    )
