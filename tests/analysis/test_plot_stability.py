"""Collapse against calm from planted curves: which runs are drawn, what is measured on them, and what is missing."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import plot_stability

Tables = Callable[..., tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]]
WithState = Callable[[pd.DataFrame, str, str], pd.DataFrame]
Store = Callable[..., Path]
KEY = ["architecture", "rule", "n_loops"]


@pytest.fixture(scope="module")
def tables(architecture_tables: Tables) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Cells and curves."""
    return architecture_tables(loop_counts=(1, 3, 6, 12), rates=(2e-3, 4e-3, 8e-3), steps=200)[:2]


def draw(cells: pd.DataFrame, curves: pd.DataFrame, store: Store, folder: Path, *options: str) -> pd.DataFrame:
    """stability-runs.csv of a figure drawn from the tables."""
    results = store(folder, cells, curves)
    argv = ["--results", str(results), "--out", str(folder), "--format", "svg", *options]
    assert plot_stability.main(argv) == 0
    return pd.read_csv(folder / "stability-runs.csv")


@pytest.fixture(scope="module")
def drawn(tables: tuple[pd.DataFrame, pd.DataFrame], store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a figure with the default options."""
    folder = tmp_path_factory.mktemp("stability")
    draw(*tables, store, folder)
    return folder


def test_core_runs_are_drawn_at_their_best_rate_and_the_papers_loop_counts(
    tables: tuple[pd.DataFrame, pd.DataFrame], drawn: Path, store: Store, tmp_path: Path
) -> None:
    runs = pd.read_csv(drawn / "stability-runs.csv")
    assert set(runs["n_loops"]) == {6, 12}
    assert set(runs["architecture"]) == {"plain", "LT", "FLT"}
    rates = runs.set_index(KEY)["base_lr"]
    assert (rates["plain", "none", 6], rates["plain", "linear", 6]) == (2e-3, 4e-3)
    every = draw(*tables, store, tmp_path, "--stabilisers", "all", "--loops", "3", "--rate", "0.008")
    assert set(every["n_loops"]) == {3}
    assert "deepnorm" in set(every["architecture"])
    assert set(every["base_lr"]) == {8e-3}


def test_lines_are_medians_of_every_step_and_hold_the_range_of_the_gradient_norm(
    tables: tuple[pd.DataFrame, pd.DataFrame], drawn: Path
) -> None:
    curves = tables[1]
    lines = pd.read_csv(drawn / "stability.csv")
    assert lines.groupby("run_id").size().max() <= plot_stability.POINTS
    of_run = curves[curves["run_id"] == lines["run_id"].iloc[0]].set_index("step")
    line = lines[lines["run_id"] == lines["run_id"].iloc[0]].set_index("step")
    pair = of_run.loc[[4, 5]]  # 201 steps in intervals of two
    assert line.loc[5, "loss"] == pytest.approx(pair["loss"].median())
    ends = line.loc[5, ["grad_norm_low", "grad_norm_high"]].to_list()
    assert ends == pytest.approx([pair["grad_norm"].min(), pair["grad_norm"].max()])
    norms = pd.read_csv(drawn / "stability-loops.csv")
    assert norms.groupby("n_loops")["loop"].max().to_dict() == {6: 6, 12: 12}


def test_collapse_grows_over_loops_and_oscillates_more(drawn: Path) -> None:
    runs = pd.read_csv(drawn / "stability-runs.csv").set_index(KEY)
    lost, calm = runs.loc[("LT", "none", 12)], runs.loc[("FLT", "none", 12)]
    assert (lost["fate"], calm["fate"]) == ("collapsed", "done")
    assert lost["norm_growth_decades"] > 2 * calm["norm_growth_decades"]
    assert lost["grad_norm_std"] > 2 * calm["grad_norm_std"]


def test_only_the_first_steps_are_drawn(
    tables: tuple[pd.DataFrame, pd.DataFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plot_stability, "FIRST_STEPS", 100)
    assert plot_stability.first_steps(*tables)["step"].max() == 100


def test_unfinished_runs_are_listed_and_what_they_recorded_is_drawn(
    tables: tuple[pd.DataFrame, pd.DataFrame], with_state: WithState, store: Store, tmp_path: Path
) -> None:
    cells, curves = tables
    part = with_state(cells, "architecture == 'FLT' and rule == 'none' and n_loops == 12", "running")
    part = with_state(part, "architecture == 'LT' and n_loops == 6", "pending")
    curves = curves[~curves["run_id"].str.startswith("LT-none-6-")]
    runs = draw(part, curves[curves["step"] < 100], store, tmp_path).set_index(KEY)
    assert runs.loc[("FLT", "none", 12), "fate"] == "running"
    lines = pd.read_csv(tmp_path / "stability.csv").set_index(KEY)
    assert lines.loc[("FLT", "none", 12), "loss"].notna().all()
    assert np.isnan(lines.loc[("LT", "none", 6), "loss"])


def test_sweep_without_diagnostics_is_drawn_and_says_so(
    tables: tuple[pd.DataFrame, pd.DataFrame], with_state: WithState, store: Store, tmp_path: Path
) -> None:
    cells, curves = tables
    bare = draw(cells, curves[["run_id", "step", "loss"]], store, tmp_path)
    assert bare[["norm_growth_decades", "grad_norm_std"]].isna().all(axis=None)
    assert pd.read_csv(tmp_path / "stability.csv")["loss"].notna().all()
    draw(with_state(cells, "seed == 0", "pending"), curves.iloc[:0], store, tmp_path / "none", "--loops", "3")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--loops", "6,7"], "--loops: '7' is not in this sweep; choose of 1, 3, 6, 12"),
        (["--rate", "0.5"], "--rate 0.5: 0.5 is not in this sweep's grid; choose best or one of 0.002, 0.004, 0.008"),
        (["--rate", "fast"], "--rate: 'fast' is not best, base or a number"),
    ],
)
def test_a_wrong_value_is_named_in_one_line(
    options: list[str],
    error: str,
    tables: tuple[pd.DataFrame, pd.DataFrame],
    store: Store,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    results = store(tmp_path, *tables)
    assert plot_stability.main(["--results", str(results), "--out", str(tmp_path), *options]) == 2
    assert capsys.readouterr().err == f"error: {error}\n"
