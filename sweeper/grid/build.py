"""A composed grid, checked and ready to be executed: its plan, and what is written first."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hydra.types import HydraContext
from omegaconf import DictConfig
from rich.console import Console

from sweeper.config.checks import check_data, check_machine, check_paths
from sweeper.config.resolve import ResolvedRun, data_spec, depth_warning, resolve
from sweeper.data import DataSpec, Manifest, find_data
from sweeper.display.data_progress import prepare_in_view
from sweeper.errors import UserError
from sweeper.files import check_writable
from sweeper.grid.compose import check_axes, compose_jobs
from sweeper.grid.plan import Plan
from sweeper.records.run_dir import RunDir
from sweeper.records.status import run_status
from sweeper.records.sweep_manifest import Sweep
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

    def write(self) -> None:
        """Write the configuration of every run to carry out, and the sweep's manifest."""
        for run_id in self.plan.to_run:
            run = self.plan.runs[run_id]
            labels = {key: run.axes[key] for key in ("rule", "depth_multiplier")} | {"preset": self.preset}
            labels |= {"sweep": self.plan.sweep.name, "panels": self.plan.sweep.panels(run_id)}
            RunDir(self.roots.runs / run_id).write_config(run.config, run.execution, labels)
        if self.plan.sweep.save(self.roots.sweeps) or self.plan.to_run:
            tracking = next(iter(self.plan.runs.values())).execution.tracking
            mirror_sweep(self.roots.sweeps / f"{self.plan.sweep.name}.json", self.roots.runs, tracking)

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
    roots = Roots(*(Path(str(config.paths[name])) for name in ("runs", "sweeps", "data")))
    points = [(data_spec(job), resolve(job, UNPREPARED)) for job in compose_jobs(context, config, jobs)]
    if not points:
        raise UserError("the grid is empty; give every axis at least one value")
    for warning in dict.fromkeys(filter(None, (depth_warning(run.axes) for _, run in points))):
        console.print(f"warning: {warning}", style="yellow", highlight=False)
    for _, run in points:
        if here and (prepare or run.execution.device == "cpu"):  # a plan for GPUs needs none
            check_machine(run.config, run.execution)
    specs = {spec for spec, run in points if KINDS[run.config.KIND].reads_data}
    manifests = {spec: _manifest(spec, roots.data, console, prepare=prepare) for spec in specs}
    for spec, run in points:
        if manifest := manifests.get(spec):
            check_data(run.config, manifest)
    hashes = {spec: manifest.hash if manifest else UNPREPARED for spec, manifest in manifests.items()}
    resolved = [run.on_data(hashes.get(spec, "")) for spec, run in points]
    plan = _plan(sweep_name(config), config, resolved, roots.runs)
    return Grid(plan, roots, str(config.preset), prepared=UNPREPARED not in hashes.values())


def saved_plan(sweep: Sweep, run_ids: Sequence[str], runs: Path) -> Plan:
    """The plan for some runs of a sweep that was submitted before, from their frozen configurations.

    Raises:
        UserError: if a run's directory is not what it was.
    """
    sweep = replace(sweep, cells=tuple(cell for cell in sweep.cells if cell["run_id"] in run_ids))
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


def _manifest(spec: DataSpec, root: Path, console: Console, *, prepare: bool) -> Manifest | None:
    """Of the prepared data; None if it is not prepared and shall not be."""
    found = find_data(spec, root)
    if found is not None or not prepare:
        return found
    check_writable(f"paths.data={root}", root)
    return prepare_in_view(spec, root, console)


def _plan(name: str, config: DictConfig, resolved: Sequence[ResolvedRun], runs: Path) -> Plan:
    distinct = {run.config.run_id: run for run in resolved}
    cells = [{**run.axes, "run_id": run.config.run_id, "steps": run.config.steps} for run in resolved]
    sweep = Sweep(name, str(config.experiment), str(config.preset), tuple(cells))
    return Plan(sweep, distinct, {run_id: run_status(runs / run_id) for run_id in distinct})
