"""The axes of a sweep: the values that tell its cells apart, and the selection of cells by them.

Every cell has the base axes. Any other configuration key in which the cells of one sweep differ is an extra axis. Its
column has the name of the key, such as `optimizer.weight_decay`. Figures import this module, so it reads no
configuration.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sweeper.errors import UserError

PLAIN = "plain"  # the architecture of the paper's model, and of every record without one
# Base axes, and the configuration keys that they show.
BASE_AXES: dict[str, tuple[str, ...]] = {
    "panel": ("panel",),
    "rule": ("scaling.rule", "scaling.alpha", "scaling.beta"),
    "architecture": ("model.loop", "model.block"),
    "n_layers": ("model.n_layers",),
    "ref_layers": ("scaling.ref_layers",),
    "depth_multiplier": (),
    "n_loops": ("model.n_loops",),
    "base_lr": ("optimizer.base_lr",),
    "d_model": ("model.d_model", "theory.d_model"),
    "seed": ("seed",),
}
AXIS_KEYS = frozenset(key for keys in BASE_AXES.values() for key in keys)
DATA = "data"  # the hash of the data manifest, beside the configuration keys
# Extra axes without a section in their name.
_TOP_LEVEL = ("precision", "diverged_above", "diagnostics", "stop_lost", "kind", DATA)

Row = Mapping[str, Any]


def is_extra(column: str) -> bool:
    """Whether a column of the cells is an extra axis."""
    return "." in column or column in _TOP_LEVEL


def as_text(value: Any) -> str:
    """A value of an axis as text for titles, tables and the command line: 0.1, null, plain."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def select(rows: Sequence[Row], conditions: Sequence[str], option: str) -> list[bool]:
    """For each row, whether it meets all conditions.

    Args:
        rows: cells, each with a value for every axis of their sweep.
        conditions: each `key=value` or `key=value,value`. The key is an axis or the configuration key that it shows
            (`n_loops`, `model.n_loops`).
        option: the name of the conditions in an error.

    Raises:
        UserError: for a condition without a value, a key that is no axis, a value that no row has, or if no row meets
            all of them.
    """
    kept = [True] * len(rows)
    for condition in conditions:
        key, separator, values = condition.partition("=")
        if not (key and separator and values):
            raise UserError(f"{option} {condition}: give key=value, such as n_loops=1,2")
        column = next((axis for axis, keys in BASE_AXES.items() if key in keys), key)
        known = [name for name in (rows[0] if rows else ()) if name in BASE_AXES or is_extra(name)]
        if column not in known:
            raise UserError(f"{option} {condition}: {key} is no axis of these cells; they have {', '.join(known)}")
        there = [row[column] for row in rows]
        wanted = [value.strip() for value in values.split(",")]
        if absent := [value for value in wanted if not any(_equal(one, value) for one in there)]:
            listed = ", ".join(map(as_text, ordered(there)))
            raise UserError(f"{option} {condition}: no cell has {absent[0]}; there are {listed}")
        kept = [k and any(_equal(one, value) for value in wanted) for k, one in zip(kept, there, strict=True)]
    if not any(kept):
        raise UserError(f"{option} {' '.join(conditions)}: no cell has all of these")
    return kept


def ordered(values: Iterable[Any]) -> list[Any]:
    """Distinct values of an axis: numbers by size, then texts (plain before others), then null."""
    distinct = {as_text(value): value for value in values}

    def rank(value: Any) -> tuple[int, float, str]:
        text = as_text(value)
        number = isinstance(value, int | float) and not isinstance(value, bool) and text != "null"
        return (0, float(value), "") if number else (1 + (text == "null"), float(text != PLAIN), text)

    return sorted(distinct.values(), key=rank)


def same(a: Any, b: Any) -> bool:
    """Whether two configuration values are one."""
    return json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)


def _equal(value: Any, text: str) -> bool:
    if as_text(value) == text:
        return True
    try:
        return math.isclose(float(value), float(text), rel_tol=1e-9) and not isinstance(value, bool)
    except (TypeError, ValueError):
        return False
