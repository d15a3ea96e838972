"""The command that trains one cell of a sweep again, from what its records say."""

import re
import shlex
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import yaml

from analysis.plotting import rules
from sweeper.records.axes import as_text, is_extra
from sweeper.records.presets import PRESETS, name_today

AGAIN = "again/runs"  # a directory of its own, because a finished run is not trained again
AXES = {
    "panel": "panel",
    "model.n_loops": "n_loops",
    "model.n_layers": "n_layers",
    "optimizer.base_lr": "base_lr",
    "seed": "seed",
}
ARCHITECTURE = ("model.loop", "model.block")
# Typed values that choose cells or change no result.
NOT_VALUES = re.compile(
    r"(\+?sweep|preset|panel|title|experiment|seed|grid|paths|execution|tracking|hydra|site)\b|probe\.(seeds|depths)="
)


def command(cell: Mapping[str, Any], made_by: str) -> str:
    """`loopsweep submit …` for one cell.

    Args:
        cell: a row of a sweep's cells.
        made_by: the command that made the sweep, whose values other than the grid's are kept.
    """
    experiment = str(cell["experiment"])
    axes = {key: value for key in _axes(experiment, str(cell["panel"])) if (value := _value(cell, key)) is not None}
    extra = {
        name: as_text(value) for name, value in cell.items() if is_extra(str(name)) and name not in ("data", "kind")
    }
    typed = {key: value for key, value in _typed(made_by) if key not in axes and key not in extra}
    sweep = [f"+sweep={experiment}"] if experiment != "runs" else []
    values = [f"{key}={value}" for key, value in {**typed, **axes, **extra}.items()]
    return shlex.join(
        [
            "loopsweep",
            "submit",
            *sweep,
            f"preset={name_today(str(cell['preset']), int(cell['steps']))}",
            *values,
            f"paths.runs={AGAIN}",
        ]
    )


@cache
def _axes(experiment: str, panel: str) -> tuple[str, ...]:
    """The keys in which the cells of a panel differ, from the sweep's file in conf/."""
    file = PRESETS.parent / "sweep" / f"{experiment}.yaml"
    if not file.is_file():
        return ("panel", "model.n_loops", "optimizer.base_lr", "seed")
    settings = yaml.safe_load(file.read_text())["hydra"]["sweeper"]
    grids = [grid for grid in settings.get("grids", []) if panel in str(grid.get("panel")).split(",")]
    keys = {**settings.get("params", {}), **(grids[0] if grids else {})}
    fixed = [key for key, value in keys.items() if str(value).startswith("${") and "comma" not in str(value)]
    return tuple(dict.fromkeys(["panel", *(key for key in keys if key not in fixed)]))


def _value(cell: Mapping[str, Any], key: str) -> str | None:
    """The value of an axis in a cell."""
    if key in AXES:
        return as_text(cell[AXES[key]])
    if key in ARCHITECTURE:
        return str(cell["architecture"])
    if key == "scaling.alpha":
        return as_text(rules.exponents(str(cell["rule"]))[0])
    return as_text(cell["n_layers"] * cell["n_loops"]) if key == "probe.depth" else None


def _typed(made_by: str) -> Iterator[tuple[str, str]]:
    """The values that were typed beside the grid, `optimizer.weight_decay=0`."""
    for part in re.split(r"; then |; ", made_by):
        try:
            words = shlex.split(part)
        except ValueError:
            continue
        if words[:2] == ["loopsweep", "remove"]:
            continue
        words = [
            one
            for word in words
            for one in (word.removeprefix("ARGS=").split() if word.startswith("ARGS=") else [word])
        ]
        for word in words:
            key, equals, value = word.partition("=")
            if equals and not key.isupper() and not NOT_VALUES.match(word):
                yield key, value
