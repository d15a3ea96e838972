"""`loopsweep data`: a preset's data prepared ahead of its runs, on this machine or as jobs of a SLURM cluster."""

from collections.abc import Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from sweeper.config.resolve import data_spec
from sweeper.data import find_data
from sweeper.display.data_progress import prepare_in_view
from sweeper.errors import UserError
from sweeper.train import CONFIG_DIR, in_one_line


def prepare(overrides: Sequence[str]) -> None:
    """Prepare the data that a command line asks for, unless that has been done.

    Args:
        overrides: Hydra overrides: preset=…, data.…, paths.data=…, hydra/launcher=local or slurm.

    Raises:
        UserError: for anything in them, in the data or in the cluster's answer that the user has to change.
    """
    config, console = _compose(overrides), Console()
    spec, root = data_spec(config), Path(str(config.paths.data))
    if config.hydra.runtime.choices["hydra/launcher"] == "slurm" and find_data(spec, root) is None:
        from sweeper.execution.slurm.options import SlurmOptions
        from sweeper.execution.slurm.prepare_data import submit_data

        values = OmegaConf.to_container(config.hydra.launcher, resolve=True)
        assert isinstance(values, dict)
        options = SlurmOptions.from_dict(
            {key: value for key, value in values.items() if key not in ("_target_", "plan_only")}
        )
        submit_data(spec, root, options, console)
        return
    manifest = prepare_in_view(spec, root, console)
    line = f"data: {root / manifest.directory} is ready, manifest {manifest.hash}"
    console.print(line, highlight=False, soft_wrap=True)


def _compose(overrides: Sequence[str]) -> DictConfig:
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(CONFIG_DIR)):
            config = compose("config", overrides=list(overrides), return_hydra_config=True)
            OmegaConf.resolve(config.data)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(in_one_line(error)) from error
    return config
