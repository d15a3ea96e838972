"""What Hydra has to know of this project before it composes anything."""

import sys
from collections import Counter
from pathlib import Path

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from sweeper.config.design import designed
from sweeper.config.kinds import Config

CONFIG_DIR = Path(__file__).resolve().parents[2] / "conf"
PLUGINS = str(Path(__file__).resolve().parents[1] / "plugins")


def register() -> None:
    """Make the plugins, the schema, the panels' short names and the resolvers known to Hydra. Idempotent."""
    if (
        PLUGINS not in sys.path
    ):  # Hydra finds the namespace package `hydra_plugins` on the import path, and nowhere else
        sys.path.append(PLUGINS)
    store = ConfigStore.instance().store
    store(name="schema", node=Config)
    for name, option in short_names(CONFIG_DIR / "panel").items():
        store(group="panel", name=name, node={"defaults": [option]}, package="_global_")
    OmegaConf.register_new_resolver("loopsweep.times", lambda a, b: a * b, replace=True)
    OmegaConf.register_new_resolver("loopsweep.design", designed, replace=True)
    OmegaConf.register_new_resolver("loopsweep.comma", lambda items: ",".join(map(str, items)), replace=True)


def short_names(group: Path) -> dict[str, str]:
    """The options in the folders of a group by their last part, where no other has it: `a` for `lr_transfer/a`."""
    options = [f"{file.parent.name}/{file.stem}" for file in sorted(group.glob("*/*.yaml"))]
    count = Counter(Path(option).name for option in options)
    return {Path(option).name: option for option in options if count[Path(option).name] == 1}
