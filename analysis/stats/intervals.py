"""Estimates with confidence intervals, from a few seeds and one pooled noise.

Every interval is at `LEVEL`, but for those of refined sweeps (`analysis.stats.looks`). An end is infinite where the
data do not bound it on that side. Both ends are NaN where there is no interval, as with one seed.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95
ALPHA = 1 - LEVEL  # probability that an interval misses, both ends together


@dataclass(frozen=True)
class Estimate:
    """A value and its interval, in the same unit."""

    value: float
    low: float = math.nan
    high: float = math.nan

    @property
    def has_interval(self) -> bool:
        """Whether the noise was known. The interval may still be open."""
        return not math.isnan(self.low)

    def minus(self, other: "Estimate") -> "Estimate":
        """The difference of two independent estimates, by the method of variance estimates recovery.

        Each end combines the arms of the two intervals that point the same way (Zou and Donner, Statistics in
        Medicine 27, 2008). Skewed and one-sided intervals stay so: an open arm stays open.
        """
        low = math.hypot(self.value - self.low, other.high - other.value)
        high = math.hypot(self.high - self.value, other.value - other.low)
        value = self.value - other.value
        return Estimate(value, value - low, value + high)


@dataclass(frozen=True)
class Noise:
    """Standard deviation of one run's loss around its point, nats per token, and its degrees of freedom.

    Intervals from it miss with probability `alpha`, half of it at each end.
    """

    sd: float
    df: float
    alpha: float = ALPHA

    def margin(self, variance: float, tail: float | None = None) -> float:
        """Half-width of the interval of a combination of runs.

        `variance` is in units of one run's, `tail` the probability beyond the end, by default half of `alpha`.
        """
        return t_quantile(self.df, self.alpha / 2 if tail is None else tail) * self.sd * math.sqrt(variance)


NO_NOISE = Noise(math.nan, 0.0)


def t_quantile(df: float, tail: float) -> float:
    """The value that Student's t exceeds with probability `tail`; NaN without degrees of freedom."""
    if df <= 0:
        return math.nan
    from scipy.special import stdtrit  # takes 0.3 s to import, and most figures do without

    return float(stdtrit(df, 1 - tail))


def mean_over_seeds(values: NDArray[np.float64], alpha: float = ALPHA) -> Estimate:
    """Mean of (S,) independent values, one per seed, with Student's interval if there are two seeds or more.

    The interval misses with probability `alpha`.
    """
    mean = float(np.mean(values))
    if len(values) < 2 or not np.isfinite(values).all():
        return Estimate(mean)
    noise = Noise(float(np.std(values, ddof=1)), len(values) - 1, alpha)
    margin = noise.margin(1 / len(values))
    return Estimate(mean, mean - margin, mean + margin)
