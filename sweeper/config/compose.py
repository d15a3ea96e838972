"""A configuration composed without Hydra's command line, for commands and scripts of this project."""

from collections.abc import Sequence

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from sweeper.config.checks import check_composed
from sweeper.config.messages import composing
from sweeper.config.register import CONFIG_DIR, register


def compose_config(overrides: Sequence[str]) -> DictConfig:
    """What `conf/` and the overrides say, Hydra's own section included; each value is checked alone.

    Raises:
        UserError: for an override that Hydra refuses or a value that is not allowed.
    """
    register()
    with composing(), initialize_config_dir(version_base="1.3", config_dir=str(CONFIG_DIR)):
        config = compose("config", overrides=list(overrides), return_hydra_config=True)
        check_composed(config)
    return config
