"""A rate curve with its runs, its optimum and the noise of its depth; and all curves of one depth from their runs."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from analysis.stats.intervals import ALPHA, NO_NOISE
from analysis.stats.optimum import Floats, Indices, Optimum, curve_optimum, fitted_rates
from analysis.stats.seeds import DepthNoise, additive_fit, depth_noise

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True)
class Curve:
    """Arrays of one curve, ascending in base rate, its optimum, and the noise of its depth.

    `runs`: (R, S) losses, a column for every seed of the depth, NaN where there is no run.
    """

    rates: Floats
    losses: Floats
    seeds: Floats
    runs: Floats
    optimum: Optimum
    noise: DepthNoise | None

    @classmethod
    def of(cls, rates: Floats, losses: Floats, seeds: Floats, runs: Floats, noise: DepthNoise | None) -> "Curve":
        """The curve with its optimum. `noise` is that of its depth. Without it there are no intervals."""
        noise = noise.of_curve(runs[window(rates, losses, seeds)]) if noise else None
        optimum = curve_optimum(rates, losses, seeds, noise.within if noise else NO_NOISE, runs)
        return cls(rates, losses, seeds, runs, optimum, noise)

    @property
    def fitted(self) -> Indices:
        """The rates that the parabola is fitted to, see `window`."""
        return window(self.rates, self.losses, self.seeds)

    def place(self, rate: float) -> int | None:
        """The number of `rate`, None where the curve does not have it."""
        found = np.flatnonzero(self.rates == rate)
        return int(found[0]) if len(found) else None

    def share(self, at: int) -> Floats:
        """(S,) the weight of each seed in the mean at rate number `at`."""
        there = np.isfinite(self.runs[at])
        weights: Floats = there / there.sum()
        return weights


def difference_variance(first: Curve, at: int, second: Curve, below: int) -> float:
    """Of the difference of two means at one depth, in units of one run's variance.

    Where the means are over different seeds, the error of their offsets counts too.
    """
    variance = float(1 / first.seeds[at] + 1 / second.seeds[below])
    if first.noise is None or first.noise.offsets is None:
        return variance
    unpaired = first.share(at) - second.share(below)
    return variance + float(unpaired @ first.noise.offsets @ unpaired)


def window(rates: Floats, losses: Floats, seeds: Floats) -> Indices:
    """The rates that the parabola of a curve is fitted to, none if no mean is finite."""
    if not np.isfinite(losses).any():
        return np.array([], dtype=np.int64)
    return fitted_rates(rates, losses, seeds)[1]


def of_depth(runs: Mapping[K, tuple[Floats, Floats]], alpha: float = ALPHA) -> dict[K, Curve]:
    """The curves of one depth, each from its (R,) rates, ascending, and the (R, S) losses of its runs.

    The S seeds are the same for all. A loss is NaN where there is no run, +inf where it diverged. This is what
    `analysis.stats.transfer` does with a table of cells. Two entries with the same array of losses count as one curve.
    """
    losses = np.concatenate([of_curve for _, of_curve in runs.values()])
    fit = additive_fit(losses)
    means = np.where(np.isinf(losses).any(axis=1), np.inf, fit.means)
    parts = np.split(means, np.cumsum([len(rates) for rates, _ in runs.values()])[:-1])
    counts = {id(of_curve): np.isfinite(of_curve).sum(axis=1).astype(float) for _, of_curve in runs.values()}
    near = {
        id(of_curve): of_curve[window(rates, m, counts[id(of_curve)])]
        for (rates, of_curve), m in zip(runs.values(), parts, strict=True)
    }
    fitted = [rows for rows in near.values() if len(rows)]
    noise = depth_noise(fitted, alpha) if fitted else DepthNoise(NO_NOISE, NO_NOISE)
    noise = replace(noise, offsets=fit.covariance)
    return {
        key: Curve.of(rates, m, counts[id(of_curve)], of_curve, noise)
        for (key, (rates, of_curve)), m in zip(runs.items(), parts, strict=True)
    }
