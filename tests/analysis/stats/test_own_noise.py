"""Noise from a curve's own runs, or from the seeds that two points share, where there are enough of them."""

import numpy as np
import pytest

from analysis.stats.curves import Curve, of_depth
from analysis.stats.intervals import ALPHA, mean_over_seeds
from analysis.stats.optimum import ENOUGH_SEEDS
from analysis.stats.seeds import ENOUGH_DF
from analysis.stats.transfer import PAIRED_SEEDS, best_gain, best_rate

RATES = 1e-3 * 2 ** np.arange(-1.0, 2.0)
NAN = float("nan")


def losses(sd: float, seeds: int, rng: np.random.Generator, floor: float = 3.0, common: float = 0.0) -> np.ndarray:
    """(3, S) losses of a curve with its optimum at the middle rate; each seed has an offset of sd `common`."""
    return floor + 0.06 * np.array([[1.0], [0.0], [1.0]]) + rng.normal(0, sd, (3, seeds)) + rng.normal(0, common, seeds)


def of(**runs: np.ndarray) -> dict[str, Curve]:
    return of_depth({name: (RATES, table) for name, table in runs.items()})


def test_a_curve_with_enough_runs_has_its_own_noise_and_one_with_fewer_that_of_the_depth() -> None:
    rng = np.random.default_rng(0)
    enough = ENOUGH_DF // 2 + 1  # seeds at three rates
    quiet, wild = losses(0.002, enough, rng), losses(0.1, enough, rng)
    together = of(quiet=quiet, wild=wild)
    assert together["quiet"].optimum == of(quiet=quiet)["quiet"].optimum
    fewer = of(quiet=quiet[:, :-1], wild=wild[:, :-1])
    assert fewer["quiet"].noise == fewer["wild"].noise


def test_intervals_of_curves_that_scatter_unlike_each_other_hold_the_truth() -> None:
    rng = np.random.default_rng(1)
    draws = [of(quiet=losses(0.002, 7, rng), wild=losses(0.02, 7, rng)) for _ in range(400)]
    for name, widest in (("quiet", 0.06), ("wild", 0.6)):
        octaves = [found[name].optimum.octaves for found in draws]
        held = np.mean([one.low <= np.log2(1e-3) <= one.high for one in octaves])
        assert 0.92 <= held <= 0.98, name
        assert np.median([one.high - one.low for one in octaves]) < widest, name


def test_intervals_hold_the_truth_where_the_rates_of_a_curve_scatter_unlike_each_other() -> None:
    """As on a task that every seed solves in the middle and some do not at the flanks."""
    rng = np.random.default_rng(4)
    scatter = np.array([[0.05], [0.01], [0.15]])
    held = {}
    for seeds in (ENOUGH_SEEDS - 1, ENOUGH_SEEDS):
        draws = [0.15 * np.array([[1.0], [0.0], [1.0]]) + scatter * rng.normal(size=(3, seeds)) for _ in range(1000)]
        octaves = [of(one=table)["one"].optimum.octaves for table in draws]
        held[seeds] = np.mean([one.low <= np.log2(1e-3) <= one.high for one in octaves])
    assert 0.93 <= held[ENOUGH_SEEDS] <= 0.97
    assert held[ENOUGH_SEEDS - 1] < 0.92  # by one noise for all rates


def test_points_with_enough_seeds_in_common_are_compared_seed_by_seed() -> None:
    rng = np.random.default_rng(2)
    shared = rng.normal(0, 0.02, PAIRED_SEEDS)  # moves two of three curves, and is no offset of the depth
    upper, lower = (losses(0.001, PAIRED_SEEDS, rng, floor) + shared for floor in (3.02, 3.0))
    curves = of(upper=upper, lower=lower, other=losses(0.001, PAIRED_SEEDS, rng, common=0.02))
    gain = best_gain(curves["upper"], curves["lower"])
    own = mean_over_seeds(upper[1] - lower[1], ALPHA)
    assert (gain.value, gain.low, gain.high) == pytest.approx((own.value, own.low, own.high))
    fewer = of(**{name: curve.runs[:, :-1] for name, curve in curves.items()})
    pooled = best_gain(fewer["upper"], fewer["lower"])
    assert pooled.high - pooled.low > 3 * (gain.high - gain.low)


def test_seeds_at_one_rate_of_every_curve_tell_the_noise_between_curves_alone() -> None:
    upper, lower = (
        np.array([[floor + 0.06, NAN], [floor, floor + 0.01], [floor + 0.06, NAN]]) for floor in (3.02, 3.0)
    )
    lower[1, 1] += 0.004
    curves = of(upper=upper, lower=lower)
    assert not curves["upper"].optimum.octaves.has_interval
    gain = best_gain(curves["upper"], curves["lower"])
    # One degree of freedom: the two differences are 0.020 and 0.016.
    own = mean_over_seeds(np.array([0.020, 0.016]), ALPHA)
    assert (gain.low, gain.high) == pytest.approx((own.low, own.high))


def test_one_lucky_run_is_no_best_rate() -> None:
    runs = np.array([[3.06, 3.08, 3.04], [3.0, 2.98, 3.04], [2.995, NAN, NAN]])
    curve = of(one=runs)["one"]
    assert np.nanargmin(curve.losses) == 2
    assert best_rate(curve) == 1
    assert best_rate(of(one=runs[:, :1])["one"]) == 2


def test_seeds_on_the_flanks_do_not_make_a_flank_the_best_rate() -> None:
    runs = losses(0.005, 9, np.random.default_rng(3))
    runs[1, 1:] = NAN
    assert best_rate(of(one=runs)["one"]) == 1
