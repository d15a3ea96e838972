"""Lowest losses and shifts of stabilisers from planted sweeps: what counts, what collapsed, and what is missing."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis import plot_architectures
from analysis.plotting.labels import spread
from analysis.records.sources import validated
from analysis.stats.stabilisers import best_table, of_sweep
from sweeper.errors import UserError

Tables = Callable[..., tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]]
WithState = Callable[[pd.DataFrame, str, str], pd.DataFrame]
Store = Callable[..., Path]
KEY = ["architecture", "rule", "n_loops"]


@pytest.fixture(scope="module")
def cells(architecture_tables: Tables) -> pd.DataFrame:
    return architecture_tables(seeds=(0, 1, 2), steps=4)[0]


def draw(cells: pd.DataFrame, store: Store, folder: Path, *options: str) -> pd.DataFrame:
    """architectures.csv of a figure drawn from the cells."""
    results = store(folder, cells)
    argv = ["--results", str(results), "--out", str(folder), "--format", "svg", *options]
    assert plot_architectures.main(argv) == 0
    return pd.read_csv(folder / "architectures.csv").set_index(KEY).sort_index()


def table(cells: pd.DataFrame) -> pd.DataFrame:
    """The same without the figure."""
    return best_table(of_sweep(validated(cells, "architectures"))).set_index(KEY).sort_index()


def test_each_stabiliser_is_at_its_own_best_rate(cells: pd.DataFrame) -> None:
    found = table(cells)
    means = cells.groupby([*KEY, "base_lr"])["val_loss"].mean()
    for key, lowest in means.groupby(level=KEY).min().items():
        if found.loc[key, "state"] == "done":
            assert found.loc[key, "best_loss"] == pytest.approx(lowest)
            assert means[(*key, found.loc[key, "best_lr"])] == pytest.approx(lowest)
    assert found.loc[("plain", "none", 12), "best_lr"] < found.loc[("plain", "linear", 12), "best_lr"]


def test_planted_shift_is_recovered_with_an_interval(cells: pd.DataFrame) -> None:
    row = table(cells).loc[("plain", "none", 3)]
    planted = -0.6 * np.log2(3)
    assert row["fitted_shift_octaves"] == pytest.approx(planted, abs=0.15)
    assert row["fitted_shift_octaves_low"] < planted < row["fitted_shift_octaves_high"]
    assert row["best_loss_low"] < row["best_loss"] < row["best_loss_high"]


def test_a_cell_is_collapsed_only_if_no_rate_trains_with_every_seed(cells: pd.DataFrame) -> None:
    at = (cells["architecture"] == "FLT") & (cells["rule"] == "none") & (cells["n_loops"] == 12)
    one_seed = cells.assign(val_loss=cells["val_loss"].mask(at & (cells["seed"] == 1), 4.25))
    one_rate = cells.assign(val_loss=cells["val_loss"].mask(at & (cells["base_lr"] == 4e-3), 4.25))
    found = table(cells)
    assert found.loc[("LT", "none")]["state"].to_list() == ["done", "done", "done", "collapsed", "collapsed"]
    assert found.loc[("LT", "none", 12), ["runs", "finished", "collapsed"]].to_list() == [15, 15, 15]
    assert np.isnan(found.loc[("LT", "none", 12), "shift_octaves"])
    assert found.loc[("FLT", "none", 12), "state"] == "done"
    assert table(one_seed).loc[("FLT", "none", 12), "state"] == "collapsed"
    without_best = table(one_rate).loc[("FLT", "none", 12)]
    assert (without_best["state"], without_best["best_lr"]) == ("done", 2e-3)


def test_diverged_runs_count_as_collapsed_without_a_recorded_entropy(
    cells: pd.DataFrame, with_state: WithState
) -> None:
    unknown = with_state(cells.drop(columns="unigram_entropy"), "architecture == 'FLT' and n_loops == 9", "diverged")
    found = table(unknown)
    assert found.loc[("FLT", "none", 9), "state"] == "collapsed"
    assert found.loc[("LT", "none", 9), "state"] == "done"


def test_missing_runs_are_states_and_the_rest_is_drawn(
    cells: pd.DataFrame,
    with_state: WithState,
    store: Store,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    part = with_state(cells, "architecture == 'FLT' and rule == 'none' and n_loops == 6", "running")
    part = with_state(part, "architecture == 'LT' and n_loops == 12 and base_lr < 3e-3", "failed")
    part = with_state(part, "architecture == 'LT' and n_loops == 9 and seed == 2", "failed")
    part = with_state(part, "architecture == 'plain' and n_loops == 12 and base_lr > 3e-3", "pending")
    found = draw(part, store, tmp_path)
    assert found.loc[("FLT", "none", 6), "state"] == "running"
    assert found.loc[("LT", "none", 12), "state"] == "failed"  # these rates may yet train
    assert found.loc[("LT", "none", 9), "state"] == "collapsed"  # no rate can train with every seed
    assert found.loc[("plain", "linear", 12), ["state", "finished", "flag"]].to_list() == [
        "done",
        6,
        "at the edge: missing above",
    ]
    every_run = pd.read_csv(tmp_path / "architectures-runs.csv")
    assert len(every_run) == len(cells)
    assert every_run["fate"].value_counts()["collapsed"] > 0
    assert capsys.readouterr().out.count("collapsed") == 2  # and deepnorm at N = 12
    draw(with_state(cells, "seed >= 0", "pending"), store, tmp_path / "none")


def test_one_seed_has_losses_and_no_intervals(architecture_tables: Tables, store: Store, tmp_path: Path) -> None:
    found = draw(architecture_tables(steps=4)[0], store, tmp_path)
    trained = found[found["state"] == "done"]
    assert trained["best_loss"].notna().all()
    assert trained["best_loss_low"].isna().all()


def test_cost_is_of_one_run_and_missing_without_records(cells: pd.DataFrame, store: Store, tmp_path: Path) -> None:
    slow = cells.assign(step_seconds=cells["step_seconds"].mask(cells["seed"] == 0, 1e6))  # one busy machine
    found = table(slow)
    assert found.loc[("FLT", "none", 6), ["flops", "seconds"]].to_list() == [7e12, 6.5]
    bare = draw(cells.drop(columns=["flops", "step_seconds"]), store, tmp_path / "bare")
    assert bare[["flops", "seconds"]].isna().all(axis=None)


def test_a_run_shared_by_two_panels_counts_once(cells: pd.DataFrame) -> None:
    twice = pd.concat([cells, cells[cells["n_loops"] == 1].assign(panel="another")])
    assert table(twice).loc[("FLT", "none", 1), "runs"] == 15


def test_stabilisers_are_chosen_by_name_and_others_are_refused(
    cells: pd.DataFrame, store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = draw(cells, store, tmp_path, "--stabilisers", "FLT/linear,deepnorm/none")
    assert {key[:2] for key in found.index} == {("FLT", "linear"), ("deepnorm", "none")}
    argv = ["--results", str(tmp_path), "--out", str(tmp_path), "--stabilisers", "FLT/sqrt"]
    assert plot_architectures.main(argv) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: --stabilisers 'FLT/sqrt' is not in this sweep; choose of plain/none, plain/linear")
    assert error.count("\n") == 1


def test_another_axis_is_refused_by_name(cells: pd.DataFrame) -> None:
    deeper = pd.concat([cells, cells.assign(n_layers=4, run_id="4-" + cells["run_id"])])
    with pytest.raises(UserError, match=r"varies n_layers \(2, 4\)"):
        of_sweep(deeper)


@given(st.lists(st.floats(0, 10), max_size=12), st.floats(0.01, 3))
def test_labels_stand_apart_in_the_order_of_their_curves(heights: list[float], distance: float) -> None:
    found = spread(heights, distance, 0.0, 10.0)
    room = 10.0 / max(len(heights) - 1, 1)
    gaps = np.diff(found[np.argsort(heights, kind="stable")])
    assert (gaps >= min(distance, room) - 1e-9).all()
    assert ((found >= -1e-9) & (found <= 10.0 + 1e-9)).all()


def test_labels_move_only_where_they_are_too_close() -> None:
    assert spread([5.0, 5.0, 9.0], 1.0, 0.0, 10.0) == pytest.approx([4.5, 5.5, 9.0])
    assert spread([0.0, 0.2], 1.0, 0.0, 10.0) == pytest.approx([0.0, 1.0])


@given(low=st.floats(1e-3, 1e15), octaves=st.floats(1.3, 12))
def test_cost_axis_has_few_round_ticks_within_its_ends(low: float, octaves: float) -> None:
    ticks = plot_architectures.log_ticks(low, low * 2**octaves)
    assert 2 <= len(ticks) <= 5
    assert all(low <= tick <= low * 2**octaves for tick in ticks)
    assert ticks == sorted(ticks)
