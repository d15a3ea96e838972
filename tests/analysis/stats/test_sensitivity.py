"""Learning-rate sensitivity is the mean loss above the lowest, whatever the spacing of the rates."""

import math

import numpy as np
import pytest

from analysis.stats.sensitivity import lr_sensitivity

RATES = np.array([1e-3, 2e-3, 4e-3])


def test_a_flat_curve_has_none_and_a_slope_has_half_its_height() -> None:
    assert lr_sensitivity(RATES, np.array([3.0, 3.0, 3.0]), 6.0) == 0
    assert lr_sensitivity(RATES, np.array([3.0, 3.1, 3.2]), 6.0) == pytest.approx(0.1)


def test_a_rate_between_two_others_on_their_line_changes_nothing() -> None:
    whole = lr_sensitivity(RATES, np.array([3.4, 3.0, 3.2]), 6.0)
    finer = np.insert(RATES, 1, np.sqrt(RATES[0] * RATES[1]))
    assert lr_sensitivity(finer, np.array([3.4, 3.2, 3.0, 3.2]), 6.0) == pytest.approx(whole)


def test_diverged_runs_count_as_a_fresh_model() -> None:
    assert lr_sensitivity(RATES, np.array([3.0, 3.0, math.inf]), 5.0) == pytest.approx(0.5)
    assert lr_sensitivity(RATES, np.array([3.0, 3.0, 9.0]), 5.0) == pytest.approx(0.5)
    assert math.isnan(lr_sensitivity(RATES, np.array([3.0, 3.0, math.inf]), math.nan))


def test_a_missing_run_leaves_it_unknown() -> None:
    assert math.isnan(lr_sensitivity(RATES, np.array([3.0, math.nan, 3.0]), 5.0))
