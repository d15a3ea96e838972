"""Collapse: which runs count, and which rate a stabiliser is judged at."""

import math

import pandas as pd
import pytest

from analysis.stats.collapse import best_rate, is_collapsed, nats_learned
from sweeper.records.collapse import MARGIN, has_collapsed

ENTROPY = 4.25


def runs(*losses: float, state: str = "done", entropy: float = ENTROPY) -> pd.DataFrame:
    return pd.DataFrame({"val_loss": losses, "state": state, "unigram_entropy": entropy})


@pytest.mark.parametrize(
    ("loss", "collapsed"),
    [(ENTROPY - MARGIN + 1e-6, True), (ENTROPY - MARGIN - 1e-6, False), (ENTROPY + 0.5, True), (2.6, False)],
)
def test_a_loss_within_the_margin_of_the_unigram_entropy_or_above_is_a_collapse(loss: float, collapsed: bool) -> None:
    assert is_collapsed(runs(loss)).tolist() == [collapsed]
    assert [has_collapsed(cell) for cell in runs(loss).to_dict("records")] == [collapsed]


@pytest.mark.parametrize("entropy", [ENTROPY, math.nan])
def test_a_diverged_run_has_collapsed_and_learned_nothing(entropy: float) -> None:
    cells = runs(math.nan, 4.3, 2.0, state="diverged", entropy=entropy)
    assert is_collapsed(cells).all()
    assert all(map(has_collapsed, cells.to_dict("records")))
    assert nats_learned(cells).tolist() == [0.0, 0.0, 0.0]


def test_what_is_learned_is_counted_from_the_unigram_entropy_and_never_negative() -> None:
    assert nats_learned(runs(2.6, 4.0, 5.0)).tolist() == pytest.approx([1.65, 0.25, 0.0])


def test_without_a_result_or_an_entropy_nothing_is_known_and_nothing_has_collapsed() -> None:
    unknown = [
        runs(math.nan, state="running"),
        runs(4.2, entropy=math.nan),
        runs(4.2).drop(columns="unigram_entropy"),
    ]
    for cells in unknown:
        assert nats_learned(cells).isna().all()
        assert not is_collapsed(cells).any()
        assert not any(map(has_collapsed, cells.to_dict("records")))


def grid(losses: dict[float, tuple[float, ...]]) -> pd.DataFrame:
    """A rate → the loss of each seed, +inf for a diverged run."""
    rows = [
        {"base_lr": rate, "seed": seed, "val_loss": loss, "unigram_entropy": ENTROPY}
        for rate, of_rate in losses.items()
        for seed, loss in enumerate(of_rate)
    ]
    table = pd.DataFrame(rows)
    return table.assign(state=table["val_loss"].map(lambda loss: "done" if math.isfinite(loss) else "diverged"))


def test_best_rate_is_the_one_with_the_lowest_mean_loss() -> None:
    assert best_rate(grid({1e-3: (3.1, 3.0), 2e-3: (2.7, 2.9), 4e-3: (2.6, 3.2)})) == 2e-3


@pytest.mark.parametrize("bad", [math.inf, ENTROPY])
def test_a_rate_at_which_a_seed_collapses_is_best_only_if_no_rate_is_safe(bad: float) -> None:
    assert best_rate(grid({1e-3: (3.9, 3.9), 2e-3: (2.0, bad)})) == 1e-3
    assert best_rate(grid({1e-3: (3.9, bad), 2e-3: (2.0, bad)})) == 2e-3


def test_of_equal_rates_the_lower_is_taken_and_without_results_there_is_none() -> None:
    assert best_rate(grid({2e-3: (math.inf,), 1e-3: (math.inf,)})) == 1e-3
    pending = grid({1e-3: (3.0,), 2e-3: (2.5,)}).assign(state=["done", "pending"])
    assert best_rate(pending) == 1e-3
    assert math.isnan(best_rate(pending.assign(state="pending")))
