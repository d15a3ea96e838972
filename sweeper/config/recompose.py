"""From a recorded cell back to its configuration: records hold axes and values, and `conf/` all else."""

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from model import BLOCKS, LOOPS
from sweeper.config.compose import compose_config
from sweeper.errors import UserError
from sweeper.records.axes import DATA, PLAIN, as_text, is_extra
from sweeper.records.presets import name_today

_PLAIN_AXES = {"n_layers": "model.n_layers", "ref_layers": "scaling.ref_layers", "n_loops": "model.n_loops"}
_PLAIN_AXES |= {"base_lr": "optimizer.base_lr", "seed": "seed"}
_TYPED = ("preset", DATA)  # values that are no configuration key, or that choose a file


def recompose(cell: Mapping[str, Any], values: Mapping[str, Any]) -> DictConfig:
    """The configuration of a cell, without Hydra's section.

    Whether it is the very run that was recorded is for the caller to check, by the run's id.

    Args:
        cell: a row of cells.parquet. Its preset may have another name today.
        values: configuration values that all cells of its sweep share, as provenance.json has them; may be empty.

    Raises:
        UserError: if this version has no such sweep, preset, panel or key.
    """
    chosen = [f"+sweep={cell['experiment']}"] if cell["experiment"] != "runs" else []
    preset = name_today(str(cell["preset"]), int(cell["steps"]))
    config = compose_config([*chosen, f"preset={preset}", f"panel={cell['panel']}", "tracking=off"])
    with open_dict(config):
        del config["hydra"]
    extra = {name: _plain(value) for name, value in cell.items() if is_extra(name)}
    own = {key: _plain(cell[axis]) for axis, key in _PLAIN_AXES.items()}
    for key, value in {**values, **extra, **own, **_rule(cell["rule"]), **_architecture(cell)}.items():
        if key not in _TYPED:
            OmegaConf.update(config, key, value, merge=True)
    return config


def _rule(text: str) -> dict[str, Any]:
    """The inverse of the axis `rule`: `linear`, or exponents such as `alpha=0.25`."""
    if "=" not in text:
        return {"scaling.rule": text}
    pairs = (part.partition("=") for part in text.split())
    return {f"scaling.{key}": float(value) for key, _, value in pairs}


def _architecture(cell: Mapping[str, Any]) -> dict[str, str]:
    """The inverse of the axis `architecture`."""
    text = as_text(cell.get("architecture"))
    names = [] if text in ("null", PLAIN) else text.split("+")
    found = {}
    for name in names:
        if name not in (*LOOPS, *BLOCKS):
            raise UserError(f"architecture {text} is unknown here; allowed: {', '.join((*LOOPS, *BLOCKS))}")
        found["model.loop" if name in LOOPS else "model.block"] = name
    return found


def _plain(value: Any) -> Any:
    """A cell of a table as a configuration's value; NaN stands for null."""
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and value != value else value
