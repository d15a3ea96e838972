"""The cells of several sweeps as one table, for a figure of `--sweep A --sweep B`."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from analysis.records import cell_axes
from sweeper.records.axes import as_text

NAME = "sweep.name"  # an extra axis that tells sweeps apart where no value does
UNTOLD = ("preset", "kind", "diagnostics")  # have columns of their own, or change no loss


def together(tables: Sequence[pd.DataFrame], values: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """One table with an extra axis for each configuration value in which the sweeps differ.

    A run that stands at the same place in several sweeps is one cell. Where the values do not tell two runs apart, or
    are not recorded, the name of the sweep is an axis.

    Args:
        tables: the cells of each sweep, validated.
        values: the configuration values that all cells of each sweep share; empty if not recorded.
    """
    known = {key for of in values for key in of if "." in key} - set(UNTOLD)
    shown = {key for key in known if len({as_text(of.get(key)) for of in values}) > 1 and not key.startswith("data.")}
    shown |= {key for table in tables for key in cell_axes.extra_axes(table) if key != "architecture"}
    parts = []
    for table, of in zip(tables, values, strict=True):
        added = {key: as_text(of.get(key)) for key in sorted(shown) if key not in table}
        own = {key: table[key].map(as_text) for key in sorted(shown) if key in table}
        parts.append(table.assign(**added, **own))
    whole = pd.concat(parts, ignore_index=True)
    key = [name for name in cell_axes.cell_key(whole) if name in whole]
    whole = whole.drop_duplicates([*key, "run_id"], ignore_index=True)
    if whole.duplicated(key).any():
        whole = pd.concat([part.assign(**{NAME: part["sweep"]}) for part in parts], ignore_index=True)
    names = [str(table["sweep"].iloc[0]) for table in tables]
    return whole.assign(sweep=" + ".join(names), experiment=tables[0]["experiment"].iloc[0])
