"""The axes of a table of cells: names, values that vary, selection, and the error for an axis that is not shown."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from sweeper.errors import UserError
from sweeper.records.axes import PLAIN, as_text, is_extra, ordered, select

BASE = ["panel", "rule", "n_layers", "ref_layers", "n_loops", "base_lr", "seed"]
# Columns that separate contexts if they vary. A curve belongs to one context.
CONTEXT = ["architecture", "d_model", "ref_layers", "preset"]


def extra_axes(cells: pd.DataFrame) -> list[str]:
    """The extra axes in a table, and `architecture` if the table has it."""
    return [name for name in map(str, cells) if name == "architecture" or is_extra(name)]


def cell_key(cells: pd.DataFrame) -> list[str]:
    """The columns that tell every cell of a sweep from every other."""
    more = [name for name in ("d_model", "preset") if name in cells]
    return [*BASE, *more, *extra_axes(cells)]


def context_key(cells: pd.DataFrame) -> list[str]:
    """The columns that separate the contexts of a table: those of `CONTEXT` that vary, and all extra axes."""
    varying = [name for name in CONTEXT if name in cells and cells[name].nunique() > 1]
    return [*varying, *(name for name in extra_axes(cells) if name not in varying)]


def varied_axes(cells: pd.DataFrame) -> list[str]:
    """The extra axes of the stored cells of a sweep, and `architecture` if one is not plain."""
    return [name for name in extra_axes(cells) if not set(cells[name].dropna()) <= {PLAIN}]


def context_columns(points: pd.DataFrame) -> list[str]:
    """The columns that separate contexts in a table that `analysis.stats.transfer.analyse` made."""
    return [name for name in map(str, points) if name in CONTEXT or is_extra(name)]


def contexts(cells: pd.DataFrame) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """The cells of each context, with the context's values of `context_key`."""
    key = context_key(cells)
    if not key:
        yield {}, cells
        return
    places = {name: {value: i for i, value in enumerate(ordered(cells[name]))} for name in key}
    groups = [(dict(zip(key, values, strict=True)), group) for values, group in cells.groupby(key, sort=False)]
    yield from sorted(groups, key=lambda one: [places[name][value] for name, value in one[0].items()])


def rows_at(table: pd.DataFrame, values: Mapping[str, Any]) -> pd.DataFrame:
    """The rows that have all of these values."""
    for name, value in values.items():
        table = table[table[name] == value]
    return table


def shown(values: Mapping[str, Any]) -> str:
    """The values of a context as text: `optimizer.weight_decay=0.1, architecture=add`."""
    return ", ".join(f"{key}={as_text(value)}" for key, value in values.items())


def where(cells: pd.DataFrame, conditions: Sequence[str]) -> pd.DataFrame:
    """The cells that meet all conditions of `--where`, see `sweeper.records.axes.select`."""
    if not conditions:
        return cells
    rows = [{str(name): value for name, value in row.items()} for row in cells.to_dict("records")]
    return cells[select(rows, conditions, "--where")].reset_index(drop=True)


def refuse_beyond(cells: pd.DataFrame, laid_out: Sequence[str]) -> None:
    """Refuse a sweep if the figure would draw several of its cells at one place.

    Args:
        cells: of one sweep.
        laid_out: the columns that determine the place of a cell in the figure. `depth` is L · N.

    Raises:
        UserError: naming another axis that varies, and how to select one value.
    """
    cells = cells.assign(depth=cells["n_layers"] * cells["n_loops"])
    for name in extra_axes(cells):
        if cells[name].nunique() > 1:
            raise _cannot_show(cells, name)
    for name in cell_key(cells):
        if name not in laid_out and (cells.groupby(list(laid_out))[name].nunique() > 1).any():
            raise _cannot_show(cells, name)


def _cannot_show(cells: pd.DataFrame, name: str) -> UserError:
    values = [as_text(value) for value in ordered(cells[name])]
    listed = ", ".join(values[:8]) + (", …" if len(values) > 8 else "")
    return UserError(
        f"sweep {cells['sweep'].iloc[0]} varies {name} ({listed}), which this figure cannot tell apart; "
        f"choose one: --where {_argument(name, values[0])}"
    )


def _argument(name: str, value: str) -> str:
    condition = f"{name}={value}"
    return f"'{condition}'" if " " in condition else condition
