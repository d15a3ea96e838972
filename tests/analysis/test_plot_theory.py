"""The theory's figure from planted draws: exponents, the smallest bounded α, and what is missing."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import plot_theory

WithState = Callable[[pd.DataFrame, str, str], pd.DataFrame]
TheoryTables = Callable[..., tuple[pd.DataFrame, pd.DataFrame]]
Store = Callable[..., Path]


def draw(results: Path, out: Path) -> pd.DataFrame:
    assert plot_theory.main(["--results", str(results), "--out", str(out), "--format", "png"]) == 0
    return pd.read_csv(out / "theory-exponents.csv")


def test_planted_exponents_and_the_smallest_bounded_alpha_are_found(
    theory_tables: TheoryTables, store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = draw(store(tmp_path, *theory_tables()), tmp_path)
    energies = found[found["quantity"] == "branch_energy"].set_index("panel")
    assert energies["slope"].to_dict() == pytest.approx({"shared": 2.0, "independent": 1.0}, abs=1e-9)
    assert energies["draws"].to_list() == [3, 3]
    assert energies["slope_sem"].to_list() == pytest.approx([0.0, 0.0], abs=1e-9)
    of_alpha = found[found["panel"] == "alpha"]
    assert of_alpha["slope"].to_list() == pytest.approx([1.0, 0.75, 0.5, 0.25, 0.0, -0.25])
    assert of_alpha[["from", "to"]].drop_duplicates().to_numpy().tolist() == [[256, 512]]
    printed = capsys.readouterr().out
    assert "smallest alpha that keeps R bounded: 1\n" in printed
    assert "no_loop_factor: R from 1 to 16 over N and L" in printed


@pytest.mark.parametrize(
    ("slopes", "smallest"),
    [([1.0, 0.11, 0.09], 2), ([0.0, 0.5, 0.0], 2), ([1.0, 1.0, 1.0], np.nan), ([1.0, np.nan, 0.0], np.nan)],
)
def test_alpha_is_bounded_if_no_larger_one_contradicts(slopes: list[float], smallest: float) -> None:
    table = pd.DataFrame({"panel": "alpha", "alpha": [0, 1, 2], "slope": slopes})
    table["bounded"] = [plot_theory.is_bounded(slope) for slope in slopes]
    assert plot_theory.smallest_bounded(table) == pytest.approx(smallest, nan_ok=True)


def test_unfinished_points_are_shown_and_leave_their_exponent_unknown(
    theory_tables: TheoryTables, with_state: WithState, store: Store, tmp_path: Path
) -> None:
    cells, curves = theory_tables()
    cells = with_state(cells, "panel == 'shared' and n_loops == 512", "failed")
    cells = with_state(cells, "panel == 'factored'", "pending")
    found = draw(store(tmp_path, cells, curves), tmp_path).set_index("panel")
    assert np.isnan(found.loc["shared", "slope"])
    assert found.loc["independent", "slope"] == pytest.approx(1.0)
    draws = pd.read_csv(tmp_path / "theory.csv")
    assert draws.query("panel == 'factored'")["state"].eq("pending").all()
    draw(store(tmp_path / "none", with_state(cells, "seed == 0", "pending"), curves.iloc[:0]), tmp_path)
