"""Hydra's view of loopsweep: launchers that execute grids, and a sweeper that does not compose them twice.

Hydra accepts plugins only from the namespace package `hydra_plugins`. What they do lives in `sweeper`. The nodes give
the files in conf/hydra their keys and types.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.plugins.launcher import Launcher
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import HydraContext, TaskFunction
from omegaconf import MISSING, DictConfig

from sweeper.config.checks import check_axis, check_composed, panel_name, plugin_options
from sweeper.config.register import CONFIG_DIR
from sweeper.config.rules import Line, Rule, at_least, at_most
from sweeper.errors import UserError
from sweeper.execution.slurm.options import SlurmOptions

Workers = Annotated[int, at_least(1), at_most(1024)]
Axes = Annotated[
    dict[str, Any],
    Rule(
        lambda axes: all(isinstance(value, str | int | float | bool | None) for value in axes.values()),
        "must give each axis one value or a comma list of them, such as {seed: '0,1'}",
    ),
]


@dataclass
class LocalNode:
    """conf/hydra/launcher/local.yaml."""

    _target_: str = MISSING
    workers: Workers | None = None
    gpu: Line | None = None
    plan_only: bool = MISSING


@dataclass
class SlurmNode(SlurmOptions):
    """conf/hydra/launcher/slurm.yaml."""

    _target_: str = MISSING
    plan_only: bool = MISSING


@dataclass
class GridNode:
    """conf/hydra/sweeper/grid.yaml."""

    _target_: str = MISSING
    params: Axes = field(default_factory=dict)
    grids: list[Axes] = field(default_factory=list)


for name, node in {"local_launcher": LocalNode, "slurm_launcher": SlurmNode, "grid_sweeper": GridNode}.items():
    ConfigStore.instance().store(group="schema", name=name, node=node, provider="loopsweep")


class LocalFiles(SearchPathPlugin):
    """Finds `conf/` of the working directory too, with a user's sites and presets. Files of this project come first."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Called by Hydra before it composes."""
        folder = Path("conf").resolve()
        if folder.is_dir() and folder != CONFIG_DIR:
            search_path.append("loopsweep-local", f"file://{folder}")


class GridLauncher(Launcher):
    """What both launchers share. They read their options from the configuration, where types and rules are known."""

    def __init__(self, **_: Any) -> None:
        pass

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra once the master configuration is known."""
        self._context, self._config = hydra_context, config


class LocalLauncher(GridLauncher):
    """Runs of a grid on this machine."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[Any]:
        """Execute all jobs; their results are in their run directories, not in the return value."""
        from sweeper.execution.local import launch_local

        options: LocalNode = plugin_options(self._config, "launcher")
        launch_local(
            self._context,
            self._config,
            job_overrides,
            workers=options.workers,
            gpu=options.gpu,
            plan_only=options.plan_only,
        )
        return []


class SlurmLauncher(GridLauncher):
    """Runs of a grid as jobs of a SLURM cluster."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[Any]:
        """Submit all jobs and return; `loopsweep status` says what becomes of them."""
        from sweeper.execution.slurm.launch import launch_slurm

        options: SlurmNode = plugin_options(self._config, "launcher")
        launch_slurm(self._context, self._config, job_overrides, options, plan_only=options.plan_only)
        return []


class GridSweeper(BasicSweeper):
    """Hydra's basic sweeper, without its file on disk and its own slow composition of every job.

    An argument with the key of an axis takes the axis's place, so that a part of a grid or a wider one can be asked
    for. Of several grids, each has those of its panels that are asked for.

    Args:
        params: axes of the grid, each a comma list.
        grids: several such grids, one after the other, where the points wanted are not one product of axes.
    """

    def __init__(self, params: Mapping[str, Any], grids: Sequence[Mapping[str, Any]]) -> None:
        super().__init__(max_batch_size=None, params=dict(params))
        self._grids: Sequence[Mapping[str, Any]] = grids or [{}]

    def sweep(self, arguments: list[str]) -> Any:
        """Expand the axes and hand all jobs to the launcher at once."""
        from hydra.core.override_parser.overrides_parser import OverridesParser

        assert self.config is not None
        assert self.hydra_context is not None
        assert self.launcher is not None
        check_composed(self.config)
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        given = {text.partition("=")[0]: text.partition("=")[2] for text in arguments}
        jobs: dict[tuple[str, ...], None] = {}
        for grid, typed in self._asked(given, arguments):
            axes = {key: value for key, value in {**self.params, **grid}.items() if key not in given}
            overrides = parser.parse_overrides([*(f"{key}={value}" for key, value in axes.items()), *typed])
            for override in overrides:
                check_axis(override)
            [batch] = self.split_arguments(overrides, max_batch_size=None)
            jobs |= dict.fromkeys(map(tuple, batch))
        return self.launcher.launch(list(jobs), initial_job_idx=0)

    def _asked(
        self, given: Mapping[str, str], arguments: Sequence[str]
    ) -> Iterator[tuple[Mapping[str, Any], Sequence[str]]]:
        """The grids asked for, each with the arguments that concern it: of the panels, its own.

        Raises:
            UserError: for a panel that no grid has.
        """
        panels = [set(str(grid["panel"]).split(",")) if "panel" in grid else None for grid in self._grids]
        if "panel" not in given or None in panels:
            yield from ((grid, arguments) for grid in self._grids)
            return
        options = given["panel"].split(",")
        known = ",".join(str(grid["panel"]) for grid in self._grids)
        if unknown := [option for option in options if not any(panel_name(option) in (own or ()) for own in panels)]:
            raise UserError(f"panel={unknown[0]} is in no grid of this sweep; its panels: {known}")
        for grid, own in zip(self._grids, panels, strict=True):
            if of_grid := [option for option in options if panel_name(option) in (own or ())]:
                typed = f"panel={','.join(of_grid)}"
                yield grid, [typed if text.startswith("panel=") else text for text in arguments]
