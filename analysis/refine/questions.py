"""The open claims of the transfer family as numbers: each interval that a verdict hangs on, and the runs behind it."""

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from analysis.claims.transfer import FULL_LOOPS, SAME_OCTAVES
from analysis.claims.verdict import Finding, Verdict, every, judge, opposite, some
from analysis.refine.grid import Grid
from analysis.stats.curves import Curve
from analysis.stats.intervals import Estimate
from analysis.stats.transfer import REFERENCE_LOOPS, CurveKey, best_gain, best_rate

OCTAVES, NATS = "octaves", "nats"


@dataclass(frozen=True)
class Term:
    """What an estimate is made of: the vertex of a curve, or with `rate` the mean loss at one of its rates."""

    key: CurveKey
    rate: float | None = None


@dataclass(frozen=True)
class Target:
    """One estimate of a claim, the bounds that it is held against, and its two terms."""

    what: str
    unit: str
    estimate: Estimate
    low: float
    high: float
    terms: tuple[Term, Term]

    @property
    def finding(self) -> Finding:
        """Whether the interval lies within the bounds."""
        return judge(self.estimate, self.low, self.high)

    @property
    def slack(self) -> float:
        """From the value to the nearest bound, 0 without a value."""
        value = self.estimate.value
        return 0.0 if math.isnan(value) else min(abs(value - self.low), abs(value - self.high))

    @property
    def leans_out(self) -> bool:
        """Whether the value itself is outside the bounds."""
        return not math.isnan(self.estimate.value) and not self.low <= self.estimate.value <= self.high


Curves = Mapping[CurveKey, Curve]


@dataclass(frozen=True)
class Question:
    """One claim.

    Attributes:
        claim: its id.
        keys: the curves that it is judged on.
        combine: the findings of its targets → that of the claim.
        targets: of the fitted curves.
    """

    claim: str
    keys: tuple[CurveKey, ...]
    combine: Callable[[list[Finding]], Finding]
    targets: Callable[[Curves], list[Target]]

    def verdict(self, targets: list[Target]) -> Verdict:
        """The claim's verdict from its targets."""
        return self.combine([target.finding for target in targets]).verdict


def questions(grid: Grid) -> list[Question]:
    """The claims about rates and losses that the curves of a grid can answer."""
    linear = tuple(key for key in grid.curves if key[1] == "linear")
    sqrt = tuple(key for key in grid.curves if key[1] == "sqrt")
    shallow = tuple(key for key in grid.curves if grid.depths[key[2]] == 1)
    found = [
        Question("fig5-transfer", linear, every, lambda curves: _shifts(curves, depths=True)),
        Question("fig5-shift", sqrt, _some_moves, lambda curves: _shifts(curves, depths=False)),
        Question("fig5-gain", shallow, every, _gain),
        Question("fig5-loops", tuple(key for key in shallow if key[1] == "linear"), every, _drops),
    ]
    return [question for question in found if question.keys]


def _some_moves(findings: list[Finding]) -> Finding:
    return some([opposite(finding) for finding in findings])


def _shifts(curves: Curves, *, depths: bool) -> list[Target]:
    """From N = 1 at each depth, and with `depths` from the least L at each N."""
    by_place = {key[2:]: key for key in curves}
    pairs = [(key, by_place.get((key[2], REFERENCE_LOOPS)), "N = 1") for key in curves if key[3] > REFERENCE_LOOPS]
    if depths:
        least = min(key[2] for key in curves)
        pairs += [(key, by_place.get((least, key[3])), "L_ref") for key in curves if key[2] > least]
    return [
        Target(
            f"shift of {name(key)} from {origin}",
            OCTAVES,
            curves[key].optimum.octaves.minus(curves[first].optimum.octaves),
            -SAME_OCTAVES,
            SAME_OCTAVES,
            (Term(key), Term(first)),
        )
        for key, first, origin in pairs
        if first is not None
    ]


def _gain(curves: Curves) -> list[Target]:
    pair = [
        next((key for key in curves if key[1] == rule and key[3] == FULL_LOOPS), None) for rule in ("sqrt", "linear")
    ]
    if None in pair:
        return []
    upper, lower = (key for key in pair if key is not None)
    return [_difference(curves, upper, lower, f"gain of linear at N = {FULL_LOOPS}")]


def _drops(curves: Curves) -> list[Target]:
    ordered = sorted(curves, key=lambda key: key[3])
    return [
        _difference(curves, before, key, f"drop from N = {before[3]} to {key[3]}")
        for before, key in itertools.pairwise(ordered)
    ]


def _difference(curves: Curves, upper: CurveKey, lower: CurveKey, what: str) -> Target:
    gain = best_gain(curves[upper], curves[lower])
    return Target(what, NATS, gain, 0.0, math.inf, (_best(curves, upper), _best(curves, lower)))


def _best(curves: Curves, key: CurveKey) -> Term:
    at = best_rate(curves[key])
    return Term(key, math.nan if at is None else float(curves[key].rates[at]))


def name(key: CurveKey) -> str:
    """`linear L = 24, N = 8`."""
    return f"{key[1]} L = {key[2]}, N = {key[3]}"


def half_width(estimate: Estimate) -> float:
    """Half of the interval, +inf where it is open or there is none."""
    width = (estimate.high - estimate.low) / 2
    return math.inf if np.isnan(width) else width
