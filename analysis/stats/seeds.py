"""Statistics over seeds: the mean of every point, and the noise of one run around it.

A seed fixes data and initialisation for all rates, N and rules of one depth L, and moves all these losses
together. With c a point (panel, N, rate), s a seed and one fit per depth,

    loss[c, s] = mean[c] + offset[s] + noise[c, s]

Comparisons within a depth are free of the offsets, and the noise, pooled over points, has many more degrees of
freedom than there are seeds.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.stats.intervals import ALPHA, NO_NOISE, Noise

ENOUGH_DF = 12  # from which a curve's runs tell its own noise: Student's t is 2.18 then, and 1.96 at best

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class AdditiveFit:
    """Least squares of loss[c, s] = mean[c] + offset[s]. The offsets sum to zero. Means are NaN without data."""

    means: Floats
    offsets: Floats
    squares: float  # sum of squared residuals
    df: int
    covariance: Floats  # (S, S) of the offsets, for losses with variance 1


def additive_fit(losses: Floats) -> AdditiveFit:
    """Fit (C, S) losses. Values that are not finite are absent. If none is absent, means are plain means."""
    present = np.isfinite(losses)
    y = np.where(present, losses, 0.0)
    counts = present.sum(axis=1)
    share = present / np.maximum(counts, 1)[:, None]  # (C, S) weight of each seed in its point's mean
    # The normal equations with the means eliminated. They are singular: a constant can move from offsets to means.
    normal = np.diag(present.sum(axis=0)) - present.T @ share
    covariance = np.linalg.pinv(normal, hermitian=True)
    offsets = covariance @ (y - present * (y * share).sum(axis=1)[:, None]).sum(axis=0)
    means = np.where(counts > 0, ((y - offsets) * share).sum(axis=1), math.nan)
    residuals = np.where(present, losses - means[:, None] - offsets, 0.0)
    rank = np.linalg.matrix_rank(normal, hermitian=True)
    df = int(present.sum() - np.count_nonzero(counts) - rank)
    return AdditiveFit(means, offsets, float((residuals**2).sum()), df, covariance)


@dataclass(frozen=True)
class DepthNoise:
    """The noise of one run at one depth, for comparisons along a curve (`within`) and across curves (`between`).

    A seed that favours one N or rule adds to the second alone. `offsets` is the (S, S) covariance of the fitted offsets
    of seeds, in units of one run's variance.
    """

    within: Noise
    between: Noise
    offsets: Floats | None = field(default=None, compare=False)

    def of_curve(self, runs: Floats) -> "DepthNoise":
        """With the noise `within` one curve from its own (R, S) losses, where they have `ENOUGH_DF`.

        Curves need not scatter alike. Where N loops solve a task with some seeds only, they scatter ten times as much
        as where none does.
        """
        own = additive_fit(runs)
        return replace(self, within=_noise(own.squares, own.df, self.within.alpha)) if own.df >= ENOUGH_DF else self


def depth_noise(curves: Sequence[Floats], alpha: float = ALPHA) -> DepthNoise:
    """Noise from (R, S) losses of every distinct curve at one depth, a column per seed.

    `alpha` is that of intervals, see `Noise`.

    With an offset for every seed on every curve, what is left is the variance w along a curve. What these offsets
    explain beyond one offset per seed estimates w + R b, where b is their own variance. Across curves w + b counts,
    with Satterthwaite's degrees of freedom. Where every curve has its seeds at one rate, R is 1, and w stays unknown.
    """
    along = [additive_fit(curve) for curve in curves]
    whole = additive_fit(np.concatenate(curves))
    within = _noise(sum(fit.squares for fit in along), sum(fit.df for fit in along), alpha)
    squares = whole.squares - within.sd**2 * within.df if within.df else whole.squares
    offsets = _noise(squares, whole.df - within.df, alpha)
    if not within.df:
        return DepthNoise(within, offsets)
    if not offsets.df:
        return DepthNoise(within, within)
    present = [np.isfinite(curve) for curve in curves]
    share = sum(one.any(axis=0).sum() for one in present) / sum(one.sum() for one in present)  # 1 / R
    parts = [(share * offsets.sd**2, offsets.df), ((1 - share) * within.sd**2, within.df)]
    variance = sum(part for part, _ in parts)
    df = variance**2 / sum(part**2 / df for part, df in parts) if variance else within.df
    return DepthNoise(within, Noise(math.sqrt(variance), df, alpha))


def _noise(squares: float, df: float, alpha: float) -> Noise:
    return Noise(math.sqrt(max(squares, 0.0) / df), df, alpha) if df > 0 else NO_NOISE


def by_seed(cells: pd.DataFrame) -> tuple[Floats, NDArray[np.int64]]:
    """The column loss as (C, S), a row per value of the column point and a column per seed, and the C points."""
    points, rows = np.unique(cells["point"].to_numpy(), return_inverse=True)
    seeds, columns = np.unique(cells["seed"].to_numpy(), return_inverse=True)
    losses = np.full((len(points), len(seeds)), math.nan)
    losses[rows, columns] = cells["loss"].to_numpy()
    return losses, points
