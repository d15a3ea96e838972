"""How often the intervals of analysis/stats/transfer.py hold what was planted: nominally 95% of the time.

    python benchmarks/coverage.py [--draws 500]      some minutes on one core

Draws synthetic sweeps: known optima between the rates, known shifts, gains and regrets; noise of every run, an offset
of every seed at every depth and of every seed on every curve; runs that diverge; optima at the edge of the grid.
Grids are whole; benchmarks/coverage_refined.py has sweeps that are refined until a claim is decided.
Writes benchmarks/coverage.json and, from it, benchmarks/coverage.md.
"""

import argparse
import json
import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from analysis.stats.curves import Curve, of_depth
from analysis.stats.intervals import Estimate
from analysis.stats.optimum import Floats, fit_window
from analysis.stats.transfer import best_gain, gain_at, transfer_regret

HERE = Path(__file__).parent
SEEDS = (3, 5, 10)
CURVATURE = 0.03  # nats per squared octave
OFFSET, CURVE_OFFSET, NOISE = 0.02, 0.003, 0.004  # nats; standard deviations
LINEAR_GAIN = 0.012  # of the floor of the loss
DEPTH_SHIFT = 0.2  # octaves
BAND = (0.92, 0.98)  # what a nominal 95% has to reach

GRIDS = {  # log2 of the rates, and where N = 1's optimum may lie
    "octaves": (np.arange(6.0), (1.5, 2.5)),
    "paper": (np.log2(np.array([5, 7.5, 10, 12.5, 15, 20, 30, 40]) / 5), (1.0, 1.6)),
}
SKEWS = {"parabola": 0.0, "skewed": 0.006}  # nats per cubed octave


@dataclass(frozen=True)
class Truth:
    """The expected losses of one curve on grid `x`, with the optimum at `optimum` octaves; +inf above `limit`."""

    x: Floats
    optimum: float
    skew: float
    floor: float = 3.0
    limit: float = math.inf

    @property
    def losses(self) -> Floats:
        z = self.x - self.optimum
        return np.where(self.x > self.limit, np.inf, self.floor + CURVATURE * z**2 + self.skew * z**3)

    def estimand(self, chosen: Floats) -> float:
        """What the fit estimates, in the window that it chose on the noisy losses; the optimum of a parabola."""
        window = fit_window(2.0**self.x, chosen, int(np.argmin(chosen)))
        curvature, slope, _ = np.polyfit(self.x[window], self.losses[window], 2)
        return float(-slope / (2 * curvature))


def planted(x: Floats, first: float, skew: float) -> dict[str, Truth]:
    """The curves of a sweep; all but `deep` share a depth."""
    top = float(x[-1])
    return {
        "N = 1": Truth(x, first, skew),
        "sqrt": Truth(x, first + 0.75, skew, floor=3.0 + LINEAR_GAIN),
        "linear": Truth(x, first, skew),
        "diverging": Truth(x, first + 0.4, skew, limit=first + 1.3),
        "near the edge": Truth(x, float(x[-2:].mean()), skew),
        "beyond the edge": Truth(x, top + 0.5, skew),
        "deep": Truth(x, first + DEPTH_SHIFT, skew),
    }


def observed(truths: dict[str, Truth], seeds: int, rng: np.random.Generator) -> dict[str, Curve]:
    """A noisy sweep, as the analysis sees it."""
    losses = {}
    depths = {name: name == "deep" for name in truths}
    offsets = rng.normal(0, OFFSET, (2, seeds))
    for name, truth in truths.items():
        noise = rng.normal(0, NOISE, (len(truth.x), seeds)) + rng.normal(0, CURVE_OFFSET, seeds)
        losses[name] = truth.losses[:, None] + noise + offsets[int(depths[name])]
    curves = {}
    for depth in (False, True):
        runs = {name: (2.0 ** truths[name].x, losses[name]) for name in truths if depths[name] is depth}
        curves |= of_depth(runs)
    return curves


# What an interval promises: NOMINAL, covers 95%. AT_LEAST, more: the value is discrete, bounded or beyond the grid.
# MISFIT, nothing: the optimum of a curve that is no parabola, off by a systematic error besides the noise.
NOMINAL, AT_LEAST, MISFIT = "nominal", "at least", "misfit"


@dataclass(frozen=True)
class Judged:
    """A statistic of one draw, its estimate, planted value, and what its interval promises."""

    name: str
    estimate: Estimate
    truth: float
    promise: str = NOMINAL


def judged(truths: dict[str, Truth], curves: dict[str, Curve]) -> Iterator[Judged]:
    """Every statistic of one draw."""
    octaves = {name: curve.optimum.octaves for name, curve in curves.items()}
    fitted = ("N = 1", "sqrt", "linear", "diverging", "near the edge", "deep")
    meant = {name: truths[name].estimand(curves[name].losses) for name in fitted}
    beyond = truths["beyond the edge"].optimum
    for name in ("N = 1", "sqrt", "diverging", "near the edge"):
        yield Judged(f"optimum, {name}", octaves[name], meant[name])
    yield Judged("optimum, beyond the edge", octaves["beyond the edge"], beyond, AT_LEAST)
    shift = {name: octaves[name].minus(octaves["N = 1"]) for name in octaves}
    for name in ("sqrt", "linear", "diverging", "near the edge"):
        yield Judged(f"shift from N = 1, {name}", shift[name], meant[name] - meant["N = 1"])
    yield Judged("shift from N = 1, beyond the edge", shift["beyond the edge"], beyond - meant["N = 1"], AT_LEAST)
    yield Judged("shift from L_ref", octaves["deep"].minus(octaves["linear"]), meant["deep"] - meant["linear"])
    rate = curves["N = 1"].optimum.rate
    at = int(np.flatnonzero(curves["N = 1"].rates == rate)[0])
    sqrt, linear = truths["sqrt"].losses, truths["linear"].losses
    yield Judged("regret, sqrt", transfer_regret(curves["sqrt"], rate), sqrt[at] - sqrt.min())
    near_zero = transfer_regret(curves["linear"], rate)
    yield Judged("regret, linear (near its bound, 0)", near_zero, linear[at] - linear.min(), AT_LEAST)
    pair = curves["sqrt"], curves["linear"]
    yield Judged("gain, each rule at its best rate", best_gain(*pair), sqrt.min() - linear.min())
    yield Judged("gain, at N = 1's rate", gain_at(*pair, rate), sqrt[at] - linear[at])
    for name in ("N = 1", "sqrt"):
        found, best = curves[name].optimum, curves[name].rates[np.argmin(truths[name].losses)]
        yield Judged(f"best grid rate, {name}", Estimate(found.rate, found.rates_low, found.rates_high), best, AT_LEAST)
    if truths["N = 1"].skew:
        for name in ("N = 1", "sqrt"):
            yield Judged(f"optimum of the skewed curve itself, {name}", octaves[name], truths[name].optimum, MISFIT)
        for name in ("sqrt", "linear"):
            planted_shift = truths[name].optimum - truths["N = 1"].optimum
            yield Judged(f"shift of the skewed curves themselves, {name}", shift[name], planted_shift, MISFIT)


Result = dict[str, float | str]


def coverage(grid: str, curve: str, seeds: int, draws: int) -> dict[str, Result]:
    """Of `draws` sweeps, per statistic: the share of intervals that hold the truth, of open ones; median width."""
    x, places = GRIDS[grid]
    rng = np.random.default_rng([seeds, *grid.encode(), *curve.encode()])
    found: dict[str, list[Judged]] = defaultdict(list)
    for _ in range(draws):
        truths = planted(x, rng.uniform(*places), SKEWS[curve])
        for one in judged(truths, observed(truths, seeds, rng)):
            found[one.name].append(one)
    results: dict[str, Result] = {}
    for name, all_draws in found.items():
        ends = np.array([(one.estimate.low, one.truth, one.estimate.high) for one in all_draws])
        widths = ends[:, 2] - ends[:, 0]
        results[name] = {
            "promise": all_draws[0].promise,
            "coverage": float(((ends[:, 0] <= ends[:, 1]) & (ends[:, 1] <= ends[:, 2])).mean()),
            "open": float(np.isinf(widths).mean()),
            "median_width": float(np.median(widths)),
        }
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--draws", type=int, default=500, metavar="N", help="synthetic sweeps a setting (default: 500)")
    draws = parser.parse_args().draws
    found = {
        f"{grid}, {curve}": {str(seeds): coverage(grid, curve, seeds, draws) for seeds in SEEDS}
        for grid in GRIDS
        for curve in SKEWS
    }
    record = {"date": datetime.now(UTC).date().isoformat(), "draws": draws, "coverage": found}
    (HERE / "coverage.json").write_text(json.dumps(record, indent=1) + "\n")
    (HERE / "coverage.md").write_text(markdown(record["date"], draws, found))


def markdown(date: str, draws: int, found: dict[str, dict[str, dict[str, Result]]]) -> str:
    nominal = [
        result["coverage"]
        for by_seeds in found.values()
        for results in by_seeds.values()
        for result in results.values()
        if result["promise"] == NOMINAL
    ]
    within = sum(BAND[0] <= value <= BAND[1] for value in nominal)
    parts = [
        INTRODUCTION.format(date=date, draws=draws),
        f"{within} of the {len(nominal)} nominal coverages are within {BAND[0]:.0%}–{BAND[1]:.0%}: lowest "
        f"{min(nominal):.1%}, highest {max(nominal):.1%}, mean {np.mean(nominal):.1%}.",
    ]
    for setting, by_seeds in found.items():
        heads = [f"{seeds} seeds | width" for seeds in by_seeds]
        parts += [f"\n## {setting}\n", f"| statistic | promise | {' | '.join(heads)} |"]
        parts += ["|---|---|" + "---|---|" * len(heads)]
        for name, first in next(iter(by_seeds.values())).items():
            cells = [_cell(results[name]) for results in by_seeds.values()]
            parts.append(f"| {name} | {first['promise']} | {' | '.join(cells)} |")
    return "\n".join(parts) + "\n"


def _cell(result: Result) -> str:
    width = f"{result['median_width']:.3f}" if math.isfinite(float(result["median_width"])) else "open"
    return f"{result['coverage']:.1%} | {width}"


INTRODUCTION = """# Coverage of the 95% intervals

Written by `benchmarks/coverage.py`, {date}; {draws} synthetic sweeps per setting and number of seeds.

Loss curves have 0.03 nats per squared octave, and "skewed" ones also 0.006 nats per cubed octave. The grids are one of
six octaves and the paper's. Optima are anywhere between rates. The noise of one run is 0.004 nats. Each seed has a
common offset of 0.02 nats at a depth and 0.003 nats on a curve. In "diverging", rates more than 0.9 octaves above the
optimum diverge. In "near the edge" the optimum is half-way between the last two rates, in "beyond the edge" half an
octave above the last rate. Widths are medians, in octaves (optimum, shift), nats (regret, gain) or multiples of the
lowest rate (best grid rate). The promised coverage:

- **nominal**: 95%. The optimum meant is the vertex of a least-squares parabola through the expected losses in the
  chosen window.
- **at least**: more than 95%, because the value is one of a few grid rates, cannot be below 0, or lies beyond the grid.
  Beyond the grid, the interval only says "at the edge or beyond".
- **misfit**: none. On a skewed curve the parabola's vertex is not the optimum. The difference is a tenth of an octave
  here, and does not shrink with more seeds. A shift is less affected, because both its ends have the same error.
"""


if __name__ == "__main__":
    main()
