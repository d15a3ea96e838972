"""How a quantity grows with a count: log-log slopes fitted per replica, and the ratio of largest to smallest."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray


@dataclass(frozen=True)
class Growth:
    """An exponent: mean and standard error over the replicas (seeds, draws) that it was fitted to, NaN where unknown.

    `slope_of_mean` is the exponent of the replicas' mean.
    """

    slope: float
    sem: float
    slope_of_mean: float
    replicas: int


NO_GROWTH = Growth(float("nan"), float("nan"), float("nan"), 0)


def fitted_growth(table: pd.DataFrame, x: str, y: str, replica: str, between: tuple[int, int]) -> Growth:
    """Least squares of log `y` against log `x` at low ≤ `x` ≤ high, per value of column `replica`.

    `between` is (low, high). A replica counts only if its y is positive and finite at every x of the table in that
    range, so that all slopes cover the same range. If the table lacks one end of the range, nothing is fitted.
    """
    low, high = between
    curves = table.loc[table[x].between(low, high)].pivot(index=x, columns=replica, values=y)
    values = curves.to_numpy(dtype=float)  # (counts, replicas)
    values = values[:, (np.isfinite(values) & (values > 0)).all(axis=0)]
    if not values.size or curves.index[0] != low or curves.index[-1] != high or low == high:
        return NO_GROWTH
    counts = np.log2(curves.index.to_numpy(dtype=float))
    slopes = np.polyfit(counts, np.log2(values), 1)[0]
    of_mean = np.polyfit(counts, np.log2(values.mean(axis=1)), 1)[0]
    return Growth(float(slopes.mean()), sem(slopes), float(of_mean), len(slopes))


def sem(values: NDArray[np.float64]) -> float:
    """Standard error of the mean; NaN for fewer than two values."""
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")


def fold_range(values: "pd.Series[float]") -> float:
    """Largest over smallest; NaN where a value is missing."""
    return float(values.max(skipna=False) / values.min(skipna=False))


def estimate_text(value: float, error: float, spec: str = ".2f") -> str:
    """`1.15 ± 0.02`, without the error where it is unknown, "-" without a value."""
    if np.isnan(value):
        return "-"
    return f"{value:{spec}}" + ("" if np.isnan(error) else f" ± {error:{spec}}")
