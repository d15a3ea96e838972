"""Collapse of a training over cells of many runs: see `sweeper.records.collapse` for what it is.

A stabiliser is an architecture with a rule for ε. Each is judged at its own best rate (`best_rate`), because a shared
rate would favour one of them. So it collapses at N only if no rate of the grid trains it with every seed.
"""

import math

import pandas as pd

from sweeper.records.collapse import MARGIN

STABILISER = ["architecture", "rule"]  # the columns that name one


def nats_learned(cells: pd.DataFrame) -> "pd.Series[float]":
    """Nats per token below the unigram entropy, per cell: that entropy minus the final loss, and at least 0.

    0 where the run diverged. NaN where it has no result, or the unigram entropy is not recorded.
    """
    unknown = pd.Series(math.nan, index=cells.index)
    entropy = cells.get("unigram_entropy", unknown)
    learned = (entropy - cells["val_loss"]).clip(lower=0.0).where(cells["state"] == "done")
    return learned.mask(cells["state"] == "diverged", 0.0).astype("float64")


def is_collapsed(cells: pd.DataFrame) -> "pd.Series[bool]":
    """Whether the run has collapsed, per cell. False where it has no result.

    Without a recorded unigram entropy only a diverged run counts.
    """
    return nats_learned(cells) <= MARGIN


def best_rate(cells: pd.DataFrame) -> float:
    """The best base rate of one stabiliser at one N, from its cells. NaN if none has a result that can be judged.

    The rate at which the seeds learn most on average. A rate at which a seed collapses counts only if there is such a
    seed at every rate. Of equal rates the lower is taken.
    """
    by_rate = cells.assign(learned=nats_learned(cells), collapsed=is_collapsed(cells)).groupby("base_lr")
    rates = by_rate.agg(learned=("learned", "mean"), collapsed=("collapsed", "any")).dropna().reset_index()
    if rates.empty:
        return math.nan
    ranked = rates.sort_values(["collapsed", "learned", "base_lr"], ascending=[True, False, True])
    return float(ranked["base_lr"].iloc[0])
