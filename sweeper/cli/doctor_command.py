"""`loopsweep doctor`: what the cluster has that a sweep would need, checked here and in one short job."""

from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, open_dict
from rich.console import Console

from sweeper.config.checks import directory_of, plugin_options
from sweeper.config.compose import compose_config
from sweeper.config.resolve import data_spec, resolve
from sweeper.data import DataSpec, find_data
from sweeper.errors import UserError
from sweeper.execution.slurm.doctor.examine import Intent, examine
from sweeper.run.base import ModelRun

HUB = "https://huggingface.co"
CHECKPOINT_BYTES_PER_WEIGHT = 12  # a weight and two moments, in fp32


def doctor(overrides: Sequence[str], *, job: bool, wait_minutes: float) -> bool:
    """Check a cluster for what a command line would run there.

    Args:
        overrides: Hydra overrides: preset=…, site@hydra.launcher=…, hydra.launcher.…, paths.…
        job: whether to submit a job that checks a node.
        wait_minutes: to wait for that job.

    Returns:
        Whether no problem was found.

    Raises:
        UserError: for anything in the overrides; if this machine has no SLURM.
    """
    config, console = compose_config(["hydra/launcher=slurm", *overrides]), Console()
    if config.hydra.runtime.choices["hydra/launcher"] != "slurm":
        raise UserError("doctor checks a SLURM cluster; leave out hydra/launcher=local")
    return examine(_intent(config), console, job=job, wait_minutes=wait_minutes)


def _intent(config: DictConfig) -> Intent:
    own = config.copy()
    with open_dict(own):
        del own["hydra"]
    run, spec, data = resolve(own, "unprepared").config, data_spec(own), Path(str(own.paths.data))
    manifest = find_data(spec, data)
    return Intent(
        options=plugin_options(config, "launcher"),
        runs=directory_of(own, "runs"),
        sweeps=directory_of(own, "sweeps"),
        data=f"{data / manifest.directory} is prepared" if manifest is not None else None,
        checkpoint_bytes=CHECKPOINT_BYTES_PER_WEIGHT * run.model.n_params if isinstance(run, ModelRun) else 1.0,
        urls=_servers(own, spec, prepared=manifest is not None),
    )


def _servers(config: DictConfig, spec: DataSpec, *, prepared: bool) -> dict[str, str]:
    """What runs or data would have to reach."""
    servers = {"wandb": str(config.tracking.base_url)} if config.tracking.mode == "online" else {}
    return servers | ({"hub": HUB} if spec.name == "fineweb_edu" and not prepared and spec.path is None else {})
