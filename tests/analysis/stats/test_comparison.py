"""Stabilisers side by side: their curves, with collapsed runs as diverged, and what each learns at its best rate."""

import math

import numpy as np
import pandas as pd
import pytest

from analysis.stats.comparison import Stabiliser, as_panels, at_best_rate, curves, learned_at_best, select
from analysis.stats.transfer import best_gain

ENTROPY = 4.25
RATES = (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2)
PLAIN, FLT = Stabiliser("plain", "linear"), Stabiliser("FLT", "none")


def table(seeds: tuple[int, ...] = (0, 1, 2)) -> pd.DataFrame:
    """Plain with linear is best at 4e-3 with 2.6, FLT at 8e-3 with 2.5; FLT collapses at the highest rate."""
    rows = [
        (*stabiliser, 2, rate, seed, best + 0.1 * np.log2(rate / at) ** 2 + 0.01 * seed)
        for stabiliser, at, best in ((PLAIN, 4e-3, 2.6), (FLT, 8e-3, 2.5))
        for rate in RATES
        for seed in seeds
    ]
    cells = pd.DataFrame(rows, columns=["architecture", "rule", "n_loops", "base_lr", "seed", "val_loss"])
    cells["run_id"] = cells["architecture"] + "-" + cells["base_lr"].map(str) + "-" + cells["seed"].map(str)
    noise = dict(zip(cells["run_id"], np.random.default_rng(1).normal(0, 1e-3, len(cells)), strict=True))
    cells["val_loss"] += cells["run_id"].map(noise)
    cells.loc[(cells["architecture"] == "FLT") & (cells["base_lr"] == RATES[-1]), "val_loss"] = ENTROPY - 0.01
    return cells.assign(panel="any", n_layers=1, depth_multiplier=1.0, state="done", unigram_entropy=ENTROPY)


def test_a_stabiliser_is_an_architecture_with_a_rule() -> None:
    cells = table()
    assert str(FLT) == "FLT, none"
    assert set(select(cells, FLT)["architecture"]) == {"FLT"}
    assert len(select(cells, FLT, PLAIN)) == len(cells)
    assert select(cells, Stabiliser("FLT", "linear"), Stabiliser("plain", "none")).empty
    assert select(cells.assign(depth_multiplier=2.0), FLT).empty


def test_what_is_learned_is_read_at_the_best_rate_of_its_own() -> None:
    for stabiliser, rate, loss in ((PLAIN, 4e-3, 2.6), (FLT, 8e-3, 2.5)):
        cells = select(table(), stabiliser)
        assert set(at_best_rate(cells)["base_lr"]) == {rate}
        assert at_best_rate(cells)["seed"].tolist() == [0, 1, 2]
        learned = learned_at_best(cells)
        assert learned.value == pytest.approx(ENTROPY - loss - 0.01, abs=2e-3)
        assert learned.low < learned.value < learned.high
    assert not learned_at_best(select(table(seeds=(0,)), FLT)).has_interval


def test_collapsed_runs_are_diverged_points_of_a_curve() -> None:
    found = curves(table())
    assert set(found) == {("plain, linear", 2), ("FLT, none", 2)}
    flt = found["FLT, none", 2]
    assert flt.losses[-1] == math.inf
    assert flt.optimum.rate == 8e-3
    assert flt.optimum.flag == "at the edge: diverged above"
    gain = best_gain(found["plain, linear", 2], flt)
    assert gain.value == pytest.approx(0.1, abs=2e-3)
    assert gain.low > 0.09  # the offsets of the seeds, 0.01 apart, are removed


def test_runs_that_stand_under_several_names_or_panels_count_once() -> None:
    cells = table()
    twice = pd.concat([cells, cells.assign(panel="other")], ignore_index=True)
    assert len(as_panels(twice)) == len(cells)
    assert curves(twice)["FLT, none", 2].noise == curves(cells)["FLT, none", 2].noise
