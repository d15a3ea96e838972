"""The optimum of one curve, on the grid and fitted.

Optimum (grid): the rate of the grid with the lowest loss. Optimum (fitted): the vertex of a parabola in log2(rate)
through the losses around it. The fit estimates the vertex of the least-squares parabola through the *expected* losses
in the window. On a loss curve that is a parabola there, this is the true optimum. On a skewed one it has a systematic
error that more seeds do not shrink: about 0.3 k/c octaves for a loss c z² + k z³ on a window of one octave.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from analysis.stats.intervals import NO_NOISE, Estimate, Noise

WINDOW_OCTAVES = 1.0  # either side of the optimum (grid): a rate curve is steeper above its optimum than below
UNEVEN_OCTAVES = 1.5  # the same where seeds are at different rates, see `fitted_rates`
SEEDED_OCTAVES = 2.0  # the same of rates that have many of the seeds: they were put there to locate the optimum

ENOUGH_SEEDS = 12  # from which seeds tell themselves how far slope and curvature can be trusted

_SINGULAR = 1e8  # condition number of normal equations in octaves

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Optimum:
    """The optimum of one curve. Rates are base rates η0, losses nats per token, NaN where there is none.

    `rate`, `loss`: the optimum (grid); of equal losses, the one at the lower rate.
    `rates_low`, `rates_high`: the range of the grid rates that noise cannot tell from the optimum (grid).
    `fitted_rate`, `fitted_loss`: the optimum (fitted), the vertex of the parabola through the optimum (grid) and the
    rates within `WINDOW_OCTAVES` of it, at least the one on either side.
    `octaves`: log2 of the fitted rate and its interval. At the edge the value is the vertex if it lies within the
    fitted rates, else the optimum (grid). The arm towards the edge ends within the fitted rates if it can, else where
    runs diverge, else nowhere. The other arm is a limit that never leaves the grid.
    `flag`: why there is no optimum (fitted); empty where there is one.
    """

    rate: float
    loss: float
    rates_low: float
    rates_high: float
    fitted_rate: float
    fitted_loss: float
    octaves: Estimate
    flag: str


def curve_optimum(
    rates: Floats,
    losses: Floats,
    seeds: Floats | None = None,
    noise: Noise = NO_NOISE,
    runs: Floats | None = None,
) -> Optimum:
    """The optimum of one curve.

    `rates`: (R,) every base rate η0 of the grid, ascending.
    `losses`: (R,) mean over seeds, nats per token, NaN missing, +inf diverged.
    `seeds`: (R,) runs in each mean, by default one.
    `noise`: of one run, with the offsets of seeds removed. Without it there are no intervals.
    `runs`: (R, S) losses, NaN where a seed has no run. Needed where not every seed has every rate.
    """
    assert rates.shape == losses.shape
    assert (np.diff(rates) > 0).all()
    nan = math.nan
    if not np.isfinite(losses).any():
        flag = "all finished runs diverged" if np.isinf(losses).any() else "no results"
        return Optimum(nan, nan, nan, nan, nan, nan, Estimate(nan), flag)
    seeds = np.ones_like(rates) if seeds is None else seeds.astype(float)
    x, lowest = np.log2(rates), int(np.nanargmin(losses))
    at, window = fitted_rates(rates, losses, seeds)
    sides = {side: _beside(losses, at + step, side) for step, side in ((-1, "below"), (1, "above"))}
    curve = (
        fit_parabola(x[window] - x[at], losses[window], seeds[window], None if runs is None else runs[window])
        if len(window) >= 3
        else None
    )
    fit_noise = noise
    if curve is not None and runs is not None:
        curve, fit_noise = curve.told_by_seeds(x[window] - x[at], runs[window], noise)
    open_low, open_high = _outer_limits(x, losses, at)
    best = (float(rates[lowest]), float(losses[lowest]), *_indistinct(rates, losses, seeds, window, lowest, noise))
    if any(sides.values()):
        low, high = -math.inf, math.inf
        if curve is not None and sides["above"]:
            low, high = curve.lower_limit(fit_noise), curve.upper_limit(fit_noise)
        elif curve is not None:
            mirrored = curve.mirrored()
            low, high = -mirrored.upper_limit(fit_noise), -mirrored.lower_limit(fit_noise)
        low, high = max(float(x[at] + low), open_low), min(float(x[at] + high), open_high)
        flag = "at the edge: " + ", ".join(filter(None, sides.values()))
        value = x[at] + curve.nearest if curve else x[at]
        return Optimum(*best, nan, nan, _known(Estimate(float(value), low, high), noise), flag)
    assert curve is not None
    if not curve.has_minimum:
        estimate = _known(Estimate(float(x[at]), open_low, open_high), noise)
        return Optimum(*best, nan, nan, estimate, "no minimum in the fit")
    low, high = (float(x[at] + end) for end in curve.vertex_limits(fit_noise))
    vertex = float(x[at] + curve.vertex)
    estimate = _known(Estimate(vertex, max(low, open_low), min(high, open_high)), noise)
    return Optimum(*best, 2.0**vertex, curve.lowest, estimate, flag="")


def fitted_rates(rates: Floats, losses: Floats, seeds: Floats) -> tuple[int, Indices]:
    """The rate in the middle of the fit and the indices of the rates that are fitted, see `fit_window`.

    The middle is the optimum (grid) if all means are over as many seeds. Otherwise the lowest mean may be the one with
    the fewest seeds. Then it is the rate nearest to the vertex of a parabola through wider rates, each with the weight
    of its seeds, and the rates within `UNEVEN_OCTAVES` of this vertex are fitted, or within `SEEDED_OCTAVES` if they
    have at least half as many seeds as any rate. So a lucky run does not move the window off the flanks that have the
    seeds.
    """
    at = int(np.nanargmin(losses))
    finite = np.isfinite(losses)
    if len(set(seeds[finite])) > 1:
        x = np.log2(rates)
        run = _around(losses, at)
        wide = run[np.abs(x[run] - x[at]) <= SEEDED_OCTAVES]
        if len(wide) > 3:
            curvature, slope, _ = np.polyfit(x[wide] - x[at], losses[wide], 2, w=np.sqrt(seeds[wide]))
            vertex = x[at] - slope / (2 * curvature) if curvature > 0 else math.inf
            reach = np.where(seeds[wide] >= seeds[wide].max() / 2, SEEDED_OCTAVES, UNEVEN_OCTAVES)
            near = wide[np.abs(x[wide] - vertex) <= reach + 1e-9]
            if x[wide[0]] <= vertex <= x[wide[-1]] and len(near) >= 3:
                return int(wide[np.argmin(np.abs(x[wide] - vertex))]), near
    return at, fit_window(rates, losses, at)


def fit_window(rates: Floats, losses: Floats, at: int) -> Indices:
    """Indices of the rates that are fitted around index `at`, the optimum (grid). Fewer than three: no fit.

    The finite rates around `at` without a gap, within `WINDOW_OCTAVES` or next to it, and at least three of them.
    """
    run = _around(losses, at)
    distance = np.abs(np.log2(rates[run] / rates[at]))
    near = (distance <= WINDOW_OCTAVES + 1e-9) | (np.abs(run - at) <= 1)
    near[np.argsort(distance, kind="stable")[:3]] = True
    window: Indices = run[near]
    return window


def _around(losses: Floats, at: int) -> Indices:
    """The finite losses around index `at` without a gap."""
    gaps = np.flatnonzero(~np.isfinite(losses))
    first, last = gaps[gaps < at].max(initial=-1) + 1, gaps[gaps > at].min(initial=len(losses)) - 1
    return np.arange(first, last + 1, dtype=np.int64)


def _beside(losses: Floats, index: int, side: str) -> str:
    """Why the optimum (grid) has no finite neighbour on this side; empty where it has one."""
    if not 0 <= index < len(losses):
        return f"grid ends {side}"
    if np.isnan(losses[index]):
        return f"missing {side}"
    return f"diverged {side}" if np.isinf(losses[index]) else ""


def _outer_limits(x: Floats, losses: Floats, at: int) -> tuple[float, float]:
    """The nearest diverged rates on either side. The optimum lies between them, whatever the noise."""
    diverged = np.flatnonzero(np.isinf(losses))
    below, above = diverged[diverged < at], diverged[diverged > at]
    return (float(x[below[-1]]) if len(below) else -math.inf, float(x[above[0]]) if len(above) else math.inf)


def _known(estimate: Estimate, noise: Noise) -> Estimate:
    return estimate if noise.df else Estimate(estimate.value)


def _indistinct(
    rates: Floats, losses: Floats, seeds: Floats, window: Indices, at: int, noise: Noise
) -> tuple[float, float]:
    """Lowest and highest grid rate not significantly worse than the optimum (grid), at Bonferroni's level."""
    if not noise.df:
        return math.nan, math.nan
    tail = noise.alpha / max(len(window) - 1, 1)
    margins = np.array([noise.margin(1 / n + 1 / seeds[at], tail) if n else 0.0 for n in seeds])
    chosen = rates[losses - losses[at] <= margins]
    return float(chosen.min()), float(chosen.max())


def fit_parabola(z: Floats, losses: Floats, seeds: Floats, runs: Floats | None) -> "Parabola":
    """The parabola through the means of (Z,) rates, or through the (Z, S) runs where seeds are at different rates."""
    curve = Parabola.fit(z, losses, seeds)
    if runs is None:
        return curve
    runs = runs[:, np.isfinite(runs).any(axis=0)]
    return curve if np.isfinite(runs).all() else curve.fitted_to_runs(z, runs)


def _without_offsets(z: Floats, runs: Floats) -> tuple[Floats, Floats, Floats | None]:
    """(2, Z, S) z and z², and (Z, S) losses, each less its mean over the rates of a seed, 0 where there is no run.

    And the inverse of the (2, 2) normal matrix of slope and curvature, None if the runs do not determine both.
    """
    present = np.isfinite(runs)
    counts = np.maximum(present.sum(axis=0), 1)
    powers = np.stack([z, z**2])[:, :, None] * present
    powers = powers - present * (powers.sum(axis=1) / counts)[:, None, :]
    y = np.where(present, runs, 0.0)
    normal = np.einsum("azs,bzs->ab", powers, powers)
    inverse = None if np.linalg.cond(normal) > _SINGULAR else np.linalg.inv(normal)
    return powers, y - present * (y.sum(axis=0) / counts), inverse


@dataclass(frozen=True)
class Parabola:
    """y = level + slope z + curvature z², fitted to z in [`start`, `end`], z = 0 at the optimum (grid)."""

    level: float
    slope: float
    curvature: float
    covariance: Floats  # (3, 3) of the above, for losses with variance 1
    start: float
    end: float

    @classmethod
    def fit(cls, z: Floats, y: Floats, weights: Floats) -> "Parabola":
        """To (Z,) means at `z`, each with its number of runs."""
        design = np.vander(z, 3, increasing=True)
        covariance: Floats = np.linalg.inv((design.T * weights) @ design).astype(np.float64)
        lowest = y.min()  # subtracted to keep rounding errors small
        level, slope, curvature = covariance @ (design.T * weights) @ (y - lowest)
        return cls(float(level + lowest), float(slope), float(curvature), covariance, float(z[0]), float(z[-1]))

    def fitted_to_runs(self, z: Floats, runs: Floats) -> "Parabola":
        """Slope and curvature by least squares with an offset for every seed, from (Z, S) losses, NaN where no run.

        A seed at two rates tells nothing of the level, and the mean over other seeds at each rate does not enter. If
        the runs do not determine both, the fit to the means stays.
        """
        present = np.isfinite(runs)
        powers, y, inverse = _without_offsets(z, runs)
        if inverse is None:
            return self
        covariance = np.zeros((3, 3))
        covariance[1:, 1:] = inverse
        slope, curvature = covariance[1:, 1:] @ np.einsum("azs,zs->a", powers, y)
        weights = present.sum(axis=1) / present.sum()
        means = self.level + self.slope * z + self.curvature * z**2  # of the fit to the means, for the level
        level = float(weights @ (means - slope * z - curvature * z**2))
        return replace(self, level=level, slope=float(slope), curvature=float(curvature), covariance=covariance)

    def told_by_seeds(self, z: Floats, runs: Floats, noise: Noise) -> tuple["Parabola", Noise]:
        """With the covariance of slope and curvature that seeds show, and the noise to be used with it, of sd 1.

        Each seed pulls slope and curvature its own way, and the scatter of these pulls is their error, however unlike
        the rates scatter (the sandwich estimator with a cluster a seed: Liang and Zeger, Biometrika 73, 1986). Takes
        (Z, S) losses, of which `ENOUGH_SEEDS` seeds have two rates or more. With fewer, both stay as they are.
        """
        seeds = int((np.isfinite(runs).sum(axis=0) > 1).sum())
        if seeds < ENOUGH_SEEDS:
            return self, noise
        powers, y, inverse = _without_offsets(z, runs)
        if inverse is None:
            return self, noise
        residuals = y - np.einsum("a,azs->zs", np.array([self.slope, self.curvature]), powers)
        pulls = inverse @ np.einsum("azs,zs->as", powers, residuals)
        covariance = np.zeros((3, 3))
        covariance[1:, 1:] = pulls @ pulls.T * seeds / (seeds - 1)
        return replace(self, covariance=covariance), Noise(1.0, seeds - 1, noise.alpha)

    @property
    def vertex(self) -> float:
        """Its z."""
        return -self.slope / (2 * self.curvature)

    @property
    def has_minimum(self) -> bool:
        """Whether its vertex is a minimum within the fitted rates."""
        return self.curvature > 0 and self.start <= self.vertex <= self.end

    @property
    def nearest(self) -> float:
        """The vertex if it is within the fitted rates, else 0, the optimum (grid)."""
        return self.vertex if self.has_minimum else 0.0

    @property
    def lowest(self) -> float:
        """The loss at the vertex."""
        return self.level - self.slope**2 / (4 * self.curvature)

    def mirrored(self) -> "Parabola":
        """The same with -z for z."""
        flip = np.diag([1.0, -1.0, 1.0])
        covariance = flip @ self.covariance @ flip
        return Parabola(self.level, -self.slope, self.curvature, covariance, -self.end, -self.start)

    def _derivative(self, z: float) -> tuple[float, float]:
        """Slope at z and its variance."""
        weights = np.array([0.0, 1.0, 2 * z])
        return self.slope + 2 * self.curvature * z, float(weights @ self.covariance @ weights)

    def _flat_points(self, margin: float) -> tuple[float, list[float]]:
        """The leading coefficient and the real roots of slope² = margin² · variance, a quadratic in z."""
        (_, _, _), (_, v, vw), (_, _, w) = self.covariance
        leading = float(4 * (self.curvature**2 - margin**2 * w))
        half = float(2 * (self.slope * self.curvature - margin**2 * vw))
        discriminant = half**2 - leading * float(self.slope**2 - margin**2 * v)
        if leading == 0 or (discriminant < 0 and leading < 0):
            return leading, []
        arm = math.sqrt(max(discriminant, 0.0)) / abs(leading)  # not negative where leading > 0, but for rounding
        return leading, [-half / leading - arm, -half / leading + arm]

    def vertex_limits(self, noise: Noise) -> tuple[float, float]:
        """Fieller's interval: every z at which the slope could be zero. Open where the curvature could be zero too."""
        if not noise.df:
            return math.nan, math.nan
        leading, roots = self._flat_points(noise.margin(1.0))
        if leading > 0:
            return roots[0], roots[1]
        if not roots:
            return -math.inf, math.inf
        return (roots[1], math.inf) if self.vertex > roots[1] else (-math.inf, roots[0])

    def lower_limit(self, noise: Noise) -> float:
        """For an optimum (grid) at the upper edge: below this z, ≤ 0, the losses fall significantly with the rate.

        The tail is 2.5% although the limit is one-sided: noise also decides on which side of the last gap the optimum
        (grid) is, and with it which tail is tested.
        """
        if not noise.df:
            return math.nan
        margin = noise.margin(1.0)
        slope, variance = self._derivative(self.start)
        if slope + margin * math.sqrt(variance) >= 0:
            return -math.inf
        _, roots = self._flat_points(margin)
        return min((root for root in roots if self.start < root < 0), default=0.0)

    def upper_limit(self, noise: Noise) -> float:
        """For an optimum (grid) at the upper edge: the upper end of Fieller's interval, if within the fitted rates.

        Otherwise +inf, because beyond them the parabola cannot be trusted.
        """
        _, high = self.vertex_limits(noise)
        return high if self.has_minimum and high <= self.end else math.inf
