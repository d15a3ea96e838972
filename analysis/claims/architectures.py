"""Claims about stabilisers: which collapses, which is better, which keeps its rate. From the sweep `architectures`.

Each stabiliser is judged at its own best rate, see `analysis.stats.collapse`.
"""

import math
from collections.abc import Iterable, Mapping

import pandas as pd

from analysis.claims.transfer import rate_stays
from analysis.claims.verdict import (
    Finding,
    Unjudged,
    Verdict,
    as_text,
    assessment,
    every,
    judge,
    not_measured,
    opposite,
    unfinished,
)
from analysis.records.result_sets import ARCHITECTURES, Records
from analysis.stats import comparison
from analysis.stats.collapse import is_collapsed, nats_learned
from analysis.stats.comparison import Stabiliser
from analysis.stats.curves import Curve
from analysis.stats.transfer import REFERENCE_LOOPS, best_gain
from sweeper.records.collapse import MARGIN

LT, LT_I, LT_IA, FLT_RES, FLT = (Stabiliser(name, "none") for name in ("LT", "LT_i", "LT_ia", "FLT_res", "FLT"))
PLAIN_LINEAR, FLT_LINEAR, BOUNDARY = (
    Stabiliser("plain", "linear"),
    Stabiliser("FLT", "linear"),
    Stabiliser("boundary", "none"),
)
COLLAPSE_LOOPS = 12  # where the paper has everything but FLT collapse
# Half of the 0.025 nats by which the first paper's Figure 5 has sqrt worse than linear at N = 8.
SAME_NATS = 0.0125

Curves = Mapping[tuple[str, int], Curve]
CurveKey = tuple[str, int]


@assessment
def collapses(records: Records, stabiliser: Stabiliser) -> Finding:
    """At N = 12 even the best rate learns less than `MARGIN` nats beyond the unigram entropy."""
    return _learning(records, stabiliser, high=MARGIN)


@assessment
def trains(records: Records, stabiliser: Stabiliser) -> Finding:
    """At N = 12 the best rate learns more than `MARGIN` nats beyond the unigram entropy."""
    return _learning(records, stabiliser, low=MARGIN)


@assessment
def better_where_it_trains(records: Records, better: Stabiliser, other: Stabiliser) -> Finding:
    """At every N > 1 at which `other` does not collapse, the best loss of `better` is lower than its best loss."""
    cells = grid(records, better, other)
    curves = comparison.curves(cells)
    findings, texts = [], []
    for n_loops in _loop_counts(cells, better, other):
        of_other = comparison.select(cells, other)
        learned = comparison.learned_at_best(of_other[of_other["n_loops"] == n_loops])
        collapsed = judge(learned, high=MARGIN)
        if collapsed.verdict is Verdict.FAILS:
            finding = _lower(curves, (str(other), n_loops), (str(better), n_loops))
            findings.append(finding)
            texts.append(f"worse by {finding.measured}")
        else:
            findings += [collapsed] if collapsed.verdict is Verdict.INCONCLUSIVE else []
            texts.append(f"learns {as_text(learned, '.2f')} nats at N = {n_loops}")
    if not findings:
        raise Unjudged(not_measured(f"{other} collapses at every N > 1"))
    return every(findings).with_text(f"{other}: {'; '.join(texts)}")


@assessment
def alone_improves(records: Records, one: Stabiliser, others: Iterable[Stabiliser]) -> Finding:
    """The best loss of `one` is lower at the largest N than at N = 1, and that of none of `others` is."""
    findings = {one: _improvement(records, one)}
    findings |= {other: opposite(_improvement(records, other)) for other in others}
    texts = [f"{stabiliser} {finding.measured}" for stabiliser, finding in findings.items()]
    return every(list(findings.values())).with_text("lower than at N = 1 by: " + "; ".join(texts))


@assessment
def beats(records: Records, winner: Stabiliser, losers: Iterable[Stabiliser]) -> Finding:
    """At every N > 1 the best loss of `winner` is lower than that of each of `losers`."""
    findings, texts = [], []
    for loser in losers:
        curves, loop_counts = _compared(records, winner, loser)
        found = [_lower(curves, (str(loser), n_loops), (str(winner), n_loops)) for n_loops in loop_counts]
        findings += found
        texts.append(f"{loser} worse by " + ", ".join(finding.measured for finding in found))
    return every(findings).with_text("; ".join(texts))


@assessment
def keeps_its_rate(records: Records, stabiliser: Stabiliser) -> Finding:
    """Every shift of the optimum from N = 1 is within ±½ octave, see `analysis.claims.transfer.rate_stays`."""
    return _rate(records, stabiliser)


@assessment
def does_the_same(records: Records, stabiliser: Stabiliser, model: Stabiliser) -> Finding:
    """`stabiliser` keeps its rate over N, and at no N > 1 is its best loss above that of `model` by `SAME_NATS`."""
    rate = _rate(records, stabiliser)
    curves, loop_counts = _compared(records, stabiliser, model)
    losses = [
        _gain(curves, (str(stabiliser), n_loops), (str(model), n_loops), high=SAME_NATS) for n_loops in loop_counts
    ]
    excess = f"worse than {model} by " + ", ".join(finding.measured for finding in losses)
    return every([rate, *losses]).with_text("; ".join(filter(None, (rate.measured, excess))))


def grid(records: Records, *chosen: Stabiliser, n_loops: int | None = None) -> pd.DataFrame:
    """The cells of some stabilisers at L_ref and one N, or every N. All of them have a result.

    Raises:
        Unjudged: if some are missing, or the unigram entropy is.
    """
    cells = records.cells.get(ARCHITECTURES)
    command = f"make sweep-architectures PRESET={records.preset}"
    if cells is None:
        raise Unjudged(not_measured(f"no architectures sweep in the records: {command}"))
    selected = comparison.select(cells, *chosen)
    if n_loops is not None:
        selected = selected[selected["n_loops"] == n_loops]
    for stabiliser in chosen:
        what = f"run of {stabiliser}" + ("" if n_loops is None else f" at N = {n_loops}")
        if missing := unfinished(comparison.select(selected, stabiliser), what):
            why = f"{missing.why}: {command}" if missing.verdict is Verdict.NOT_MEASURED else missing.why
            raise Unjudged(Finding(missing.verdict, why=why))
    if nats_learned(selected).isna().any():
        raise Unjudged(not_measured(f"no unigram entropy in the records: {command}"))
    return selected


def best_runs(records: Records, stabiliser: Stabiliser, n_loops: int) -> pd.DataFrame:
    """The cells at the best rate of a stabiliser at one N, one per seed.

    Raises:
        Unjudged: as of `grid`.
    """
    return comparison.at_best_rate(grid(records, stabiliser, n_loops=n_loops))


def _learning(records: Records, stabiliser: Stabiliser, low: float = -math.inf, high: float = math.inf) -> Finding:
    cells = grid(records, stabiliser, n_loops=COLLAPSE_LOOPS)
    learned = comparison.learned_at_best(cells)
    rate = comparison.at_best_rate(cells)["base_lr"].iloc[0]
    collapsed = f"{int(is_collapsed(cells).sum())} of {len(cells)} runs collapsed"
    rates = f"rates {cells['base_lr'].min():.3g}…{cells['base_lr'].max():.3g}"
    return judge(learned, low, high).with_text(
        f"learns {as_text(learned, '.2f')} nats at its best rate {rate:.3g}; {collapsed}, {rates}"
    )


def _loop_counts(cells: pd.DataFrame, *chosen: Stabiliser) -> list[int]:
    """Every N > 1 that all of them have."""
    of_each = [set(comparison.select(cells, stabiliser)["n_loops"]) for stabiliser in chosen]
    common = sorted(n_loops for n_loops in set.intersection(*of_each) if n_loops > REFERENCE_LOOPS)
    if not common:
        raise Unjudged(not_measured(f"no N > 1 of {' and '.join(map(str, chosen))}"))
    return common


def _compared(records: Records, *chosen: Stabiliser) -> tuple[Curves, list[int]]:
    """The curves of some stabilisers, with the noise of all of them, and every N > 1 that they share."""
    cells = grid(records, *chosen)
    return comparison.curves(cells), _loop_counts(cells, *chosen)


def _improvement(records: Records, stabiliser: Stabiliser) -> Finding:
    """Whether the best loss is lower at the largest N than at N = 1."""
    grid(records, stabiliser, n_loops=REFERENCE_LOOPS)
    curves, loop_counts = _compared(records, stabiliser)
    finding = _lower(curves, (str(stabiliser), REFERENCE_LOOPS), (str(stabiliser), loop_counts[-1]))
    return finding.with_text(finding.measured.removeprefix(f"{stabiliser} "))


def _rate(records: Records, stabiliser: Stabiliser) -> Finding:
    grid(records, stabiliser, n_loops=REFERENCE_LOOPS)
    return rate_stays(comparison.as_panels(grid(records, stabiliser)))


def _lower(curves: Curves, upper: CurveKey, lower: CurveKey) -> Finding:
    """Whether the best loss of the curve `lower` is below that of `upper`."""
    return _gain(curves, upper, lower, low=0.0)


def _gain(curves: Curves, upper: CurveKey, lower: CurveKey, low: float = -math.inf, high: float = math.inf) -> Finding:
    """Whether the best loss of curve `upper` minus that of `lower` is within [low, high], of which one is infinite.

    A curve whose lowest loss is at an end of the grid could be better. Nothing is decided against it.
    """
    gain = best_gain(curves[upper], curves[lower])
    measured = f"{as_text(gain, '+.3f')} at N = {lower[1]}"
    if math.isnan(gain.value):
        return Finding(Verdict.INCONCLUSIVE, measured, f"both diverged or collapsed at N = {lower[1]}")
    if math.isinf(gain.value):
        name, n_loops = upper if gain.value > 0 else lower
        measured = f"{name} collapsed at N = {n_loops}"
    finding = judge(gain, low, high)
    if finding.verdict is Verdict.INCONCLUSIVE:
        return finding.with_text(measured)
    worse = upper if (finding.verdict is Verdict.HOLDS) == math.isinf(high) else lower
    if "grid ends" in curves[worse].optimum.flag:
        return Finding(Verdict.INCONCLUSIVE, measured, f"edge optimum of {worse[0]} at N = {worse[1]}")
    return finding.with_text(measured)
