"""Grids where not every seed has every rate, and sweeps that were refined in rounds."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from scipy.special import ndtri

from analysis.stats import looks
from analysis.stats.curves import Curve, difference_variance, of_depth, window
from analysis.stats.transfer import average_seeds, curves, pooled_noise, transfer_table

CellTable = Callable[..., pd.DataFrame]
NAN = float("nan")


def parabola(vertex: float, pattern: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """(R, S) losses without noise, half an octave apart; each seed has its offset where the pattern has a run."""
    z = np.arange(len(pattern)) / 2 - vertex
    return np.where(pattern, 3.0 + 0.06 * z[:, None] ** 2 + offsets, NAN)


def test_seeds_on_flanks_alone_do_not_move_the_vertex_by_their_offsets() -> None:
    pattern = np.array([[1, 1, 1], [1, 0, 0], [1, 0, 0], [1, 0, 0], [1, 1, 1]], dtype=bool)
    runs = parabola(1.1, pattern, np.array([0.0, 0.5, -0.3]))
    rates = 1e-3 * 2 ** (np.arange(5) / 2)
    counts = pattern.sum(axis=1).astype(float)
    curve = Curve.of(rates, np.nanmean(runs, axis=1), counts, runs, None)
    assert np.log2(curve.optimum.fitted_rate / 1e-3) == pytest.approx(1.1, abs=1e-9)


def test_more_seeds_on_the_flanks_narrow_the_vertex() -> None:
    rng = np.random.default_rng(0)
    pattern = np.zeros((5, 8), dtype=bool)
    pattern[:, :2] = True
    pattern[[0, 4], :] = True
    widths = []
    for seeds in (2, 8):
        runs = parabola(1.0, pattern[:, :seeds], np.zeros(seeds)) + rng.normal(0, 0.005, (5, seeds))
        curve = of_depth({"one": (1e-3 * 2 ** (np.arange(5) / 2), runs)})["one"]
        widths.append(curve.optimum.octaves.high - curve.optimum.octaves.low)
    assert widths[1] < 0.6 * widths[0]


def test_arrays_and_tables_give_the_same_curves(cell_table: CellTable) -> None:
    rng = np.random.default_rng(0)
    cells = cell_table(seeds=(0, 1, 2), loop_counts=(1, 2)).query("panel == 'c'")
    cells = cells[(cells["seed"] == 0) | cells["base_lr"].isin([7.5e-4, 2e-3])]
    cells["val_loss"] += rng.normal(0, 0.003, len(cells))
    points = average_seeds(cells)
    table = curves(points, pooled_noise(cells, points))
    arrays = of_depth({key: (curve.rates, curve.runs) for key, curve in table.items()})
    for key, curve in table.items():
        assert arrays[key].optimum == curve.optimum
        assert arrays[key].noise == curve.noise


def test_a_difference_of_means_over_other_seeds_counts_the_error_of_their_offsets() -> None:
    pattern = np.array([[1, 1], [1, 1], [1, 0]], dtype=bool)
    curve = of_depth({"one": (np.array([1e-3, 2e-3, 4e-3]), parabola(0.5, pattern, np.zeros(2)))})["one"]
    assert difference_variance(curve, 0, curve, 1) == pytest.approx(1.0)
    # Least squares: the offset is known to 1/2 + 1/2 from two rates, and half of it is in one of the two means.
    assert difference_variance(curve, 0, curve, 2) == pytest.approx(1 / 2 + 1 + 1 / 4)


def test_the_looks_of_all_rounds_are_right_together_with_95_percent() -> None:
    steps = np.random.default_rng(0).normal(size=(looks.ROUNDS, 400_000))
    means = np.cumsum(steps, axis=0) / np.sqrt(np.arange(1, looks.ROUNDS + 1))[:, None]  # rounds of one size
    limits = ndtri(1 - np.array(looks.SPENT[1:]) / 2)
    missed = (np.abs(means) > limits[:, None]).any(axis=0).mean()
    assert missed == pytest.approx(0.05, abs=0.001)  # of 400,000 draws: three standard errors
    assert sum(looks.SPENT[1:]) < 0.06


def test_every_round_widens_the_intervals_to_the_level_that_it_spends(cell_table: CellTable) -> None:
    cells = cell_table(seeds=(0, 1, 2)).query("rule == 'linear'")
    cells["val_loss"] += np.random.default_rng(0).normal(0, 0.003, len(cells))
    widths = []
    for last in (0, 1):
        refined = cells.assign(round=np.where(cells["seed"] == 2, last, 0))
        points = average_seeds(refined)
        table = transfer_table(points, pooled_noise(refined, points))
        widths.append((table["fitted_shift_octaves_high"] - table["fitted_shift_octaves_low"])[1])
    assert widths[1] > 1.05 * widths[0]


def test_flanks_that_have_the_seeds_are_fitted_though_they_move_the_vertex_away() -> None:
    rates = 1e-3 * 2 ** (np.arange(6) / 2)
    counts = np.array([12.0, 1.0, 12.0, 1.0, 1.0, 12.0])
    losses = np.array([3.02, 3.0, 2.99, 2.98, 2.97, 3.4])  # steeper above, and the lowest is one run
    assert list(window(rates, losses, counts)) == [0, 1, 2, 3, 4, 5]
    counts[-1] = 1.0
    assert 5 not in window(rates, losses, counts)
