"""The next round of a sweep: which runs, why, and what they are expected to do to the claims."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from analysis.claims.verdict import Verdict
from analysis.refine.grid import Grid, Run
from analysis.refine.levers import Expected, Lever, beyond_edge
from analysis.refine.questions import NATS, OCTAVES, Question, Target, half_width, name
from analysis.stats import looks
from analysis.stats.curves import Curve
from analysis.stats.transfer import CurveKey

# Half-widths that a round plans for: a share of the distance to the nearest bound, between these.
SHARE = 0.7
WIDEST = {OCTAVES: 0.32, NATS: math.inf}
NARROWEST = {OCTAVES: 0.2, NATS: 0.002}
LESS = 0.8  # than the half-width of now
LAST = 0.75  # times these in the last round, after which nothing can be mended
MOST_SEEDS = 12  # that a round adds at one place: more rest on a guess that the round itself makes better
MOST_UNITS = 400  # in the price of a claim that a round cannot decide
_FAR = 1e4  # times the planned width: as good as open
DECIDED = (Verdict.HOLDS, Verdict.FAILS)


@dataclass(frozen=True)
class Action:
    """Some runs of one curve for one claim.

    Attributes:
        claim: its id.
        what: in words.
        runs: that it adds.
        now, then: half-width of the interval that it is for, before and as expected after the round. +inf if open.
        unit: of these.
    """

    claim: str
    what: str
    runs: tuple[Run, ...]
    now: float
    then: float
    unit: str

    @property
    def structural(self) -> bool:
        """Whether it completes a curve, so that its interval cannot be foretold."""
        return math.isnan(self.then)


@dataclass(frozen=True)
class Proposal:
    """What one claim needs.

    Attributes:
        claim: its id.
        verdict: so far.
        actions: that are expected to decide it, or to show what would. Empty if it is decided.
        reachable: whether they are expected to decide it.
        needed: runs that are expected to, if `actions` are not. None if none are known.
    """

    claim: str
    verdict: Verdict
    actions: tuple[Action, ...]
    reachable: bool = True
    needed: int | None = None

    def only_structural(self) -> "Proposal":
        """Without the seeds."""
        return replace(self, actions=tuple(action for action in self.actions if action.structural))

    @property
    def runs(self) -> list[Run]:
        """Distinct runs of all actions."""
        return list(dict.fromkeys(run for action in self.actions for run in action.runs))


def next_round(grid: Grid) -> int:
    """The number of the round to plan. It counts the looks at intervals, so rounds before any interval share one."""
    return grid.round + 1 if grid.has_noise else max(grid.round, 1)


def propose(grid: Grid, question: Question) -> Proposal:
    """What one claim needs next."""
    curves = grid.fitted(question.keys, looks.SPENT[min(grid.round, looks.ROUNDS)])
    targets = question.targets(curves)
    verdict = question.verdict(targets) if targets else Verdict.NOT_MEASURED
    if verdict in DECIDED or not targets or next_round(grid) > looks.ROUNDS:
        return Proposal(question.claim, verdict, (), reachable=verdict in DECIDED)
    expected = Expected(grid, curves, looks.SPENT[next_round(grid)])
    expected.learn(targets)
    wanted = _wanted(targets, expected)
    structural = _structural(grid, question, curves, wanted)
    last = next_round(grid) == looks.ROUNDS
    if structural and not grid.has_noise:
        return Proposal(question.claim, verdict, tuple(structural))
    open_keys = {action.runs[0][0] for action in structural}
    narrowed = [one for one in wanted if last or not open_keys & {term.key for term in one.terms}]
    reachable = _push(expected, narrowed, grid)
    actions = (*structural, *_actions(grid, question, expected, narrowed))
    if reachable:
        return Proposal(question.claim, verdict, actions)
    whole = Expected(grid, curves, expected.alpha)
    whole.learn(targets)
    in_reach = _push(whole, narrowed, grid, MOST_UNITS)
    needed = sum(len(lever.rates) * units for lever, units in whole.units.items()) if in_reach else None
    return Proposal(question.claim, verdict, actions, reachable=False, needed=needed)


def _wanted(targets: Sequence[Target], expected: Expected) -> list[Target]:
    """The estimates to narrow: the one that is farthest out if one clearly is, else all that are open.

    Clearly: farther beyond the bound than half of what noise could do to it.
    """
    is_open = [target for target in targets if target.finding.verdict not in DECIDED]
    out = [one for one in is_open if one.leans_out and one.slack > expected.half_width(one) / 2]
    return [max(out, key=lambda one: one.slack)] if out else is_open


def _structural(
    grid: Grid, question: Question, curves: Mapping[CurveKey, Curve], wanted: Sequence[Target]
) -> list[Action]:
    """Missing runs, and a rate beyond each edge that an optimum lies at."""
    found = []
    needed = {term.key: target for target in wanted for term in target.terms}
    if missing := tuple(run for run in grid.missing if run[0] in question.keys):
        found.append(Action(question.claim, f"{len(missing)} missing runs", missing, math.inf, math.nan, "octaves"))
    for key, target in needed.items():
        edge = beyond_edge(curves[key])
        if edge is None:
            continue
        rate, why = edge
        rates, table = grid.curves[key]
        at = list(rates).index(curves[key].optimum.rate)
        seeds = [seed for column, seed in enumerate(grid.seeds) if table[at, column] == table[at, column]]
        runs = tuple((key, rate, seed) for seed in seeds)
        what = f"rate {rate:.3g} for {name(key)} ({why})"
        found.append(Action(question.claim, what, runs, half_width(target.estimate), math.nan, target.unit))
    return found


def _aims(expected: Expected, targets: Sequence[Target], *, last: bool) -> dict[int, float]:
    """The half-width to plan for, by identity of the target: always less than that of now, which did not decide."""
    found = {}
    for target in targets:
        aim = min(max(SHARE * target.slack, NARROWEST[target.unit]), WIDEST[target.unit])
        if target.estimate.has_interval:
            aim = min(aim, LESS * half_width(target.estimate), LESS * expected.half_width(target))
        found[id(target)] = aim * (LAST if last else 1.0)
    return found


def _push(expected: Expected, targets: Sequence[Target], grid: Grid, most: int = MOST_SEEDS) -> bool:
    """Add units, each time where it narrows most per hour, until every target is as narrow as planned.

    At most `most` units of one lever. Returns whether all targets were reached.
    """
    aims = _aims(expected, targets, last=next_round(grid) == looks.ROUNDS)
    for _ in range(MOST_UNITS):
        widths = {id(target): expected.half_width(target) for target in targets}
        unmet = [target for target in targets if widths[id(target)] > aims[id(target)]]
        levers = {lever for one in unmet for term in one.terms for lever in expected.levers(term)}
        allowed = sorted(lever for lever in levers if expected.units.get(lever, 0) < most)
        gains = {lever: _gain(expected, lever, unmet, widths, aims) / _price(grid, lever) for lever in allowed}
        best = max(gains, key=lambda lever: gains[lever], default=None)
        if best is None or gains[best] <= 0:
            return not unmet
        expected.units[best] = expected.units.get(best, 0) + 1
    return False


Widths = dict[int, float]


def _gain(expected: Expected, lever: Lever, unmet: Sequence[Target], widths: Widths, aims: Widths) -> float:
    """The sum over targets of the logarithm by which one unit narrows them, down to what is planned for."""
    expected.units[lever] = expected.units.get(lever, 0) + 1
    total = 0.0
    for target in unmet:
        before, aim = widths[id(target)], aims[id(target)]
        if lever.key not in {term.key for term in target.terms}:
            continue
        after = max(expected.half_width(target), aim)
        total += math.log(min(before, _FAR * aim) / min(after, _FAR * aim))
    expected.units[lever] -= 1
    if not expected.units[lever]:
        del expected.units[lever]
    return total


def _price(grid: Grid, lever: Lever) -> float:
    hours = grid.hours.get(lever.key, math.nan)
    return len(lever.rates) * (hours if math.isfinite(hours) and hours > 0 else float(lever.key[2] * lever.key[3]))


def _actions(grid: Grid, question: Question, expected: Expected, targets: Sequence[Target]) -> list[Action]:
    found: list[Action] = []
    taken = grid
    for lever, units in expected.units.items():
        hangs = [target for target in targets if lever.key in {term.key for term in target.terms}]
        widest = max(hangs, key=lambda target: half_width(target.estimate))
        rates = " and ".join(f"{rate:.3g}" for rate in lever.rates)
        count = f"{units} seeds" if units > 1 else "a seed"
        what = f"{count} at {rates} for {name(lever.key)}"
        runs = tuple(lever.runs(taken, units))
        taken = taken.with_runs(dict.fromkeys(runs, 0.0), taken.round)
        then = expected.half_width(widest)
        found.append(Action(question.claim, what, runs, half_width(widest.estimate), then, widest.unit))
    return found
