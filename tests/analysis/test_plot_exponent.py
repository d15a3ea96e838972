"""The exponent's figure from planted sweeps: shifts, where they cross zero, and what is missing."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis import plot_exponent

ExponentTable = Callable[..., pd.DataFrame]
WithState = Callable[[pd.DataFrame, str, str], pd.DataFrame]
Store = Callable[..., Path]


def shifts(cells: pd.DataFrame, store: Store, folder: Path) -> pd.DataFrame:
    results = store(folder, cells)
    assert plot_exponent.main(["--results", str(results), "--out", str(folder), "--format", "png"]) == 0
    return pd.read_csv(folder / "exponent-shift.csv").set_index("alpha")


def test_planted_shift_and_its_zero_are_recovered(
    exponent_table: ExponentTable, store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = shifts(exponent_table(zero=0.9), store, tmp_path)
    planted = {alpha: 0.9 - alpha for alpha in table.index}
    assert table["fitted_shift"].to_dict() == pytest.approx(planted, abs=1e-6)
    # The grid's rates are an octave apart and N spans three doublings: each end is off by half an octave at most.
    assert table["grid_shift"].to_dict() == pytest.approx(planted, abs=1 / 3)
    assert "fitted: zero at alpha = 0.90 (theory: 1)" in capsys.readouterr().out


def test_interval_of_the_shift_is_there_with_several_seeds_only(
    exponent_table: ExponentTable, store: Store, tmp_path: Path
) -> None:
    cells = exponent_table(seeds=(0, 1, 2))
    noise = np.random.default_rng(0).normal(0, 0.002, len(cells))
    table = shifts(cells.assign(val_loss=cells["val_loss"] + noise), store, tmp_path)
    width = table["fitted_shift_high"] - table["fitted_shift_low"]
    assert width.between(0.001, 0.5).all()
    assert ((table["fitted_shift"] - (1 - table.index)).abs() < width).all()
    assert shifts(exponent_table(), store, tmp_path / "one")["fitted_shift_low"].isna().all()


@given(zero=st.floats(0.01, 1.2), slope=st.floats(0.1, 3.0))
def test_straight_line_crosses_zero_where_it_does(zero: float, slope: float) -> None:
    alphas = [0.0, 0.25, 0.5, 0.75, 1.0, 1.25]
    found = plot_exponent.zero_crossings(alphas, [slope * (zero - alpha) for alpha in alphas])
    assert found == pytest.approx([zero])


@pytest.mark.parametrize(
    ("values", "found"),
    [([1.0, 0.0, -1.0], [1.0]), ([1.0, np.nan, -1.0], [1.0]), ([1.0, 0.5, 0.1], []), ([-1.0, 1.0, -1.0], [0.5, 1.5])],
)
def test_every_zero_is_listed_and_gaps_are_bridged(values: list[float], found: list[float]) -> None:
    assert plot_exponent.zero_crossings([0.0, 1.0, 2.0], values) == pytest.approx(found)


def test_missing_points_are_counted_and_the_rest_is_drawn(
    exponent_table: ExponentTable, with_state: WithState, store: Store, tmp_path: Path
) -> None:
    cells = with_state(exponent_table(), "rule == 'alpha=1.25' and n_loops > 1", "pending")
    cells = with_state(cells, "rule == 'alpha=0.5' and n_loops == 8 and base_lr > 3e-2", "diverged")
    table = shifts(cells, store, tmp_path)
    assert np.isnan(table.loc[1.25, "fitted_shift"])
    assert (table.loc[1.25, "fitted_loops"], table.loc[1.25, "loops"]) == (1, 4)
    assert (table.loc[0.5, "fitted_loops"], table.loc[0.5, "grid_loops"]) == (3, 4)
    assert len(pd.read_csv(tmp_path / "exponent.csv")) == len(cells)
    shifts(with_state(cells, "seed == 0", "pending"), store, tmp_path / "none")


def test_sweep_without_exponents_is_refused(
    exponent_table: ExponentTable, store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = store(tmp_path, exponent_table().iloc[:1].assign(rule="linear"))
    assert plot_exponent.main(["--results", str(results), "--out", str(tmp_path)]) == 2
    assert "its rule 'linear' has no exponent alpha" in capsys.readouterr().err
