"""Hydra's view of loopsweep: a launcher that carries out grids, and a sweeper that does not compose them twice.

Hydra accepts plugins only from the namespace package `hydra_plugins`; what they do lives in `sweeper`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


class LocalLauncher(Launcher):
    """Runs of a grid on this machine (conf/hydra/launcher/local.yaml)."""

    def __init__(self, workers: int | None, plan_only: bool) -> None:
        self._workers, self._plan_only = workers, plan_only

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra once the master configuration is known."""
        self._context, self._config = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[Any]:
        """Carry out all jobs; their results are in their run directories, not in the return value."""
        from sweeper.execution.local import launch_local

        launch_local(self._context, self._config, job_overrides, workers=self._workers, plan_only=self._plan_only)
        return []


class SlurmLauncher(Launcher):
    """Runs of a grid as jobs of a SLURM cluster (conf/hydra/launcher/slurm.yaml)."""

    def __init__(self, plan_only: bool, **options: Any) -> None:
        self._plan_only = plan_only
        self._options = OmegaConf.to_object(OmegaConf.create(options))

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra once the master configuration is known."""
        self._context, self._config = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[Any]:
        """Submit all jobs and return; what becomes of them is for `loopsweep status` to say."""
        from sweeper.execution.slurm.launch import launch_slurm
        from sweeper.execution.slurm.options import SlurmOptions

        assert isinstance(self._options, dict)
        options = SlurmOptions.from_dict(self._options)
        launch_slurm(self._context, self._config, job_overrides, options, plan_only=self._plan_only)
        return []


class GridSweeper(BasicSweeper):
    """Hydra's basic sweeper, without its file on disk and its own slow composition of every job.

    An argument with the key of an axis takes the axis's place, so that a part of a grid or a wider one can be asked
    for. Of several grids, those that have none of the panels asked for are left out.

    Args:
        params: axes of the grid, each a comma list.
        grids: several such grids, one after the other, where the points wanted are not one product of axes.
        max_batch_size: not used; all jobs go to the launcher at once.
    """

    def __init__(
        self,
        max_batch_size: int | None,
        params: dict[str, str] | None = None,
        grids: Sequence[Mapping[str, str]] | None = None,
    ) -> None:
        super().__init__(max_batch_size, params)
        self._grids: Sequence[Mapping[str, str]] = grids or [{}]

    def sweep(self, arguments: list[str]) -> Any:
        """Expand the axes and hand all jobs to the launcher at once."""
        from hydra.core.override_parser.overrides_parser import OverridesParser

        assert self.hydra_context is not None
        assert self.launcher is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        given = {text.partition("=")[0]: set(text.partition("=")[2].split(",")) for text in arguments}
        jobs: dict[tuple[str, ...], None] = {}
        for grid in self._grids:
            if "panel" in given and "panel" in grid and given["panel"].isdisjoint(grid["panel"].split(",")):
                continue
            axes = {key: value for key, value in {**(self.params or {}), **grid}.items() if key not in given}
            overrides = parser.parse_overrides([*(f"{key}={value}" for key, value in axes.items()), *arguments])
            [batch] = self.split_arguments(overrides, max_batch_size=None)
            jobs |= dict.fromkeys(map(tuple, batch))
        return self.launcher.launch(list(jobs), initial_job_idx=0)
