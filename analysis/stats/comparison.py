"""Stabilisers side by side, from the sweep `architectures`: one rate curve per architecture, rule for ε and N.

A stabiliser is the pair (architecture, rule), written "FLT, none". A run that collapsed counts as one that diverged: as
+∞ (`analysis.stats.collapse`). So a curve has no optimum where no rate trains every seed.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis.stats import transfer
from analysis.stats.collapse import best_rate, is_collapsed, nats_learned
from analysis.stats.curves import Curve
from analysis.stats.intervals import Estimate, mean_over_seeds


class Stabiliser(NamedTuple):
    """What keeps the loop stable: an architecture, and a rule for ε."""

    architecture: str
    rule: str

    def __str__(self) -> str:
        return f"{self.architecture}, {self.rule}"


def select(cells: pd.DataFrame, *stabilisers: Stabiliser) -> pd.DataFrame:
    """The cells of some stabilisers at L_ref."""
    pairs = pd.Series([*zip(cells["architecture"], cells["rule"], strict=True)], index=cells.index, dtype=object)
    return cells[pairs.isin(list(stabilisers)) & (cells["depth_multiplier"] == 1)]


def at_best_rate(cells: pd.DataFrame) -> pd.DataFrame:
    """The cells of one stabiliser at one N that are at its best rate, one per seed."""
    return cells[cells["base_lr"] == best_rate(cells)].sort_values("seed")


def learned_at_best(cells: pd.DataFrame) -> Estimate:
    """Nats per token below the unigram entropy at the best rate of one stabiliser at one N, mean over seeds."""
    return mean_over_seeds(np.asarray(nats_learned(at_best_rate(cells)), dtype=np.float64))


def as_panels(cells: pd.DataFrame) -> pd.DataFrame:
    """The cells as `analysis.stats.transfer` reads them: a panel per stabiliser, collapsed runs as diverged."""
    state = cells["state"].mask(is_collapsed(cells), "diverged")
    marked = cells.assign(panel=cells["architecture"] + ", " + cells["rule"], state=state)
    return marked.drop_duplicates([*transfer.POINT_KEY, "seed"])


def curves(cells: pd.DataFrame) -> dict[tuple[str, int], Curve]:
    """The rate curve of every stabiliser and N in `cells`, which are all at one depth. Keys are ("FLT, none", 12).

    The noise is pooled over all of `cells`. Pass only what is compared, because stabilisers scatter differently.
    """
    panels = as_panels(cells)
    points = transfer.average_seeds(panels)
    found = transfer.curves(points, transfer.pooled_noise(panels, points))
    return {(panel, n_loops): curve for (panel, _, _, n_loops), curve in found.items()}
