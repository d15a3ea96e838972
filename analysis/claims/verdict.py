"""Claims, findings, and the functions that every verdict comes from."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import wraps
from typing import ParamSpec

import numpy as np
import pandas as pd

from analysis.records.result_sets import Records
from analysis.stats.intervals import Estimate

P = ParamSpec("P")
FINISHED = ("done", "diverged")
ONE_SEED = "1 seed, no interval"
OPEN_REASONS = {  # in the reason of an inconclusive verdict → its class, the first that is found
    ONE_SEED: "1 seed",
    "points missing": "points missing",
    "diverged": "runs diverged",
    "collapsed": "runs collapsed",
    "no rate that high": "grid too short",
    "edge opt": "optimum at the edge",
    "interval spans": "interval too wide",
}


class Verdict(StrEnum):
    """The result of judging a claim on records."""

    HOLDS = "holds"
    FAILS = "fails"
    INCONCLUSIVE = "inconclusive"
    NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Finding:
    """A verdict, the measurement in words, and why nothing is decided (empty if it holds or fails)."""

    verdict: Verdict
    measured: str = ""
    why: str = ""

    @property
    def short(self) -> str:
        """The verdict in a word or two: holds, fails, or open with a class of reasons."""
        if self.verdict in (Verdict.HOLDS, Verdict.FAILS):
            return str(self.verdict)
        if self.verdict is Verdict.NOT_MEASURED:
            return f"open: {self.verdict}"
        reason = next((short for start, short in OPEN_REASONS.items() if start in self.why), "")
        return f"open: {reason}" if reason else "open"

    def with_text(self, measured: str) -> "Finding":
        """The same with `measured` replaced."""
        return Finding(self.verdict, measured, self.why)


@dataclass(frozen=True)
class Source:
    """Where a group of claims is from.

    Attributes:
        title: of the paper, or of the group.
        address: of the paper. Empty for questions that no paper asks.
        column: the heading above the claims' `paper`.
        notes: what a reader of the verdicts has to know, a sentence or two each.
    """

    title: str
    address: str
    column: str = "the paper"
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Claim:
    """One row of the claims.

    Attributes:
        source: the group that it is shown in.
        id: short name, stable.
        statement: the claim.
        figure: figure or table of the paper, or the paper where the source is none.
        paper: the number or picture in the paper.
        method: how it is measured here.
        test: the condition on the measurement.
        assess: records of one place and preset → finding. A pure function.
    """

    source: Source
    id: str
    statement: str
    figure: str
    paper: str
    method: str
    test: str
    assess: Callable[[Records], Finding]


class Unjudged(Exception):  # not an error: it ends an assessment early
    """Raised within an assessment that cannot go on, with the finding that it ends in."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.why)
        self.finding = finding


def assessment(assess: Callable[P, Finding]) -> Callable[P, Finding]:
    """The function, with the finding of an `Unjudged` that it raises as its result."""

    @wraps(assess)
    def settled(*args: P.args, **kwargs: P.kwargs) -> Finding:
        try:
            return assess(*args, **kwargs)
        except Unjudged as unjudged:
            return unjudged.finding

    return settled


def not_measured(why: str) -> Finding:
    """The finding where records are missing."""
    return Finding(Verdict.NOT_MEASURED, why=why)


def judge(estimate: Estimate, low: float = -math.inf, high: float = math.inf, reason: str = "") -> Finding:
    """Holds if the whole interval is in [low, high], fails if none of it is, else inconclusive.

    An infinite value means divergence and needs no interval. `reason` replaces the usual reason of an inconclusive
    verdict, the bound that the interval spans.
    """
    value = estimate.value
    if math.isinf(value):
        return Finding(Verdict.HOLDS if low <= value <= high else Verdict.FAILS)
    if not estimate.has_interval:
        return Finding(Verdict.INCONCLUSIVE, why=ONE_SEED)
    if low <= estimate.low and estimate.high <= high:
        return Finding(Verdict.HOLDS)
    if estimate.high < low or estimate.low > high:
        return Finding(Verdict.FAILS)
    spanned = [bound for bound in (low, high) if estimate.low <= bound <= estimate.high]
    spans = " and ".join("zero" if bound == 0 else f"{bound:g}" for bound in spanned)
    return Finding(Verdict.INCONCLUSIVE, why=reason or f"interval spans {spans}")


def opposite(finding: Finding) -> Finding:
    """The finding about the contrary claim."""
    turned = {Verdict.HOLDS: Verdict.FAILS, Verdict.FAILS: Verdict.HOLDS}
    return Finding(turned.get(finding.verdict, finding.verdict), finding.measured, finding.why)


def every(findings: Sequence[Finding]) -> Finding:
    """Holds if all hold, fails if one fails, else inconclusive with the reasons of all that are inconclusive."""
    verdicts = {finding.verdict for finding in findings}
    if Verdict.FAILS in verdicts:
        return Finding(Verdict.FAILS)
    if verdicts == {Verdict.HOLDS}:
        return Finding(Verdict.HOLDS)
    return Finding(Verdict.INCONCLUSIVE, why=_reasons(findings))


def some(findings: Sequence[Finding]) -> Finding:
    """Holds if one holds, fails if all fail, else inconclusive with the reasons of all that are inconclusive."""
    verdicts = {finding.verdict for finding in findings}
    if Verdict.HOLDS in verdicts:
        return Finding(Verdict.HOLDS)
    if verdicts == {Verdict.FAILS}:
        return Finding(Verdict.FAILS)
    return Finding(Verdict.INCONCLUSIVE, why=_reasons(findings))


def _reasons(findings: Sequence[Finding]) -> str:
    return "; ".join(dict.fromkeys(finding.why for finding in findings if finding.verdict is Verdict.INCONCLUSIVE))


def unfinished(cells: pd.DataFrame | None, what: str) -> Finding | None:
    """Why `cells` cannot be judged: there are none, none has a result, or some have none. None if they can."""
    if cells is None or cells.empty:
        return not_measured(f"no {what} in the records")
    finished = int(cells["state"].isin(FINISHED).sum())
    if finished == 0:
        return not_measured(f"no {what} has finished")
    if finished < len(cells):
        return Finding(Verdict.INCONCLUSIVE, why=f"points missing: {len(cells) - finished} of {len(cells)}")
    return None


def as_text(estimate: Estimate, spec: str) -> str:
    """`+0.52 (+0.41…+0.66)`, without the interval if there is none or it has no width."""
    value = "diverged" if math.isinf(estimate.value) else number_text(estimate.value, spec)
    if not estimate.has_interval or estimate.low == estimate.high:
        return value
    return f"{value} ({number_text(estimate.low, spec)}…{number_text(estimate.high, spec)})"


def fold_text(growth: Estimate, base: float, spec: str) -> str:
    """`4.89× (4.47…5.34)`: a growth in powers of `base` as a factor."""
    with np.errstate(over="ignore"):
        fold = np.power(float(base), [growth.value, growth.low, growth.high]).tolist()
    value, _, interval = as_text(Estimate(*fold), spec).partition(" ")
    return value if math.isinf(growth.value) else f"{value}× {interval}".rstrip()


def number_text(value: float, spec: str) -> str:
    """`value` with a real minus sign, "∞" for infinity and a dash for NaN."""
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return "–" if math.isnan(value) else format(value, spec).replace("-", "−")
