"""How much the rate matters: learning-rate sensitivity after Wortsman et al. (arXiv 2309.14322, Section 2.2)."""

import math

import numpy as np
import pandas as pd
import yaml

from analysis.records import cell_axes
from analysis.stats.optimum import Floats
from analysis.stats.transfer import CURVE_KEY
from sweeper.records.presets import PRESETS, name_today


def lr_sensitivity(rates: Floats, losses: Floats, initial_loss: float) -> float:
    """Mean over log-uniform rates of the loss, at most the initial one, minus the lowest on the grid, nats per token.

    The mean is over the whole range of the grid, by trapezoids between its rates, so rates need not be equally far
    apart. Compare curves over the same range.

    Args:
        rates: (R,) base rates, ascending.
        losses: (R,) +inf diverged, NaN missing.
        initial_loss: of a model before its first step, which stands for diverged runs and for higher losses. NaN if it
            is not known.

    Returns:
        NaN where a loss is missing, where there are fewer than two rates, or where a run diverged and the initial loss
        is not known.
    """
    if len(rates) < 2 or np.isnan(losses).any():
        return math.nan
    capped = np.where(np.isfinite(losses), np.fmin(losses, initial_loss), initial_loss)
    octaves = np.log2(rates)
    mean = np.trapezoid(capped, octaves) / (octaves[-1] - octaves[0])
    return float(mean - capped.min())


def initial_loss(cells: pd.DataFrame) -> float:
    """ln V of the cells' preset: a fresh model gives every token the same probability. NaN if its file is gone."""
    first = cells.iloc[0]
    try:
        preset = yaml.safe_load((PRESETS / f"{name_today(first['preset'], int(first['steps']))}.yaml").read_text())
        return math.log(preset["model"]["vocab_size"])
    except (OSError, KeyError, TypeError, ValueError):
        return math.nan


def with_sensitivity(table: pd.DataFrame, points: pd.DataFrame, initial: float) -> pd.DataFrame:
    """A transfer table with the column lr_sensitivity_nats, from the points of its curves."""
    keys = [name for name in (*cell_axes.context_columns(points), *CURVE_KEY) if name in table]
    found = [
        (
            *(key if isinstance(key, tuple) else (key,)),
            lr_sensitivity(of["base_lr"].to_numpy(float), of["val_loss"].to_numpy(float), initial),
        )
        for key, of in points.sort_values("base_lr").groupby(keys, dropna=False)
    ]
    return table.merge(pd.DataFrame(found, columns=[*keys, "lr_sensitivity_nats"]), on=keys, how="left")
