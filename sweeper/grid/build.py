"""From a composed grid to finished runs on this machine: check, prepare, freeze, plan, execute."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hydra.types import HydraContext
from omegaconf import DictConfig
from rich.console import Console

from sweeper.config.resolve import ResolvedRun, check_rates, data_spec, depth_warning, resolve
from sweeper.data import DataSpec, find_data
from sweeper.display.data_progress import prepare_in_view
from sweeper.display.sweep_progress import SweepView
from sweeper.errors import SweepIncomplete, UserError
from sweeper.execution.step_timing import measured_step_times
from sweeper.execution.worker_pool import Pool
from sweeper.grid.compose import check_axes, compose_jobs
from sweeper.grid.plan import Plan, StepTimes, learned_step_times, print_plan
from sweeper.hardware import visible_gpus
from sweeper.records.run_dir import RunDir
from sweeper.records.status import FINISHED, State, run_status
from sweeper.records.sweep_manifest import Sweep
from sweeper.run.spec import RunConfig
from sweeper.tracking.client import mirror_sweep

UNPREPARED = "unprepared"  # stands for the manifest hash while the data does not exist yet


@dataclass(frozen=True)
class Roots:
    """Where things lie on this machine; never part of a record."""

    runs: Path
    sweeps: Path
    data: Path


def launch_local(
    context: HydraContext,
    config: DictConfig,
    jobs: Sequence[Sequence[str]],
    *,
    workers: int | None,
    plan_only: bool,
) -> None:
    """Carry out a grid on this machine, or only show what that would mean.

    Args:
        context: of the running Hydra application.
        config: the multirun's master configuration.
        jobs: overrides of each grid point.
        workers: runs at once; None for as many as the machine carries.
        plan_only: print the plan and write nothing.

    Raises:
        UserError: for anything in the configuration or the data that the user has to change, before runs are
            written; at the end, if runs failed.
    """
    console = Console()
    if workers is not None and workers < 1:
        raise UserError(f"hydra.launcher.workers={workers} must be at least 1; null is as many as have room")
    grid = compose_grid(context, config, jobs, console, prepare=not plan_only)
    first = next(iter(grid.plan.runs.values()))
    slots = default_workers(first) if workers is None else workers
    if plan_only:
        times = _step_times(grid.plan, first, slots, grid.roots.runs, console)
        print_plan(grid.plan, times, slots, console)
        grid.say_what_is_missing(console)
        return
    grid.freeze()
    execute_plan(grid.plan, slots, grid.roots, console)


@dataclass(frozen=True)
class Grid:
    """A composed and checked grid, about to be planned or carried out.

    Attributes:
        plan: its runs and where they stand.
        roots: where things lie.
        preset: scale of the runs.
        prepared: the data is there.
    """

    plan: Plan
    roots: Roots
    preset: str
    prepared: bool

    def freeze(self) -> None:
        """Write the configuration of every run to carry out, and the sweep's manifest."""
        for run_id in self.plan.to_run:
            run = self.plan.runs[run_id]
            labels = {key: run.axes[key] for key in ("rule", "depth_multiplier")} | {"preset": self.preset}
            labels |= {"sweep": self.plan.sweep.name, "panels": self.plan.sweep.panels(run_id)}
            RunDir(self.roots.runs / run_id).freeze(run.config, run.execution, labels)
        if self.plan.sweep.save(self.roots.sweeps) or self.plan.to_run:
            tracking = next(iter(self.plan.runs.values())).execution.tracking
            mirror_sweep(self.roots.sweeps / f"{self.plan.sweep.name}.json", self.roots.runs, tracking)

    def say_what_is_missing(self, console: Console) -> None:
        """After a plan: what submitting would do first."""
        if not self.prepared:
            console.print("data: not prepared yet; submitting prepares it first")


def compose_grid(
    context: HydraContext, config: DictConfig, jobs: Sequence[Sequence[str]], console: Console, *, prepare: bool
) -> Grid:
    """Compose and check every grid point, whoever carries them out; prepare the data if asked to.

    Raises:
        UserError: for anything in the configuration or the data that the user has to change.
    """
    check_rates("grid.base_lr", list(config.grid.base_lr))
    check_axes(jobs)
    roots = Roots(*(Path(str(config.paths[name])) for name in ("runs", "sweeps", "data")))
    points = [(data_spec(job), resolve(job, UNPREPARED)) for job in compose_jobs(context, config, jobs)]
    if not points:
        raise UserError("the grid is empty; give every axis at least one value")
    for warning in dict.fromkeys(filter(None, (depth_warning(run.axes) for _, run in points))):
        console.print(f"warning: {warning}", style="yellow", highlight=False)
    specs = {spec for spec, run in points if isinstance(run.config, RunConfig)}  # nothing else reads text
    hashes = {spec: _manifest_hash(spec, roots.data, console, prepare=prepare) for spec in specs}
    resolved = [run.on_data(hashes.get(spec, "")) for spec, run in points]
    plan = _plan(sweep_name(config), config, resolved, roots.runs)
    return Grid(plan, roots, str(config.preset), prepared=UNPREPARED not in hashes.values())


def saved_plan(sweep: Sweep, run_ids: Sequence[str], runs: Path) -> Plan:
    """The plan for some runs of a sweep that was submitted before, from their frozen configurations.

    Raises:
        UserError: if a run's directory is not what it was.
    """
    axes = {cell["run_id"]: cell for cell in sweep.cells}
    resolved = {run_id: ResolvedRun(*RunDir(runs / run_id).load(), axes[run_id]) for run_id in run_ids}
    return Plan(sweep, resolved, {run_id: run_status(runs / run_id) for run_id in run_ids})


def sweep_name(config: DictConfig) -> str:
    """`<sweep>-<preset>`, followed by whatever else was changed on the command line besides the grid itself."""
    grid_keys = ("preset", "sweep", "experiment", "panel", "grid", "seed", "paths", "execution", "tracking", "hydra")
    grid_paths = ("model.n_loops", "optimizer.base_lr", "probe.depths", "probe.seeds")
    parts = [str(config.experiment), str(config.preset)]
    for override in config.hydra.overrides.task:
        key, _, value = override.lstrip("+~").partition("=")
        if key.split(".")[0] not in grid_keys and key not in grid_paths:
            parts.append(f"{key}={Path(value).name}")
    return re.sub(r"[^\w.=,+-]+", "_", "-".join(parts))


def default_workers(run: ResolvedRun) -> int:
    """Runs at once on this machine: one a GPU, or as many as have their CPU threads to themselves."""
    if run.execution.device == "cuda":
        return max(1, len(visible_gpus()))
    return max(1, len(os.sched_getaffinity(0)) // run.execution.threads)


def _manifest_hash(spec: DataSpec, root: Path, console: Console, *, prepare: bool) -> str:
    found = find_data(spec, root)
    if found is not None or not prepare:
        return found.hash if found else UNPREPARED
    return prepare_in_view(spec, root, console).hash


def _plan(name: str, config: DictConfig, resolved: Sequence[ResolvedRun], runs: Path) -> Plan:
    distinct = {run.config.run_id: run for run in resolved}
    cells = [{**run.axes, "run_id": run.config.run_id, "steps": run.config.steps} for run in resolved]
    sweep = Sweep(name, str(config.experiment), str(config.preset), tuple(cells))
    return Plan(sweep, distinct, {run_id: run_status(runs / run_id) for run_id in distinct})


def _step_times(plan: Plan, run: ResolvedRun, workers: int, runs: Path, console: Console) -> StepTimes | None:
    learned = learned_step_times(plan)
    if learned is not None or not plan.to_run or run.execution.device == "cuda":
        return learned
    if not isinstance(run.config, RunConfig):
        return None
    console.print("timing a few steps on this machine (some 20 seconds, once per shape)")
    return measured_step_times(run.config, run.execution, workers, runs / "step-times.json")


def execute_plan(plan: Plan, slots: int, roots: Roots, console: Console) -> None:
    """Carry out what is left of a frozen plan, `slots` runs at once.

    Raises:
        SweepIncomplete: if runs failed or are left.
    """
    todo = plan.to_run
    print_plan(plan, learned_step_times(plan), slots, console)
    if not todo:
        console.print(f"nothing to train: every run of {plan.sweep.name} is finished or running")
        return
    run = plan.runs[todo[0]]
    costs = {run_id: plan.runs[run_id].config.flops for run_id in todo}
    finished = plan.count(*FINISHED)
    with SweepView(console, costs, finished) as view:
        pool = Pool(
            roots.runs,
            roots.data,
            workers=slots,
            threads=run.execution.threads,
            gpus=run.execution.device == "cuda",
            view=view,
        )
        pool.run(todo)
    _conclude(plan, roots, console)


def _conclude(plan: Plan, roots: Roots, console: Console) -> None:
    plan = replace(plan, status={run_id: run_status(roots.runs / run_id) for run_id in plan.runs})
    left = len(plan.to_run)
    console.print(
        f"{plan.sweep.name}: {plan.count(State.DONE)} done, {plan.count(State.DIVERGED)} diverged, "
        f"{plan.count(State.FAILED)} failed, {left - plan.count(State.FAILED)} left",
        highlight=False,
    )
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
        raise SweepIncomplete(f"stopped with {left} runs left; the same command goes on where this one stopped")
