"""Losses at other loop counts from planted read-outs: one per run and N_test, and what is missing."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import plot_test_time

Tables = Callable[..., tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]]
WithState = Callable[[pd.DataFrame, str, str], pd.DataFrame]
Store = Callable[..., Path]
KEY = ["architecture", "rule", "n_loops"]


@pytest.fixture(scope="module")
def tables(architecture_tables: Tables) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Cells and read-outs."""
    cells, _, readouts = architecture_tables(seeds=(0, 1), steps=4)
    return cells, readouts


def draw(cells: pd.DataFrame, readouts: pd.DataFrame, store: Store, folder: Path, *options: str) -> pd.DataFrame:
    """test_time.csv of a figure drawn from the tables."""
    results = store(folder, cells, None, readouts)
    argv = ["--results", str(results), "--out", str(folder), "--format", "svg", *options]
    assert plot_test_time.main(argv) == 0
    return pd.read_csv(folder / "test_time.csv").set_index(KEY)


def test_every_run_has_a_loss_per_test_loop_count_and_its_own_at_n(
    tables: tuple[pd.DataFrame, pd.DataFrame], store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    losses = draw(*tables, store, tmp_path)
    of_nine = losses.loc[("FLT", "none", 9)]
    assert sorted(set(of_nine["test_loops"])) == [1, 3, 4, 6, 9, 12, 18]
    own = of_nine[of_nine["test_loops"] == 9].set_index("run_id")["test_loss"]
    trained = tables[0].set_index("run_id")["val_loss"]
    assert own.to_dict() == trained[own.index].to_dict()
    assert len(own) == 2  # seeds, at the best rate
    assert "+0.20" in capsys.readouterr().out  # an octave of loops, as planted


def test_a_collapsed_cell_is_drawn_at_its_losses(
    tables: tuple[pd.DataFrame, pd.DataFrame], store: Store, tmp_path: Path
) -> None:
    losses = draw(*tables, store, tmp_path)
    assert set(losses.loc[("LT", "none", 12), "fate"]) == {"collapsed"}
    assert losses.loc[("LT", "none", 12), "test_loss"].min() > 4.2


@pytest.mark.parametrize("worst", [50.0, np.inf])
def test_a_loss_far_above_the_unigram_entropy_leaves_the_axis_alone(
    worst: float, tables: tuple[pd.DataFrame, pd.DataFrame], store: Store, tmp_path: Path
) -> None:
    cells, readouts = tables
    exploded = readouts.assign(mean=readouts["mean"].mask(readouts["i"] == 24, worst))
    losses = draw(cells, exploded, store, tmp_path).reset_index()
    low, high = plot_test_time.limits(losses)
    assert low < losses["test_loss"].min()
    assert 4.26 < high < 5.0
    unknown = losses.assign(unigram_entropy=np.nan)
    assert plot_test_time.limits(unknown)[1] > (50.0 if np.isfinite(worst) else 5.0)


def test_every_loss_at_the_trained_loop_count_is_within_the_axis() -> None:
    columns = ["n_loops", "test_loops", "test_loss", "unigram_entropy"]
    losses = pd.DataFrame([(1, 1, 5.1, 4.2), (1, 6, 9.0, 4.2), (6, 6, 5.5, 4.2), (6, 1, np.nan, 4.2)], columns=columns)
    low, high = plot_test_time.limits(losses)
    assert low < 5.1 < 5.5 < high < 6


def test_runs_without_read_outs_are_rows_with_their_state(
    tables: tuple[pd.DataFrame, pd.DataFrame], with_state: WithState, store: Store, tmp_path: Path
) -> None:
    cells, readouts = tables
    part = with_state(cells, "architecture == 'FLT' and rule == 'none' and n_loops == 6", "failed")
    part = with_state(part, "architecture == 'FLT' and rule == 'none' and n_loops == 9 and seed == 1", "running")
    losses = draw(part, readouts, store, tmp_path)
    missing = losses[losses["test_loss"].isna()]
    assert missing["fate"].value_counts().to_dict() == {"failed": 2, "running": 1}
    norms = readouts.assign(readout="residual_norm")
    assert draw(cells, norms, store, tmp_path / "old")["test_loss"].isna().all()
    draw(with_state(cells, "seed >= 0", "pending"), readouts, store, tmp_path / "none")
