"""`loopsweep data`: a preset's data prepared ahead of its runs, on this machine or as jobs of a SLURM cluster."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from sweeper.config.checks import check_paths, plugin_options
from sweeper.config.compose import compose_config
from sweeper.config.resolve import data_spec
from sweeper.data import find_data
from sweeper.display.data_progress import prepare_in_view


def prepare(overrides: Sequence[str]) -> None:
    """Prepare the data that a command line asks for, unless that has been done.

    Args:
        overrides: Hydra overrides: preset=…, data.…, paths.data=…, hydra/launcher=local or slurm.

    Raises:
        UserError: for anything in them, in the data or in the cluster's answer that the user has to change.
    """
    config, console = compose_config(overrides), Console()
    spec, root = data_spec(config), Path(str(config.paths.data))
    if find_data(spec, root) is None:
        check_paths(config, "data")
    on_slurm = spec.task is None and config.hydra.runtime.choices["hydra/launcher"] == "slurm"
    if on_slurm and find_data(spec, root) is None:
        from sweeper.execution.slurm.prepare_data import submit_data

        submit_data(spec, root, plugin_options(config, "launcher"), console)
        return
    manifest = prepare_in_view(spec, root, console)
    line = f"data: {root / manifest.directory} is ready, manifest {manifest.hash}"
    console.print(line, highlight=False, soft_wrap=True)
