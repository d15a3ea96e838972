"""How often refined sweeps are right: coverage of their intervals, wrong verdicts, and the runs that a verdict takes.

    python benchmarks/coverage_refined.py [--draws 500]      an hour on one core

Plants sweeps with the curves of Figure 5b-d, starts with the coarse design, and lets the planner of `loopsweep refine`
choose rounds of runs until the claim on their optima is decided or the last round is over. Whole grids with 3 and 5
seeds are drawn from the same truths. Writes benchmarks/coverage_refined.json and, from it, coverage_refined.md.
"""

import argparse
import itertools
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from analysis.claims.verdict import Verdict
from analysis.refine.grid import Grid, Run
from analysis.refine.plan import next_round, propose
from analysis.refine.questions import Question, questions
from analysis.stats import looks
from analysis.stats.curves import Curve
from analysis.stats.intervals import Estimate
from analysis.stats.optimum import Floats, fit_parabola
from analysis.stats.transfer import CurveKey, best_gain, transfer_regret

HERE = Path(__file__).parent
FULL = np.array([5e-4, 7.5e-4, 1e-3, 1.25e-3, 1.5e-3, 2e-3, 3e-3, 4e-3])
COARSE = np.array([7.5e-4, 1e-3, 1.25e-3, 2e-3, 3e-3])
LOOPS, LAYERS = (1, 2, 4, 8), (12, 24, 48)
CURVATURE = 0.06  # nats per squared octave, as in the trials of the laptop preset
OFFSET, CURVE_OFFSET = 0.02, 0.003  # of a seed at a depth and on a curve, nats
NOISES, SHIFTS, SKEWS = (0.005, 0.015), (0.0, 0.35), {"parabola": 0.0, "skewed": 0.012}
DROP = 0.02  # nats by which the loss falls with each doubling of N
LIMIT = 1.3  # octaves above the optimum, beyond which N = 8 diverges at the greatest depth
BAND = (0.93, 0.98)


@dataclass
class Planted:
    """A sweep that can be asked for any run."""

    shift: float
    skew: float
    noise: float
    rng: np.random.Generator

    def __post_init__(self) -> None:
        self.first = math.log2(1.25e-3) + self.rng.uniform(-0.3, 0.3)
        self._offsets: dict[tuple[object, ...], float] = {}

    def optimum(self, key: CurveKey) -> float:
        """log2 of the optimum rate."""
        return self.first + self.shift * math.log2(key[3])

    def expected(self, key: CurveKey, rates: Floats) -> Floats:
        """The losses without noise, +inf where runs diverge."""
        z = np.log2(rates) - self.optimum(key)
        losses = 3.0 - DROP * math.log2(key[3]) + CURVATURE * z**2 + self.skew * z**3
        diverges = (z > LIMIT) & (key[2:] == (LAYERS[-1], LOOPS[-1]))
        found: Floats = np.where(diverges, np.inf, losses)
        return found

    def run(self, run: Run) -> float:
        """The loss of one run."""
        key, rate, seed = run
        loss = float(self.expected(key, np.array([rate]))[0])
        return (
            loss + self._offset(OFFSET, key[2], seed) + self._offset(CURVE_OFFSET, key, seed) + self._normal(self.noise)
        )

    def _offset(self, sd: float, *name: object) -> float:
        if name not in self._offsets:
            self._offsets[name] = self._normal(sd)
        return self._offsets[name]

    def _normal(self, sd: float) -> float:
        return float(self.rng.normal(0, sd))

    def grid(self, rates: Floats, seeds: int) -> Grid:
        """A whole grid with these rates and seeds."""
        curves = {}
        for n_layers, n_loops in itertools.product(LAYERS, LOOPS):
            key = (str(n_layers), "linear", n_layers, n_loops)
            runs = np.array([[self.run((key, float(rate), seed)) for seed in range(seeds)] for rate in rates])
            curves[key] = (rates, runs)
        depths = {n_layers: n_layers / LAYERS[0] for n_layers in LAYERS}
        return Grid(curves, tuple(range(seeds)), depths, {key: float(key[2] * key[3]) for key in curves})


def count_runs(grid: Grid) -> tuple[int, float]:
    """Runs of a grid, and their cost in applications of a block."""
    counts = {key: int((~np.isnan(runs)).sum()) for key, (_, runs) in grid.curves.items()}
    return sum(counts.values()), sum(count * grid.hours[key] for key, count in counts.items())


def refined(planted: Planted, claim: str) -> list[tuple[Grid, Verdict]]:
    """Every look at intervals, from the coarse design until the claim is decided or nothing is left to do."""
    grid, looks_at = planted.grid(COARSE, seeds=1), []
    while True:
        proposal = propose(grid, asked(grid, claim))
        if grid.has_noise:
            looks_at.append((grid, proposal.verdict))
        runs = [run for run in proposal.runs if not grid.has(run)]
        if not runs:
            return looks_at or [(grid, proposal.verdict)]
        grid = grid.with_runs({run: planted.run(run) for run in runs}, next_round(grid))


def asked(grid: Grid, claim: str) -> Question:
    """The claim on a grid."""
    [question] = [one for one in questions(grid) if one.claim == claim]
    return question


def intervals(planted: Planted, grid: Grid, question: Question) -> Iterable[tuple[str, Estimate, float]]:
    """Every interval of one sweep, and the truth that it is to hold."""
    curves = grid.fitted(question.keys, looks.SPENT[grid.round])
    vertex = {key: estimand(planted, key, curve) for key, curve in curves.items()}
    for key, curve in curves.items():
        yield "optimum", curve.optimum.octaves, vertex[key]
    for target in question.targets(curves):
        if target.unit == "octaves":
            first, second = (term.key for term in target.terms)
            name = "shift from N = 1" if first[2] == second[2] else "shift from L_ref"
            yield name, target.estimate, vertex[first] - vertex[second]
    for n_layers in LAYERS:
        at_depth = [key for key in question.keys if key[2] == n_layers]
        rate = curves[at_depth[0]].optimum.rate
        for before, key in itertools.pairwise(at_depth):
            truth = {one: planted.expected(one, curves[one].rates) for one in (before, key)}
            yield (
                "drop from N to 2N",
                best_gain(curves[before], curves[key]),
                float(truth[before].min() - truth[key].min()),
            )
            at = np.flatnonzero(curves[key].rates == rate)
            if len(at):
                regret = float(truth[key][at[0]] - truth[key].min())
                yield "regret", transfer_regret(curves[key], rate), regret


def estimand(planted: Planted, key: CurveKey, curve: Curve) -> float:
    """What the fit estimates: the vertex of the same fit to the expected losses of the same runs."""
    fitted = curve.fitted
    truth = planted.expected(key, curve.rates)[fitted]
    runs = np.where(np.isnan(curve.runs[fitted]), np.nan, truth[:, None])
    at = float(np.log2(curve.optimum.rate))
    return at + fit_parabola(np.log2(curve.rates[fitted]) - at, truth, curve.seeds[fitted], runs).vertex


Result = dict[str, float]
CLAIM = "fig5-transfer"
PART = 50  # draws of one random generator


Found = tuple[dict[str, Result], dict[str, Result]]


def simulate(curve: str, noise: float, shift: float, draws: int, part: int = 0) -> Found:
    """Coverage of every interval after adaptive stopping; and the verdicts and runs of each design."""
    rng = np.random.default_rng([*curve.encode(), round(noise * 1000), round(shift * 100), part])
    hits: dict[str, list[bool]] = defaultdict(list)
    widths: dict[str, list[float]] = defaultdict(list)
    outcomes: dict[str, list[tuple[Verdict, int, float]]] = defaultdict(list)
    for _ in range(draws):
        planted = Planted(shift, SKEWS[curve], noise, rng)
        seen = refined(planted, CLAIM)
        for design, (grid, verdict) in (("first look", seen[0]), ("refined", seen[-1])):
            outcomes[design].append((verdict, *count_runs(grid)))
        for name, estimate, truth in intervals(planted, seen[-1][0], asked(seen[-1][0], CLAIM)):
            if estimate.has_interval and math.isfinite(truth):
                hits[name].append(estimate.low <= truth <= estimate.high)
                widths[name].append(estimate.high - estimate.low)
        for seeds in (3, 5):
            grid = planted.grid(FULL, seeds)
            question = asked(grid, CLAIM)
            verdict = question.verdict(question.targets(grid.fitted(question.keys)))
            outcomes[f"8 rates × {seeds} seeds"].append((verdict, *count_runs(grid)))
    covered = {
        name: {"coverage": float(np.mean(found)), "median_width": float(np.median(widths[name]))}
        for name, found in hits.items()
    }
    designs = {}
    for design, found in outcomes.items():
        verdicts, runs, work = zip(*found, strict=True)
        shares = {str(one): verdicts.count(one) / draws for one in (Verdict.HOLDS, Verdict.FAILS, Verdict.INCONCLUSIVE)}
        designs[design] = shares | {"runs": float(np.mean(runs)), "work": float(np.mean(work))}
    return covered, designs


def pooled(parts: Sequence[Found]) -> Found:
    """Parts of as many draws as one. A median is the mean of the parts' medians."""
    tables = [
        {
            name: {key: float(np.mean([part[number][name][key] for part in parts])) for key in values}
            for name, values in parts[0][number].items()
        }
        for number in (0, 1)
    ]
    return tables[0], tables[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--draws", type=int, default=500, metavar="N", help="planted sweeps a setting (default: 500)")
    draws = max(PART, parser.parse_args().draws // PART * PART)
    found = {}
    for curve, noise, shift in itertools.product(SKEWS, NOISES, SHIFTS):
        parts = [simulate(curve, noise, shift, PART, part) for part in range(draws // PART)]
        covered, designs = pooled(parts)
        setting = f"{curve}, noise {noise}, {shift} octaves a doubling"
        found[setting] = {"coverage": covered, "designs": designs}
        print(setting, flush=True)
    record = {"date": datetime.now(UTC).date().isoformat(), "draws": draws, "settings": found}
    (HERE / "coverage_refined.json").write_text(json.dumps(record, indent=1) + "\n")
    (HERE / "coverage_refined.md").write_text(markdown(record["date"], draws, found))


def markdown(date: str, draws: int, found: dict[str, dict[str, dict[str, Result]]]) -> str:
    values = [
        one["coverage"] for setting in found.values() for name, one in setting["coverage"].items() if name in NOMINAL
    ]
    within = sum(BAND[0] <= value <= BAND[1] for value in values)
    names = list(next(iter(found.values()))["coverage"])
    parts = [
        INTRODUCTION.format(date=date, draws=draws),
        f"{within} of the {len(values)} coverages of optima and shifts are within {BAND[0]:.0%}–{BAND[1]:.0%}: lowest "
        f"{min(values):.1%}, highest {max(values):.1%}.\n",
        f"| setting | {' | '.join(f'{name} | width' for name in names)} |",
        "|---|" + "---|---|" * len(names),
    ]
    for setting, results in found.items():
        cells = [f"{one['coverage']:.1%} | {one['median_width']:.3f}" for one in results["coverage"].values()]
        parts.append(f"| {setting} | {' | '.join(cells)} |")
    parts += [
        "",
        "| setting | design | holds | fails | inconclusive | runs | cost of 8 × 5 |",
        "|---|---|---|---|---|---|---|",
    ]
    for setting, results in found.items():
        whole = results["designs"]["8 rates × 5 seeds"]["work"]
        for design, one in results["designs"].items():
            shares = " | ".join(f"{one[str(verdict)]:.1%}" for verdict in VERDICTS)
            parts.append(f"| {setting} | {design} | {shares} | {one['runs']:.0f} | {one['work'] / whole:.0%} |")
    return "\n".join(parts) + "\n"


VERDICTS = (Verdict.HOLDS, Verdict.FAILS, Verdict.INCONCLUSIVE)
NOMINAL = ("optimum", "shift from N = 1", "shift from L_ref")
INTRODUCTION = """# Coverage and cost of refined sweeps

Written by `benchmarks/coverage_refined.py`, {date}; {draws} planted sweeps per setting.

Each sweep has the twelve curves of Figure 5b–d, with 0.06 nats per squared octave, and "skewed" also 0.012 per cubed
octave. Optima lie within 0.3 octaves of the middle rate. A seed has an offset of 0.02 nats at a depth and of 0.003 on a
curve. At 4 L_ref and N = 8 rates more than 1.3 octaves above the optimum diverge. It starts with five of the paper's
rates and one seed. Then rounds are planned as `loopsweep refine` plans them, without a budget, until the claim that the
optimum is the same for every N and L is decided or the last round is over. "First look" is the same sweep after its
first round. Whole grids have the paper's eight rates. The optimum moves by 0 or 0.35 octaves with each doubling of N:
with 0 the claim holds, with 0.35 it fails.

Coverage is that of the last intervals of every sweep, whatever ended it. The optimum meant is the vertex of the same
fit to the expected losses. A regret cannot be below 0 and a drop is read off the grid, so these two cover more. Widths
are medians, in octaves or nats. Cost is in applications of a block.
"""


if __name__ == "__main__":
    main()
