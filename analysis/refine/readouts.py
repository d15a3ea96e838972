"""The claims about trained streams (Figures 6 to 8) and about divergence: what they need beside the grid."""

import math
from collections.abc import Callable

from analysis.claims import stream, transfer
from analysis.claims.verdict import Finding, Verdict
from analysis.records.result_sets import Records
from analysis.refine.grid import Grid, Run
from analysis.refine.levers import rounded
from analysis.refine.plan import DECIDED, Action, Proposal
from analysis.stats.intervals import t_quantile
from analysis.stats.looks import SPENT
from analysis.stats.transfer import CurveKey

LEAST_SEEDS = 3  # with two, Student's interval is useless
DEVIATIONS = "standard deviations of a seed"
READOUT_CLAIMS: dict[str, tuple[tuple[int, ...], Callable[[Records], Finding]]] = {
    "fig6": ((8,), stream.increments_agree),
    "fig7": (stream.NORM_LOOPS, stream.norms_converge),
    "fig8": ((4,), stream.last_step_weakest),
}


def proposals(grid: Grid, records: Records) -> list[Proposal]:
    """What Figures 6 to 8 need, which are trainings at N = 1's optimum, and a rate for the claim on divergence."""
    cells = records.cells["lr_transfer"]
    tuned = transfer.tuned_rate(cells)
    found = []
    for claim, (loops, assess) in READOUT_CLAIMS.items():
        finding = assess(records)
        keys = _whole(grid, loops)
        actions = (
            () if finding.verdict in DECIDED or not keys or math.isnan(tuned) else _seeds(grid, claim, keys, tuned)
        )
        found.append(Proposal(claim, finding.verdict, actions))
    found.append(_above(grid, tuned, transfer.deep_diverges(records)))
    return found


def _whole(grid: Grid, loops: tuple[int, ...]) -> list[CurveKey]:
    """The linear curves of these N, at depths that have all of them: a claim compares them within a depth."""
    linear = [key for key in grid.curves if key[1] == "linear" and key[3] in loops]
    counts = {key[2]: {other[3] for other in linear if other[2] == key[2]} for key in linear}
    return [key for key in linear if counts[key[2]] == set(loops)]


def _seeds(grid: Grid, claim: str, keys: list[CurveKey], rate: float) -> tuple[Action, ...]:
    """The tuned rate with the same seeds for every curve: at least `LEAST_SEEDS`, else one more than now."""
    there = {key: {seed for seed in grid.seeds if grid.has((key, rate, seed))} for key in keys}
    common = set.intersection(*there.values())
    count = max(LEAST_SEEDS, len(common) + 1)
    union = sorted(set.union(*there.values()))
    seeds = (union + [seed for seed in range(count + len(union)) if seed not in union])[: max(count, len(union))]
    runs = tuple((key, rate, seed) for key in keys for seed in seeds if seed not in there[key])
    if not runs:
        return ()
    loops, depths = (" and ".join(map(str, sorted({key[at] for key in keys}))) for at in (3, 2))
    what = f"seeds up to {len(seeds)} at N = 1's rate {rate:.3g} for linear L = {depths}, N = {loops}"
    now, then = _factor(len(common)), _factor(len(seeds))
    return (Action(claim, what, runs, now, then, DEVIATIONS),)


def _factor(seeds: int) -> float:
    """Half-width of Student's interval in standard deviations of a seed."""
    return t_quantile(seeds - 1, SPENT[1] / 2) / math.sqrt(seeds) if seeds > 1 else math.inf


def _above(grid: Grid, tuned: float, finding: Finding) -> Proposal:
    deepest = [key for key in grid.curves if key[1] == "linear" and grid.depths[key[2]] == transfer.DEEPEST]
    keys = [key for key in deepest if key[3] == transfer.FULL_LOOPS]
    if finding.verdict is not Verdict.INCONCLUSIVE or not keys or "no rate" not in finding.why or math.isnan(tuned):
        return Proposal("fig5-diverge", finding.verdict, ())
    rate = rounded(2 * transfer.SAFE_FACTOR * tuned)
    run: Run = (keys[0], rate, grid.seeds[0])
    return Proposal(
        "fig5-diverge", finding.verdict, (Action("fig5-diverge", f"rate {rate:.3g}", (run,), math.inf, 0.0, ""),)
    )


def shared_rates(grid: Grid) -> Action | None:
    """N = 1's optimum (grid) at every larger N, which regrets and the gain at N = 1's rate are read at."""
    runs = []
    curves = grid.fitted(grid.curves)
    for key in grid.curves:
        first = next((one for one in grid.curves if one[:3] == key[:3] and one[3] == 1), key)
        best = curves[first].optimum.rate
        if not math.isnan(best) and best not in grid.curves[key][0]:
            runs.append((key, best, grid.seeds[0]))
    what = "N = 1's optimum (grid) at larger N"
    return Action("regret", what, tuple(runs), math.inf, math.nan, "nats") if runs else None
