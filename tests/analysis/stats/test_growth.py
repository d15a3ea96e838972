"""Exponents: what is planted is found, per replica, and a range that is not covered has none."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.stats.growth import estimate_text, fitted_growth, fold_range

COUNTS = (1, 2, 4, 8, 16, 32, 64)


def planted(powers: list[float]) -> pd.DataFrame:
    rows = [(n, seed, 0.3 * (seed + 1) * n**power) for seed, power in enumerate(powers) for n in COUNTS]
    return pd.DataFrame(rows, columns=["n", "seed", "y"])


@given(powers=st.lists(st.floats(-2.0, 2.0), min_size=2, max_size=5))
def test_planted_powers_are_recovered_seed_by_seed(powers: list[float]) -> None:
    found = fitted_growth(planted(powers), "n", "y", "seed", (4, 64))
    assert found.slope == pytest.approx(np.mean(powers), abs=1e-9)
    assert found.sem == pytest.approx(np.std(powers, ddof=1) / np.sqrt(len(powers)), abs=1e-9)
    assert found.replicas == len(powers)


def test_one_seed_has_a_slope_and_no_error() -> None:
    found = fitted_growth(planted([0.5]), "n", "y", "seed", (16, 64))
    assert found.slope == pytest.approx(found.slope_of_mean) == pytest.approx(0.5)
    assert np.isnan(found.sem)
    assert estimate_text(found.slope, found.sem) == "0.50"


def test_seed_that_lacks_a_point_of_the_range_is_left_out() -> None:
    table = planted([1.0, 0.5])
    table.loc[(table["seed"] == 0) & (table["n"] == 32), "y"] = np.inf
    assert fitted_growth(table, "n", "y", "seed", (16, 64)).slope == pytest.approx(0.5)
    assert fitted_growth(table, "n", "y", "seed", (1, 16)).slope == pytest.approx(0.75)


@pytest.mark.parametrize("between", [(16, 128), (3, 64), (64, 64)])
def test_range_whose_ends_are_not_in_the_grid_has_no_slope(between: tuple[int, int]) -> None:
    assert np.isnan(fitted_growth(planted([1.0]), "n", "y", "seed", between).slope)


def test_range_of_an_incomplete_curve_is_unknown() -> None:
    assert fold_range(pd.Series([1.0, 4.0, 2.0])) == 4.0
    assert np.isnan(fold_range(pd.Series([1.0, np.nan])))
