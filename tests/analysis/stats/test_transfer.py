"""Optima, shifts and regrets: what is planted is found, and what cannot be known is said."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.stats.curves import Curve
from analysis.stats.intervals import Noise
from analysis.stats.optimum import curve_optimum
from analysis.stats.transfer import (
    analyse,
    average_seeds,
    gain_table,
    pooled_noise,
    transfer_regret,
    transfer_table,
)

PAPER_RATES = np.array([5, 7.5, 10, 12.5, 15, 20, 30, 40]) * 1e-4
OCTAVE_RATES = 2e-3 * 2.0 ** np.arange(6)
NAN, INF = float("nan"), float("inf")

CellTable = Callable[..., pd.DataFrame]
WithState = Callable[[pd.DataFrame, str, str], pd.DataFrame]


def regret_of(rates: np.ndarray, losses: np.ndarray, reference_rate: float) -> float:
    curve = Curve.of(rates, losses, np.ones_like(rates), losses[:, None], noise=None)
    return transfer_regret(curve, reference_rate).value


@given(
    rates=st.sampled_from([PAPER_RATES, OCTAVE_RATES]),
    position=st.floats(0.0, 1.0),
    curvature=st.floats(1e-3, 10.0),
    floor=st.floats(0.1, 12.0),
)
def test_planted_parabola_is_recovered(rates: np.ndarray, position: float, curvature: float, floor: float) -> None:
    x = np.log2(rates)
    lowest, highest = (
        (x[0] + x[1]) / 2 + 1e-6,
        (x[-2] + x[-1]) / 2 - 1e-6,
    )  # else the grid minimum is at an end
    vertex = lowest + position * (highest - lowest)
    found = curve_optimum(rates, floor + curvature * (x - vertex) ** 2)
    assert found.flag == ""
    # Losses carry 1e-15 relative rounding; through the flattest curvature that is 1e-9 octaves.
    assert np.log2(found.fitted_rate) == pytest.approx(vertex, abs=1e-6)
    assert found.fitted_loss == pytest.approx(floor, abs=1e-9)


@given(losses=st.lists(st.floats(0.1, 12.0), min_size=6, max_size=6))
def test_fitted_vertex_stays_within_half_a_gap_of_the_grid_minimum(losses: list[float]) -> None:
    found = curve_optimum(OCTAVE_RATES, np.array(losses))
    assert found.loss == min(losses)
    if found.flag == "":
        assert abs(np.log2(found.fitted_rate / found.rate)) <= 0.5 + 1e-9  # rates are an octave apart
        assert found.fitted_loss <= found.loss + 1e-12
    else:
        assert np.isnan([found.fitted_rate, found.fitted_loss]).all()


@pytest.mark.parametrize(
    ("losses", "flag"),
    [
        ([3.0, 3.1, 3.2, 3.3], "at the edge: grid ends below"),
        ([3.3, 3.2, 3.1, 3.0], "at the edge: grid ends above"),
        ([3.1, 3.0, NAN, 3.2], "at the edge: missing above"),
        ([NAN, 3.0, 3.1, 3.2], "at the edge: missing below"),
        ([3.1, 3.0, INF, INF], "at the edge: diverged above"),
        ([NAN, 3.0, INF, NAN], "at the edge: missing below, diverged above"),
        ([3.0, NAN, NAN, NAN], "at the edge: grid ends below, missing above"),
        ([3.0, 3.0, 3.0, 3.0], "at the edge: grid ends below"),
        ([INF, INF, NAN, INF], "all finished runs diverged"),
        ([NAN, NAN, NAN, NAN], "no results"),
    ],
)
def test_optimum_not_enclosed_is_flagged_with_its_cause(losses: list[float], flag: str) -> None:
    found = curve_optimum(OCTAVE_RATES[:4], np.array(losses))
    assert found.flag == flag
    assert np.isnan(found.fitted_rate)


@given(vertex=st.floats(-3.0, 3.0), curvature=st.floats(1e-3, 1.0))
def test_concave_curve_has_no_vertex_and_is_flagged(vertex: float, curvature: float) -> None:
    x = np.log2(OCTAVE_RATES)
    found = curve_optimum(OCTAVE_RATES, 4.0 - curvature * (x - x.mean() - vertex) ** 2)
    assert found.flag.startswith("at the edge: grid ends")
    assert np.isnan(found.fitted_rate)


def test_equal_losses_choose_the_lower_rate() -> None:
    assert curve_optimum(OCTAVE_RATES[:4], np.array([3.2, 3.0, 3.0, 3.2])).rate == OCTAVE_RATES[1]


def test_diverged_neighbour_is_infinite_loss_not_a_gap() -> None:
    rates, losses = OCTAVE_RATES[:4], np.array([3.1, 3.0, INF, NAN])
    assert regret_of(rates, losses, rates[0]) == pytest.approx(0.1)
    assert regret_of(rates, losses, rates[2]) == INF
    assert np.isnan(regret_of(rates, losses, rates[3]))
    assert np.isnan(regret_of(rates, losses, 1.0))  # not a rate of this grid
    assert regret_of(rates, np.full(4, INF), rates[0]) == INF


@given(
    losses=st.lists(st.one_of(st.floats(0.1, 12.0), st.just(INF), st.just(NAN)), min_size=6, max_size=6),
    at=st.integers(0, 5),
)
def test_regret_is_never_negative(losses: list[float], at: int) -> None:
    regret = regret_of(OCTAVE_RATES, np.array(losses), OCTAVE_RATES[at])
    assert np.isnan(regret) == np.isnan(losses[at])
    assert np.isnan(regret) or regret >= 0


def test_shift_is_in_octaves_of_the_optimum_at_one_loop(cell_table: CellTable) -> None:
    table = transfer_table(average_seeds(cell_table())).set_index(["panel", "n_loops"])
    # Planted: half an octave per doubling. The grid can follow only from rate to rate; the parabola through a
    # slightly cubic curve is off by far less than a tenth of an octave.
    assert table.loc[("a", 1), "optimum_lr"] == 1.25e-3
    assert table.loc[("a", 4), "shift_octaves"] == pytest.approx(np.log2(3e-3 / 1.25e-3))
    for n, octaves in [(1, 0.0), (2, 0.5), (4, 1.0)]:
        assert table.loc[("a", n), "fitted_shift_octaves"] == pytest.approx(octaves, abs=0.1)
        assert table.loc[("b", n), "fitted_shift_octaves"] == pytest.approx(0.0, abs=1e-9)


def test_regret_is_zero_where_the_optimum_is_shared_and_positive_where_it_moved(
    cell_table: CellTable,
) -> None:
    table = transfer_table(average_seeds(cell_table())).set_index(["panel", "n_loops"])
    assert (table.loc[["b", "c", "d"], "regret_nats"] == 0).all()
    assert (table.loc["a"].loc[[2, 4, 8], "regret_nats"] > 0).all()


def test_table_tells_diverged_from_missing(cell_table: CellTable, with_state: WithState) -> None:
    cells = with_state(cell_table(), "panel == 'b' and n_loops == 8 and base_lr >= 1.25e-3", "diverged")
    cells = with_state(cells, "panel == 'c' and n_loops == 8 and base_lr >= 1.25e-3", "failed")
    table = transfer_table(average_seeds(cells)).set_index(["panel", "n_loops"])
    diverged, missing = table.loc[("b", 8)], table.loc[("c", 8)]
    assert (diverged["finished"], diverged["diverged"], diverged["expected"]) == (8, 5, 8)
    assert (missing["finished"], missing["diverged"], missing["expected"]) == (3, 0, 8)
    assert diverged["regret_nats"] == INF
    assert np.isnan(missing["regret_nats"])
    assert (diverged["flag"], missing["flag"]) == (
        "at the edge: diverged above",
        "at the edge: missing above",
    )


def test_without_one_loop_shift_and_regret_are_unknown(cell_table: CellTable) -> None:
    table = transfer_table(average_seeds(cell_table(loop_counts=(2, 4))))
    assert table["optimum_lr"].notna().all()
    assert table[["shift_octaves", "fitted_shift_octaves", "regret_nats"]].isna().all(axis=None)


def test_seeds_are_averaged_before_anything_else(cell_table: CellTable, with_state: WithState) -> None:
    cells = cell_table(seeds=(0, 1, 2))
    first = "panel == 'a' and n_loops == 1 and base_lr == "
    cells = with_state(cells, first + "5e-4 and seed == 1", "diverged")
    cells = with_state(cells, first + "7.5e-4 and seed == 1", "running")
    points = average_seeds(cells).set_index(["panel", "n_loops", "base_lr"])
    expected = cells.query(first + "1e-3")["val_loss"].mean()
    whole, diverged, partial = (points.loc[("a", 1, rate)] for rate in (1e-3, 5e-4, 7.5e-4))
    assert whole["val_loss"] == pytest.approx(expected, abs=1e-12)
    assert (whole["state"], whole["seeds"], whole["seeds_expected"]) == ("done", 3, 3)
    assert (diverged["val_loss"], diverged["state"], diverged["seeds"]) == (INF, "diverged", 3)
    assert np.isfinite(partial["val_loss"])
    assert (partial["state"], partial["seeds"], partial["seeds_expected"]) == ("running", 2, 3)


def noisy(cells: pd.DataFrame, sd: float) -> pd.DataFrame:
    """With independent noise for every run; a run that stands in two panels keeps one loss."""
    runs = sorted(set(cells["run_id"]))
    noise = dict(zip(runs, np.random.default_rng(0).normal(0, sd, len(runs)), strict=True))
    return cells.assign(val_loss=cells["val_loss"] + cells["run_id"].map(noise))


def test_common_offsets_of_seeds_leave_no_noise(cell_table: CellTable) -> None:
    cells = cell_table(seeds=(0, 1, 2))  # planted with an offset of every seed, and nothing else
    for depth in pooled_noise(cells, average_seeds(cells)).values():
        assert depth.within.sd == pytest.approx(0.0, abs=1e-12)
        assert depth.between.sd == pytest.approx(0.0, abs=1e-12)


def test_a_seed_that_is_missing_does_not_tilt_the_means(cell_table: CellTable, with_state: WithState) -> None:
    cells = cell_table(seeds=(0, 1, 2))
    cells["val_loss"] += cells["seed"] * 0.5  # far more than any difference between rates
    whole = average_seeds(cells)
    half = average_seeds(with_state(cells, "seed == 2 and base_lr > 1.25e-3 and panel != 'd'", "running"))
    assert half["val_loss"].to_numpy() == pytest.approx(whole["val_loss"].to_numpy(), abs=1e-9)


def test_noise_is_that_of_distinct_runs_near_the_optima(cell_table: CellTable) -> None:
    cells = noisy(cell_table(seeds=tuple(range(8))), 0.004)
    cells.loc[cells["base_lr"] > 3.5e-3, "val_loss"] += 0.3 * (cells["seed"] % 2)  # a wild end of every curve
    noise = pooled_noise(cells[cells["rule"] == "linear"], average_seeds(cells[cells["rule"] == "linear"]))
    for depth in noise.values():
        assert depth.within.sd == pytest.approx(0.004, rel=0.3)
        assert depth.between.sd == pytest.approx(0.004, rel=0.3)
    both_rules = pooled_noise(cells, average_seeds(cells))[2].within.df
    assert both_rules < 2 * noise[2].within.df  # N = 1 is shared


def test_one_seed_has_no_interval(cell_table: CellTable) -> None:
    cells = cell_table()
    points = average_seeds(cells)
    for table in (transfer_table, gain_table):
        found = table(points, pooled_noise(cells, points))
        assert found.filter(regex="_(low|high)$").isna().all(axis=None)
        assert len(found.filter(regex="_low$").columns) > 0


def test_shift_from_the_reference_depth_is_that_of_the_same_rule_and_loops(cell_table: CellTable) -> None:
    cells = cell_table()
    deeper = cells["panel"] == "d"
    moved = cells[deeper].assign(base_lr=cells.loc[deeper, "base_lr"] * 2)
    table = transfer_table(average_seeds(pd.concat([cells[~deeper], moved]))).set_index(["panel", "n_loops"])
    assert table.loc["d", "depth_shift_octaves"].to_numpy() == pytest.approx(1.0, abs=1e-9)
    assert table.loc["c", "depth_shift_octaves"].to_numpy() == pytest.approx(0.0, abs=1e-9)


def test_gain_is_sqrt_minus_linear_and_diverged_is_infinite(cell_table: CellTable, with_state: WithState) -> None:
    cells = cell_table(seeds=(0, 1))
    cells.loc[(cells["rule"] == "sqrt") & (cells["n_loops"] > 1), "val_loss"] += 0.025
    gains = gain_table(average_seeds(cells)).set_index("n_loops")
    assert list(gains.index) == [2, 4, 8]  # at N = 1 the rules are one model
    # sqrt's optimum at N = 4 lies between two rates, and so does its best loss.
    assert gains.loc[4, "best_gain_nats"] == pytest.approx(0.025, abs=0.003)
    assert gains.loc[4, "reference_gain_nats"] > gains.loc[4, "best_gain_nats"]
    at_reference = with_state(cells, "rule == 'sqrt' and n_loops == 8 and base_lr == 1.25e-3 and seed == 1", "diverged")
    everywhere = with_state(cells, "rule == 'sqrt' and n_loops == 8", "diverged")
    assert gain_table(average_seeds(at_reference)).set_index("n_loops").loc[8, "reference_gain_nats"] == INF
    assert gain_table(average_seeds(everywhere)).set_index("n_loops").loc[8, "best_gain_nats"] == INF


def test_optimum_at_the_edge_has_a_one_sided_interval(cell_table: CellTable, with_state: WithState) -> None:
    cells = noisy(cell_table(seeds=(0, 1, 2)), 1e-3)
    cells = cells[(cells["base_lr"] <= 1.25e-3) | (cells["panel"] != "c")]
    cells = with_state(cells, "panel == 'd' and n_loops == 8 and base_lr >= 1.5e-3", "diverged")
    points = average_seeds(cells)
    table = transfer_table(points, pooled_noise(cells, points)).set_index(["panel", "n_loops"])
    at_end, diverged = table.loc[("c", 8)], table.loc[("d", 8)]
    assert at_end["flag"] == "at the edge: grid ends above"
    assert at_end["fitted_lr_high"] == INF
    assert 1e-3 < at_end["fitted_lr_low"] <= 1.25e-3
    assert at_end["fitted_shift_octaves_high"] == INF
    assert diverged["flag"] == "at the edge: diverged above"
    assert diverged["fitted_lr_high"] == pytest.approx(1.5e-3)


def test_vertex_below_the_edge_is_bounded_on_both_sides_where_noise_allows() -> None:
    octaves, vertex, seeds = np.arange(4.0), 1.7, np.full(4, 3.0)
    losses = np.where(octaves > 2, INF, 3 + 0.03 * (octaves - vertex) ** 2)  # lowest at 2, beside a diverged rate

    def interval(sd: float, losses: np.ndarray) -> tuple[float, float]:
        found = curve_optimum(2.0**octaves, losses, seeds, Noise(sd, 20.0))
        assert found.flag.startswith("at the edge: diverged")
        assert found.octaves.value == pytest.approx(vertex if np.isinf(losses[-1]) else 3 - vertex)
        return found.octaves.low, found.octaves.high

    low, high = interval(1e-3, losses)
    assert low < vertex < high < 2
    assert (3 - high, 3 - low) == pytest.approx(interval(1e-3, losses[::-1]))
    noisy_low, noisy_high = interval(8e-3, losses)
    assert noisy_low < low
    assert noisy_high == 3  # not told apart from the edge: up to the diverged rate


def test_each_context_is_analysed_from_its_own_cells(cell_table) -> None:
    """Of which one has other noise, other losses and lacks a panel."""
    cells = [cell_table(seeds=(0, 1)), cell_table(seeds=(0, 1)).query("panel != 'd'")]
    cells[1] = cells[1].assign(val_loss=cells[1]["val_loss"] + 0.002 * np.sin(np.arange(len(cells[1])) ** 2))
    both = [one.assign(**{"optimizer.beta2": value}) for one, value in zip(cells, (0.95, 0.9), strict=True)]
    found = analyse(pd.concat(both, ignore_index=True))
    for one, value in zip(cells, (0.95, 0.9), strict=True):
        alone = analyse(one.reset_index(drop=True))
        for name in ("points", "table", "gains"):
            part = getattr(found, name).query(f"`optimizer.beta2` == {value}").drop(columns="optimizer.beta2")
            pd.testing.assert_frame_equal(part.reset_index(drop=True), getattr(alone, name))


def test_a_rule_in_two_panels_of_one_depth_is_compared_with_neither(cell_table) -> None:
    cells = cell_table()
    twice = pd.concat([cells, cells.query("panel == 'b'").assign(panel="e", val_loss=1.0)])
    gains, table = gain_table(average_seeds(twice)), transfer_table(average_seeds(twice))
    assert gains.empty
    assert len(gain_table(average_seeds(cells)))
    deeper = table.query("n_layers > 2")
    assert len(deeper)
    assert deeper["depth_shift_octaves"].isna().all()


def test_cells_of_two_contexts_are_not_taken_for_seeds(cell_table) -> None:
    both = pd.concat([cell_table().assign(**{"optimizer.beta2": value}) for value in (0.9, 0.95)])
    with pytest.raises(AssertionError, match="several contexts"):
        average_seeds(both)
