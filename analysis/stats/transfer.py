"""Does a learning rate tuned at N = 1 stay good at larger N? The numbers beside Figure 5.

A curve is one panel and one loop count N: validation loss against the base learning rate η0, every point the mean
over its seeds (`average_seeds`). A diverged run counts as +inf, a run without a result as NaN. Intervals come from the
noise that `pooled_noise` finds near the optima. With one seed there is no interval.

Each function takes the cells of one context (`analysis.records.cell_axes.contexts`). `analyse` takes those of several.
"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from analysis.records import cell_axes
from analysis.stats import looks
from analysis.stats.curves import Curve, difference_variance, window
from analysis.stats.intervals import NO_NOISE, Estimate, mean_over_seeds
from analysis.stats.optimum import Floats
from analysis.stats.seeds import DepthNoise, additive_fit, by_seed, depth_noise

REFERENCE_LOOPS = 1
PAIRED_SEEDS = 5  # from which the differences of two points tell their own noise, see docs/statistics.md
FINISHED = ("done", "diverged")
# The state of a point is the first in this order among the states of its seeds.
STATE_ORDER = ("diverged", "failed", "timeout", "lost", "held", "preempted", "running", "pending", "done")
POINT_KEY = ["panel", "rule", "n_layers", "depth_multiplier", "n_loops", "base_lr"]
CURVE_KEY = ["panel", "rule", "n_layers", "depth_multiplier", "n_loops"]
GAIN_COLUMNS = [
    "n_layers",
    "n_loops",
    "reference_lr",
    *(f"{name}{end}" for name in ("best_gain_nats", "reference_gain_nats") for end in ("", "_low", "_high")),
]


@dataclass(frozen=True)
class Analysis:
    """The transfer tables of a sweep, with the columns of `cell_axes.context_key` in front.

    Attributes:
        points: see `average_seeds` and `with_margins`.
        table: see `transfer_table`.
        gains: see `gain_table`.
    """

    points: pd.DataFrame
    table: pd.DataFrame
    gains: pd.DataFrame


def analyse(cells: pd.DataFrame) -> Analysis:
    """The points and tables of all contexts of a sweep. Each context is analysed with its own noise."""
    found: list[list[pd.DataFrame]] = [[], [], []]
    for context, of_context in cell_axes.contexts(cells):
        points = average_seeds(of_context)
        noise = pooled_noise(of_context, points)
        points = with_margins(points, noise)
        for tables, table in zip(
            found, (points, transfer_table(points, noise), gain_table(points, noise)), strict=True
        ):
            for place, (name, value) in enumerate(context.items()):
                table.insert(place, name, value)
            tables.append(table)
    return Analysis(*(pd.concat([t for t in of if len(t)] or of[:1], ignore_index=True) for of in found))


def average_seeds(cells: pd.DataFrame) -> pd.DataFrame:
    """Cells (one row per seed) → points (one row per panel, N and base rate), in that order.

    `val_loss` is the mean over the seeds that have a result: +inf if any diverged, NaN if none has finished. Where
    only some seeds have finished, each one's common offset at this depth is taken off first.
    `seeds` counts those with a result, `seeds_expected` all; `state` is the seeds' first in `STATE_ORDER`. `runs` has
    the loss of every seed of this depth, NaN where the point has none.
    """
    assert not cells.duplicated([*POINT_KEY, "seed"]).any(), "cells of several contexts"
    grouped = _numbered(cells).assign(rank=cells["state"].map(STATE_ORDER.index)).groupby("point")
    points = grouped[POINT_KEY].first().assign(runs=None)
    for _, at_depth in _numbered(cells).groupby("n_layers"):
        losses, at = by_seed(at_depth)
        diverged = np.isinf(losses).any(axis=1)
        points.loc[at, "val_loss"] = np.where(diverged, np.inf, additive_fit(losses).means)
        points.loc[at, "runs"] = pd.Series([*losses], index=at)
    points["state"] = grouped["rank"].min().map(lambda rank: STATE_ORDER[rank])
    points["seeds"] = grouped["loss"].count()
    points["seeds_expected"] = grouped.size()
    return points.reset_index(drop=True)


def _numbered(cells: pd.DataFrame) -> pd.DataFrame:
    """With the columns point, its number in order of `POINT_KEY`, and loss: +inf diverged, NaN no result."""
    finished = cells["val_loss"].where(cells["state"] == "done")
    return cells.assign(
        point=cells.groupby(POINT_KEY, sort=True).ngroup(),
        loss=finished.mask(cells["state"] == "diverged", np.inf),
    )


def pooled_noise(cells: pd.DataFrame, points: pd.DataFrame) -> dict[int, DepthNoise]:
    """The noise of one run at each depth L, from the points around every curve's optimum (grid).

    Only points that its parabola is fitted to, because runs close to divergence scatter more. A run in two panels
    counts once: sqrt and linear share their runs at N = 1.
    """
    windows = [curve.index[window(*_arrays(curve)[:3])] for _, curve in points.groupby(CURVE_KEY, sort=False)]
    noise = {}
    for n_layers, at_depth in _numbered(cells).drop_duplicates("run_id").groupby("n_layers"):
        losses, at = by_seed(at_depth)
        curves = [losses[chosen] for fitted in windows if (chosen := np.isin(at, fitted)).any()]
        found = depth_noise(curves, looks.alpha(cells)) if curves else DepthNoise(NO_NOISE, NO_NOISE)
        noise[int(str(n_layers))] = replace(found, offsets=additive_fit(losses).covariance)
    return noise


def _arrays(curve: pd.DataFrame) -> tuple[Floats, Floats, Floats, Floats]:
    rates, losses, seeds = (curve[name].to_numpy(dtype=float) for name in ("base_lr", "val_loss", "seeds"))
    return rates, losses, seeds, np.stack([*curve["runs"]])


Noises = Mapping[int, DepthNoise]
CurveKey = tuple[str, str, int, int]


def curves(points: pd.DataFrame, noise: Noises | None = None) -> dict[CurveKey, Curve]:
    """The curve of each (panel, rule, L, N). `noise` is from `pooled_noise`. Without it there are no intervals."""
    found = {}
    for _, curve in points.groupby(CURVE_KEY, sort=True):
        panel, rule, n_layers, n_loops = curve.iloc[0][["panel", "rule", "n_layers", "n_loops"]]
        of_depth = (noise or {}).get(int(n_layers))
        found[str(panel), str(rule), int(n_layers), int(n_loops)] = Curve.of(*_arrays(curve), of_depth)
    return found


def with_margins(points: pd.DataFrame, noise: Noises) -> pd.DataFrame:
    """`points` with the column margin: half-width of the 95% interval of each mean without the seeds' offsets."""
    margins = points["base_lr"] * math.nan
    grouped = points.groupby(CURVE_KEY, sort=True)
    for (_, of_curve), curve in zip(grouped, curves(points, noise).values(), strict=True):
        if curve.noise:
            margins.loc[of_curve.index] = [curve.noise.within.margin(1 / n) if n else math.nan for n in curve.seeds]
    return points.assign(margin=margins)


def transfer_table(points: pd.DataFrame, noise: Noises | None = None) -> pd.DataFrame:
    """One row per panel and N: the optimum, its shift from N = 1 and from L_ref, and the cost of keeping N = 1's rate.

    `points` are those of `average_seeds`, `noise` that of `pooled_noise`; without it, intervals are NaN. Each
    estimate X has an interval X_low, X_high at 95%, infinite where open. Columns beside panel, rule, n_layers, n_loops:
    `finished`, `diverged`, `expected`: points with a result, of these the diverged, and all of the grid
    `seeds`: the most seeds any point of the curve has
    `optimum_lr`, `optimum_loss`: the optimum (grid). `optimum_lr_low`, `…_high` is the range of grid rates that noise
    cannot tell from it
    `fitted_lr`, `fitted_loss`: the optimum (fitted). `flag`: why there is none. See `Optimum`
    `shift_octaves`: log2 of the optimum (grid) over that of N = 1 in the same panel
    `fitted_shift_octaves`: the same for the optima (fitted). At an edge it is NaN and its interval one-sided
    `depth_shift_octaves`: log2 of the optimum (fitted) over that of the same rule and N at L_ref
    `regret_nats`: see `transfer_regret`. +inf if N = 1's rate diverged at this N, NaN if it has no result
    """
    found = curves(points, noise)
    rows = []
    for _, of_curve in points.groupby(CURVE_KEY, sort=True):
        panel, rule, n_layers, multiplier, n_loops = of_curve.iloc[0][CURVE_KEY]
        curve = found[panel, rule, n_layers, n_loops]
        first = found.get((panel, rule, n_layers, REFERENCE_LOOPS))
        shallow = _at_reference_depth(found, rule, n_loops, round(n_layers / multiplier))
        key = {"panel": panel, "rule": rule, "n_layers": n_layers, "n_loops": n_loops}
        rows.append(key | _progress(of_curve) | _transfer(curve, first, shallow))
    return pd.DataFrame(rows)


def _at_reference_depth(found: Mapping[CurveKey, Curve], rule: str, n_loops: int, ref_layers: int) -> Curve | None:
    return _by_rule(found).get((rule, ref_layers, n_loops))


def _by_rule(found: Mapping[CurveKey, Curve]) -> dict[tuple[str, int, int], Curve]:
    """The curve of each (rule, L, N) that is in one panel alone. With two, there is no reason to choose one."""
    counts = Counter(key[1:] for key in found)
    return {key[1:]: curve for key, curve in found.items() if counts[key[1:]] == 1}


def _progress(curve: pd.DataFrame) -> dict[str, int]:
    return {
        "finished": int(curve["state"].isin(FINISHED).sum()),
        "diverged": int((curve["state"] == "diverged").sum()),
        "expected": len(curve),
        "seeds": int(curve["seeds"].max()),
    }


def _transfer(curve: Curve, first: Curve | None, shallow: Curve | None) -> dict[str, float | str]:
    optimum, at_one = curve.optimum, first.optimum if first else None
    octaves = optimum.octaves
    return {
        "optimum_lr": optimum.rate,
        "optimum_lr_low": optimum.rates_low,
        "optimum_lr_high": optimum.rates_high,
        "optimum_loss": optimum.loss,
        "shift_octaves": math.log2(optimum.rate / at_one.rate) if at_one else math.nan,
        **_columns("regret_nats", transfer_regret(curve, at_one.rate if at_one else math.nan)),
        "fitted_lr": optimum.fitted_rate,
        "fitted_lr_low": 2.0**octaves.low,
        "fitted_lr_high": 2.0**octaves.high,
        "fitted_loss": optimum.fitted_loss,
        **_columns("fitted_shift_octaves", _shift(curve, first)),
        **_columns("depth_shift_octaves", _shift(curve, shallow)),
        "flag": optimum.flag,
    }


def _columns(name: str, estimate: Estimate) -> dict[str, float]:
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}


def _shift(curve: Curve, reference: Curve | None) -> Estimate:
    """Octaves from the optimum (fitted) of `reference` to that of `curve`. If one is missing, only an interval."""
    if reference is None:
        return Estimate(math.nan)
    if curve is reference:
        zero = 0.0 if curve.optimum.octaves.has_interval else math.nan
        return Estimate(0.0 * curve.optimum.fitted_rate, zero, zero)
    shift = curve.optimum.octaves.minus(reference.optimum.octaves)
    known = math.isfinite(curve.optimum.fitted_rate + reference.optimum.fitted_rate)
    return shift if known else Estimate(math.nan, shift.low, shift.high)


def transfer_regret(curve: Curve, reference_rate: float) -> Estimate:
    """Loss at `reference_rate` minus the lowest on the grid, nats per token.

    +inf if that rate diverged, NaN if it has no result or is not in the grid. The regret is the largest of the
    differences to all rates. The difference to itself is 0, so that it cannot be negative. The ends of the interval are
    the largest of these differences' one-sided limits. [0, 0] is possible, and at a regret of 0 the coverage is above
    nominal.
    """
    rates, losses = curve.rates, curve.losses
    found = np.flatnonzero((rates == reference_rate) & ~np.isnan(losses))
    if len(found) == 0:
        return Estimate(math.nan)
    at = int(found[0])
    if np.isinf(losses[at]):
        return Estimate(math.inf)
    others = np.flatnonzero(np.isfinite(losses) & (rates != reference_rate))
    differences = np.append(losses[at] - losses[others], 0.0)
    regret = float(differences.max())
    if curve.noise is None or not curve.noise.within.df:
        return Estimate(regret)
    margins = np.array([*(_margin_along(curve, at, int(other)) for other in others), 0.0])
    return Estimate(regret, float((differences - margins).max()), float((differences + margins).max()))


def _margin_along(curve: Curve, at: int, other: int) -> float:
    """Half-width of the interval of a difference along a curve. Other seeds differ as they do across curves."""
    assert curve.noise is not None
    paired = (np.isfinite(curve.runs[at]) == np.isfinite(curve.runs[other])).all()
    noise = curve.noise.within if paired or not curve.noise.between.df else curve.noise.between
    return noise.margin(difference_variance(curve, at, curve, other))


def gain_table(points: pd.DataFrame, noise: Noises | None = None) -> pd.DataFrame:
    """How much lower the loss is under linear than under sqrt scaling: a row per depth with both rules, and N > 1.

    At N = 1 the rules are one model.

    `best_gain_nats`: each rule at its `best_rate`, with as many seeds everywhere its optimum (grid)
    `reference_gain_nats`: both at `reference_lr`, N = 1's optimum (grid)
    Each has an interval X_low, X_high. Seeds are paired. +inf if only sqrt diverged (at that rate, or at all rates),
    -inf if only linear did, NaN if a result is missing or both diverged.
    """
    found = curves(points, noise)
    by_rule = _by_rule(found)
    both = sorted({key[1:] for key in by_rule if key[0] == "sqrt"} & {key[1:] for key in by_rule if key[0] == "linear"})
    rows = []
    for n_layers, n_loops in both:
        if n_loops > REFERENCE_LOOPS:
            first = by_rule.get(("sqrt", n_layers, REFERENCE_LOOPS))
            rate = first.optimum.rate if first else math.nan
            pair = by_rule["sqrt", n_layers, n_loops], by_rule["linear", n_layers, n_loops]
            row: dict[str, float] = {"n_layers": n_layers, "n_loops": n_loops, "reference_lr": rate}
            row |= _columns("best_gain_nats", best_gain(*pair))
            row |= _columns("reference_gain_nats", gain_at(*pair, rate))
            rows.append(row)
    return pd.DataFrame(rows, columns=GAIN_COLUMNS)


def best_gain(first: Curve, second: Curve) -> Estimate:
    """Loss of `first` at its `best_rate` minus that of `second`, nats per token. +inf if all of first's runs diverged.

    Both curves have the noise of the same cells. Seeds are paired: with `PAIRED_SEEDS` or more that both have, the gain
    is the mean of their own differences, and its interval is Student's. With fewer, the noise is that of the depth.
    """
    return _gain(*((curve, best_rate(curve)) for curve in (first, second)))


def gain_at(first: Curve, second: Curve, rate: float) -> Estimate:
    """The same at one `rate`, NaN if it is not in both grids."""
    return _gain(*((curve, curve.place(rate)) for curve in (first, second)))


def best_rate(curve: Curve) -> int | None:
    """Index of the rate with the lowest sum of mean loss and standard error, None without one.

    With as many seeds everywhere that is the lowest mean. Where seeds are at some rates only, the lowest mean may be
    one lucky run.
    """
    if np.isnan(curve.losses).all():
        return None
    sd = curve.noise.between.sd if curve.noise and curve.noise.between.df else 0.0
    return int(np.nanargmin(curve.losses + sd / np.sqrt(np.maximum(curve.seeds, 1))))


def seed_differences(first: Curve, at: int, second: Curve, below: int) -> Floats:
    """Loss of `first` at rate number `at` minus that of `second` at `below`, of every seed that has finished both."""
    differences = first.runs[at] - second.runs[below]
    shared: Floats = differences[np.isfinite(differences)]
    return shared


def _gain(first: tuple[Curve, int | None], second: tuple[Curve, int | None]) -> Estimate:
    (upper, at), (lower, below) = first, second
    if at is None or below is None:
        return Estimate(math.nan)
    if np.isinf(upper.losses[at]) and np.isinf(lower.losses[below]):
        return Estimate(math.nan)
    gain = float(upper.losses[at] - lower.losses[below])
    if upper.noise is None or not upper.noise.between.df or not math.isfinite(gain):
        return Estimate(gain)
    own = seed_differences(upper, at, lower, below)
    if len(own) >= PAIRED_SEEDS:
        return mean_over_seeds(own, upper.noise.between.alpha)
    margin = upper.noise.between.margin(difference_variance(upper, at, lower, below))
    return Estimate(gain, gain - margin, gain + margin)
