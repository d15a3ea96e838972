"""A composed grid, checked and ready to be executed: its plan, and what is written first."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hydra.types import HydraContext
from omegaconf import DictConfig
from rich.console import Console

from sweeper.config.checks import check_data, check_machine, check_paths, directory_of, fitted
from sweeper.config.design import DESIGNS, designed
from sweeper.config.resolve import ResolvedRun, data_spec, depth_warning, resolve
from sweeper.data import DataSpec, Manifest, find_data
from sweeper.display.data_progress import prepare_in_view
from sweeper.errors import UserError
from sweeper.files import check_writable
from sweeper.grid.asked import Background, Values, command, preset, sweep_name, title
from sweeper.grid.compose import check_axes, compose_jobs
from sweeper.grid.divergence import divergence_warning
from sweeper.grid.plan import Plan
from sweeper.records.axes import DATA, same
from sweeper.records.run_dir import RunDir
from sweeper.records.status import run_status
from sweeper.records.sweep_manifest import Cell, Sweep, add, placed
from sweeper.run.spec import KINDS
from sweeper.tracking.client import mirror_sweep

UNPREPARED = "unprepared"  # stands for the manifest hash while the data does not exist yet


@dataclass(frozen=True)
class Roots:
    """Where things lie on this machine; never part of a record."""

    runs: Path
    sweeps: Path
    data: Path


@dataclass(frozen=True)
class Submitted:
    """A sweep as it was submitted, and where it lies."""

    sweep: Sweep
    roots: Roots


submitted: list[Submitted] = []
"""The sweeps that this process has submitted, for commands that follow (`loopsweep submit --then`)."""


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

    def write(self) -> Plan:
        """Write the configuration of every run to execute, and add the cells to the sweep's manifest.

        Returns:
            The plan, with the sweep as it is on disk now.
        """
        whole, changed = add(self.roots.sweeps, self.plan.sweep)
        plan = replace(self.plan, sweep=replace(self.plan.sweep, name=whole.name), whole=whole)
        for run_id in plan.to_run:
            run = plan.runs[run_id]
            labels = {key: run.axes[key] for key in ("rule", "depth_multiplier")} | {"preset": self.preset}
            labels |= {"sweep": whole.name, "panels": whole.panels(run_id)}
            RunDir(self.roots.runs / run_id).write_config(run.config, run.execution, labels)
        if changed or plan.to_run:
            tracking = next(iter(plan.runs.values())).execution.tracking
            mirror_sweep(self.roots.sweeps / f"{whole.name}.json", self.roots.runs, tracking)
        submitted.append(Submitted(whole, self.roots))
        return plan

    def say_what_is_missing(self, console: Console) -> None:
        """After a plan: what submitting would do first."""
        if not self.prepared:
            console.print("data: not prepared yet; submitting prepares it first")


def compose_grid(
    context: HydraContext,
    config: DictConfig,
    jobs: Sequence[Sequence[str]],
    console: Console,
    *,
    prepare: bool,
    here: bool = False,
) -> Grid:
    """Compose and check every grid point.

    Args:
        context: of the running Hydra application.
        config: the multirun's master configuration.
        jobs: overrides of each grid point.
        console: where to print.
        prepare: prepare the data, and make sure that all directories can be written.
        here: this machine carries out the runs, so that it must be able to.

    Raises:
        UserError: for anything in the configuration or the data that the user has to change.
    """
    check_axes(jobs)
    check_paths(config, "runs", "sweeps", probe=prepare)
    check_paths(config, "data", probe=False)  # written only where data is still to be prepared
    roots = Roots(*(directory_of(config, name) for name in ("runs", "sweeps", "data")))
    points = [(data_spec(job), resolve(job, UNPREPARED)) for job in compose_jobs(context, config, jobs)]
    asked_for = list(points)
    if not points:
        raise UserError("the grid is empty; give every axis at least one value")
    for warning in dict.fromkeys(filter(None, (depth_warning(run.axes) for _, run in points))):
        console.print(f"warning: {warning}", style="yellow", highlight=False)
    for _, run in points:
        if here and (prepare or run.execution.device == "cpu"):  # a plan for GPUs needs none
            check_machine(run.config, run.execution)
    specs = {spec for spec, run in points if KINDS[run.config.KIND].reads_data}
    manifests = {spec: _manifest(spec, roots.data, console, prepare=prepare) for spec in specs}
    for place, (spec, run) in enumerate(points):
        if manifest := manifests.get(spec):
            points[place] = spec, replace(run, config=fitted(run.config, manifest))
            check_data(points[place][1].config, manifest)
    if any(fit.config != run.config for (_, fit), (_, run) in zip(points, asked_for, strict=True)):
        console.print("validation: all held-out passages, fewer tokens than validation.tokens", highlight=False)
    hashes = {spec: manifest.hash if manifest else UNPREPARED for spec, manifest in manifests.items()}
    resolved = [run.on_data(hashes.get(spec, "")) for spec, run in points]
    background = Background(context, config, jobs)
    asked = _asked(config, background, jobs, resolved)
    distinct = {run.config.run_id: run for run in resolved}
    status = {run_id: run_status(roots.runs / run_id) for run_id in distinct}
    whole = placed(roots.sweeps, asked)
    if whole.name != asked.name:
        console.print(
            f"{asked.name} has other values, or other runs in these cells; this sweep is named {whole.name}",
            highlight=False,
            soft_wrap=True,
        )
    sweep = replace(asked, name=whole.name, id=whole.id)
    plan = Plan(sweep, distinct, status, whole=whole, designs=_designs(config, background.experiment))
    plan = replace(plan, warning=divergence_warning(plan, str(config.preset), roots.runs))
    return Grid(plan, roots, str(config.preset), prepared=UNPREPARED not in hashes.values())


def _designs(config: DictConfig, experiment: str) -> dict[str, int]:
    """Rates in each design of a sweep of learning rates. A round of refinement has none."""
    if experiment != "lr_transfer" or config.refine.round:
        return {}
    return {name: len(designed(name, config.grid.base_lr, config.optimizer.base_lr)) for name in DESIGNS}


def saved_plan(sweep: Sweep, run_ids: Sequence[str], runs: Path) -> Plan:
    """The plan for some runs of a sweep that was submitted before, from their frozen configurations.

    Raises:
        UserError: if a run's directory is not what it was.
    """
    chosen = sweep.with_rows([cell["run_id"] in run_ids for cell in sweep.cells])
    axes = {cell["run_id"]: cell for cell in chosen.cells}
    resolved = {run_id: ResolvedRun(*RunDir(runs / run_id).load(), axes[run_id]) for run_id in run_ids}
    return Plan(chosen, resolved, {run_id: run_status(runs / run_id) for run_id in run_ids}, whole=sweep)


def _manifest(spec: DataSpec, root: Path, console: Console, *, prepare: bool) -> Manifest | None:
    """Of the prepared data; None if it is not prepared and shall not be."""
    found = find_data(spec, root)
    if found is not None or not prepare:
        return found
    check_writable(f"paths.data={root}", root)
    return prepare_in_view(spec, root, console)


def _asked(
    config: DictConfig, background: Background, jobs: Sequence[Sequence[str]], resolved: Sequence[ResolvedRun]
) -> Sweep:
    """The sweep that a command line asks for, without the cells of earlier submissions.

    Raises:
        UserError: if no axis tells two of its runs apart.
    """
    base: Values = {}
    cells: dict[str, tuple[Cell, Sequence[str]]] = {}
    for job, run, values in zip(jobs, resolved, background.of_jobs(), strict=True):
        manifest_hash = getattr(run.config, "data", "")
        if manifest_hash not in ("", UNPREPARED):
            values[DATA] = manifest_hash
        base = base or values
        differing = {key: value for key, value in values.items() if not same(value, base.get(key))}
        cost = {"steps": run.config.steps, "flops": run.config.flops + run.config.attention_flops}
        cell = {**run.axes, "run_id": run.config.run_id, **cost}
        cell |= {"values": differing} if differing else {}
        cell |= {"round": config.refine.round} if config.refine.round else {}
        known, other = cells.setdefault(repr((run.axes, sorted(differing.items()))), (cell, job))
        if known != cell:
            apart = ", ".join(sorted({*job}.symmetric_difference(other)))
            raise UserError(f"no axis of a sweep tells the runs with {apart} apart; submit them under other titles")
    experiment = background.experiment
    number, reason = config.refine.round, config.refine.reason
    return Sweep(
        name=sweep_name(config, experiment),
        experiment=experiment,
        preset=preset(config),
        cells=tuple(cell for cell, _ in cells.values()),
        title=title(config),
        base=base,
        commands=(command(config),),
        rounds=({"round": number, "reason": reason or "", "cells": len(cells)},) if number else (),
    )
