"""One optimizer step's change of h_N against the loop count: shared by Figures 4 and 9."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from rich.console import Console
from rich.table import Column, Table

from analysis.plotting import marks, rules, style
from analysis.stats import probe
from analysis.stats.growth import estimate_text

REFERENCE: style.Look = {"color": style.MUTED, "linewidth": 0.9, "linestyle": (0, (4, 3)), "zorder": 1.5}
LABEL = r"RMS change of $h_N$ in a step"


def draw_curve(axes: Axes, curve: pd.DataFrame, **look: Any) -> ErrorbarContainer:
    """Mean ± SEM of `update_rms` over seeds against N, without the points that have no finite mean."""
    finite = curve[np.isfinite(curve["update_rms"])]
    error = finite["update_rms_sem"].fillna(0.0)
    drawn = axes.errorbar(finite["depth"], finite["update_rms"], error, elinewidth=0.9, capsize=1.6, **look)
    name = f"RMS change in step {curve['updates'].iloc[0]}"
    marks.add(drawn.get_children(), finite, finite["depth"], finite["update_rms"], name=name)
    return drawn


def draw_reference(axes: Axes, exponent: float, counts: Sequence[int], anchor: float) -> float:
    """Draw N to the power `exponent` (`rules.update_growth`) through `anchor` at N = 1; return the value at its end.

    Draws nothing and returns NaN for an unknown exponent.
    """
    if math.isnan(exponent):
        return math.nan
    values = anchor * np.array(counts, dtype=float) ** exponent
    axes.plot(counts, values, **REFERENCE, label=rules.growth_text(exponent))
    return float(values[-1])


def anchor(points: pd.DataFrame) -> float:
    """The first step's mean update at N = 1, which is the same for all rules. NaN if it has no result."""
    first = points[(points["updates"] == 1) & (points["depth"] == 1)]["update_rms"]
    return float(first.mean())


def print_growth(table: pd.DataFrame, console: Console) -> None:
    """Print slopes and ranges of `probe.growth_table` at its first and its last step."""
    names = [f"slope_{low}_{high}" for low, high in probe.SLOPE_RANGES]
    headings = ("step", *(f"N = {low}…{high}" for low, high in probe.SLOPE_RANGES), "max/min")
    shown = Table("rule", *(Column(heading, justify="right") for heading in headings))
    for row in table[table["updates"].isin([table["updates"].min(), table["updates"].max()])].to_dict("records"):
        slopes = [estimate_text(row[name], row[f"{name}_sem"]) for name in names]
        shown.add_row(row["rule"], str(row["updates"]), *slopes, estimate_text(row["fold_range"], math.nan, ".3g"))
    console.print("RMS change of h_N in a step against N: log-log slopes, mean ± SEM over seeds; max/min over all N")
    console.print(shown)
