"""Synthetic cell tables in the shape of a Figure 5 sweep, with optima planted where a test wants them."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

PANELS = {"a": ("sqrt", 2), "b": ("linear", 2), "c": ("linear", 4), "d": ("linear", 8)}
RATES = (5e-4, 7.5e-4, 1e-3, 1.25e-3, 1.5e-3, 2e-3, 3e-3, 4e-3)


def planted_loss(rate: float, rule: str, n_layers: int, n_loops: int) -> float:
    """Nats per token: lower for more compute, steeper above the optimum than below it."""
    optimum = np.log2(1.25e-3) + (0.5 * np.log2(n_loops) if rule == "sqrt" else 0.0)
    octaves = np.log2(rate) - optimum
    return float(3.4 - 0.02 * np.log2(n_layers * n_loops) + 0.03 * octaves**2 + 0.006 * octaves**3)


def make_cells(seeds: tuple[int, ...] = (0,), loop_counts: tuple[int, ...] = (1, 2, 4, 8)) -> pd.DataFrame:
    """All done; sqrt's optimum moves half an octave per doubling of N, linear's stays at 1.25e-3."""
    rows = [
        {
            "sweep": "lr_transfer-quick-0123abcd",
            "experiment": "lr_transfer",
            "preset": "quick",
            "panel": panel,
            "rule": rule,
            "n_layers": n_layers,
            "ref_layers": 2,
            "depth_multiplier": n_layers / 2,
            "n_loops": n_loops,
            "base_lr": rate,
            "seed": seed,
            "run_id": f"{rule if n_loops > 1 else 'any'}-{n_layers}-{n_loops}-{rate:g}-{seed}",
            "state": "done",
            "val_loss": planted_loss(rate, rule, n_layers, n_loops) + 0.001 * seed,
            "step": 600,
            "steps": 600,
            "reason": "",
        }
        for panel, (rule, n_layers) in PANELS.items()
        for n_loops in loop_counts
        for rate in RATES
        for seed in seeds
    ]
    return pd.DataFrame(rows)


def set_state(cells: pd.DataFrame, query: str, state: str) -> pd.DataFrame:
    """A copy in which the cells that `query` selects are in `state` and, unless done, have no loss."""
    changed = cells.copy()
    chosen = changed.query(query).index
    assert len(chosen) > 0, f"no cell matches {query}"
    changed.loc[chosen, "state"] = state
    if state != "done":
        changed.loc[chosen, "val_loss"] = np.nan
    return changed


@pytest.fixture(scope="session")
def cell_table() -> Callable[..., pd.DataFrame]:
    """`make_cells`: builds a fresh table at every call."""
    return make_cells


@pytest.fixture(scope="session")
def with_state() -> Callable[[pd.DataFrame, str, str], pd.DataFrame]:
    """`set_state`, for tables of which some cells are not done."""
    return set_state
