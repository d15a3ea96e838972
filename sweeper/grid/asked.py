"""What a command line says beside the axes of a grid: the sweep's name and title, its other values, the command."""

import hashlib
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf

from sweeper.config.kinds import READS
from sweeper.grid.compose import compose_jobs
from sweeper.records.axes import AXIS_KEYS
from sweeper.records.redact import redact
from sweeper.records.sweep_manifest import MAX_NAME

NO_KIND = "runs"  # the experiment of a multirun that names none
NAMELESS = ("title", "experiment")  # name a sweep, and set no value
# Not in a derived name: the grid itself, and keys that change no result.
_UNNAMED_SECTIONS = (
    "preset",
    "sweep",
    "panel",
    "grid",
    "design",
    "refine",
    "seed",
    "paths",
    "execution",
    "tracking",
    "hydra",
    "site",
)
_UNNAMED_KEYS = ("model.n_loops", "optimizer.base_lr", "probe.depths", "probe.seeds")

Values = dict[str, Any]


class Background:
    """The configuration values of jobs without their place in the grid. Most jobs share one background.

    A job's place is its panel, its base axes and the axes of the sweep itself (conf/sweep). All other overrides, and
    the values that follow from them by interpolation, are its background.

    Args:
        context: of the running Hydra application.
        config: the multirun's master configuration.
        jobs: overrides of each grid point.

    Attributes:
        experiment: the kind of sweep. A title does not change it.
    """

    def __init__(self, context: HydraContext, config: DictConfig, jobs: Sequence[Sequence[str]]) -> None:
        typed = {_key(text) for text in config.hydra.overrides.task}
        axes = (AXIS_KEYS | _sweeps_own(config) - typed).union(NAMELESS)
        self._of_jobs = [tuple(text for text in job if _key(text) not in axes) for job in jobs]
        distinct = list(dict.fromkeys(self._of_jobs))
        self._values: dict[tuple[str, ...], Values] = {}
        self.experiment = NO_KIND
        for background, composed in zip(distinct, compose_jobs(context, config, distinct), strict=True):
            self._values[background] = _determining(composed)
            self.experiment = str(composed.experiment)

    def of_jobs(self) -> list[Values]:
        """The values of each job's background, by configuration key."""
        return [dict(self._values[background]) for background in self._of_jobs]


def title(config: DictConfig) -> str:
    """The user's name for the sweep: `title=`, or `experiment=` if that was typed. Else empty."""
    if config.title:
        return str(config.title)
    typed = {_key(text) for text in config.hydra.overrides.task}
    return str(config.experiment) if "experiment" in typed else ""


def sweep_name(config: DictConfig, experiment: str) -> str:
    """`<title>-<experiment>-<preset>`. Without a title, `<experiment>-<preset>` and the keys that were changed."""
    if of_user := title(config):
        parts = [of_user, *([experiment] if experiment != NO_KIND else []), preset(config)]
    else:
        parts = [experiment, preset(config)]
        for override in config.hydra.overrides.task:
            key, value = _key(override), override.partition("=")[2]
            if re.split(r"[.@]", key)[0] not in (*_UNNAMED_SECTIONS, *NAMELESS) and key not in _UNNAMED_KEYS:
                parts.append(f"{key}={','.join(Path(part).name for part in value.split(','))}")
    name = re.sub(r"[^\w.=,+-]+", "_", "-".join(parts)).lstrip(".-")
    content = name.encode()
    if len(content) <= MAX_NAME:
        return name
    return f"{content[: MAX_NAME - 7].decode(errors='ignore')}-{hashlib.sha256(content).hexdigest()[:6]}"


def preset(config: DictConfig) -> str:
    """The preset of a sweep; `smoke+quick` for `preset=smoke,quick`."""
    typed = [text.partition("=")[2] for text in config.hydra.overrides.task if _key(text) == "preset"]
    return str((typed or [config.preset])[-1]).replace(",", "+")


def command(config: DictConfig) -> str:
    """The command as typed, without `paths.*`, and with home paths and secrets replaced."""
    hydra = (text for text in config.hydra.overrides.hydra if not text.startswith("hydra.mode="))
    typed = [*config.hydra.overrides.task, *hydra]
    kept = [redact(text) for text in typed if not _key(text).startswith("paths.")]
    return shlex.join(["loopsweep", "submit", *kept])


def _sweeps_own(config: DictConfig) -> set[str]:
    """Keys of the axes that are written in conf/sweep."""
    sweeper = config.hydra.sweeper
    grids = [sweeper.get("params"), *(sweeper.get("grids") or [])]
    return {str(key) for grid in grids if grid is not None for key in grid}


def _key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]


def _determining(composed: DictConfig) -> Values:
    """The values that determine a run's result, by configuration key, without the base axes."""
    tree = OmegaConf.to_container(composed, resolve=True)
    assert isinstance(tree, dict)
    prefixes = READS.get(str(composed.kind), tuple(key for keys in READS.values() for key in keys))
    values = {"preset": str(composed.preset), "kind": str(composed.kind)}
    for key, value in _leaves(tree):
        if key not in AXIS_KEYS and any(key == prefix or key.startswith(f"{prefix}.") for prefix in prefixes):
            values[key] = redact(value) if isinstance(value, str) else value
    return values


def _leaves(tree: Mapping[Any, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, value in tree.items():
        key = f"{prefix}{name}"
        found += _leaves(value, f"{key}.") if isinstance(value, Mapping) else [(key, value)]
    return found
