"""The first optimizer steps at initialisation, as numbers (Figures 2, 4 and 9).

A probe makes ten updates. Its record has a line after each number of updates, 0…10: R = d^(−1/2)·‖h_N‖₂ as
`residual_rms` and, after the first update, `update_rms`: the RMS change of h_N by the last update.
"""

import numpy as np
import pandas as pd

from analysis.stats.growth import fitted_growth, fold_range
from analysis.stats.transfer import FINISHED, STATE_ORDER
from sweeper.errors import UserError

METRICS = ["residual_rms", "update_rms"]
POINT_KEY = ["panel", "rule", "depth", "updates"]
SLOPE_RANGES = ((16, 64), (4, 64))
DEEP_PANELS = ("fig2a", "fig2b", "fig2c")  # the paper's stacks of unique layers


def looped(cells: pd.DataFrame) -> "pd.Series[bool]":
    """Per cell, whether its panel is deep in loops N (as Figure 2d–f) or in unique layers L (as Figure 2a–c).

    Raises:
        UserError: for a panel that is deep in both.
    """
    largest = cells.groupby("panel")[["n_layers", "n_loops"]].transform("max")
    if (both := (largest > 1).all(axis=1)).any():
        panel = cells.loc[both, "panel"].iloc[0]
        raise UserError(f"panel {panel}: L and N are both above 1; this figure draws panels in which one of them is 1")
    flat = (largest == 1).all(axis=1)  # depth 1 alone fits both
    return (largest["n_loops"] > 1) | (flat & ~cells["panel"].isin(DEEP_PANELS))


def measurements(cells: pd.DataFrame, curves: pd.DataFrame) -> pd.DataFrame:
    """A row per cell and number of `updates` made, with its `METRICS`. Cells without a result have rows too.

    `depth` is L · N, of which one is 1. A metric is NaN where the run has not finished, +inf after it diverged.
    """
    updates = pd.DataFrame({"updates": range(int(cells["steps"].max()) + 1)})
    found = curves.rename(columns={"step": "updates"}).reindex(columns=["run_id", "updates", *METRICS])
    grid = cells.assign(depth=cells["n_layers"] * cells["n_loops"]).merge(updates, how="cross")
    table = grid.merge(found.astype({"updates": "int64"}), on=["run_id", "updates"], how="left", validate="many_to_one")
    for metric in METRICS:
        exists = table["state"].isin(FINISHED) & ((metric != "update_rms") | (table["updates"] > 0))
        value = table[metric].where(exists)
        table[metric] = value.mask(exists & (table["state"] == "diverged") & value.isna(), np.inf)
    columns = ["sweep", "preset", "panel", "rule", "n_layers", "n_loops", "depth", "seed", "updates", *METRICS]
    return table[[*columns, "state", "run_id"]]


def average_seeds(measured: pd.DataFrame) -> pd.DataFrame:
    """Measurements → points (one row per `POINT_KEY`): mean and `_sem` of each metric over the seeds with a result.

    `state` is the first in `STATE_ORDER` of the seeds' states.
    """
    grouped = measured.assign(rank=measured["state"].map(STATE_ORDER.index)).groupby(POINT_KEY, sort=True)
    points = pd.DataFrame({metric: grouped[metric].mean() for metric in METRICS})
    for metric in METRICS:
        points[f"{metric}_sem"] = grouped[metric].sem()
    points["seeds"] = grouped["residual_rms"].count()
    points["state"] = grouped["rank"].min().map(lambda rank: STATE_ORDER[rank])
    return points.reset_index()


def range_table(measured: pd.DataFrame, metric: str) -> pd.DataFrame:
    """A row per panel, rule and number of updates: `fold_range`, the seeds' mean at its largest over its smallest."""
    key = ["panel", "rule", "updates"]
    means = measured.groupby([*key, "depth"])[metric].mean()
    return means.groupby(key).agg(fold_range).rename("fold_range").reset_index()


def growth_table(measured: pd.DataFrame, metric: str) -> pd.DataFrame:
    """How `metric` grows with depth: `range_table` with the log-log slopes over each of `SLOPE_RANGES`.

    Columns `slope_16_64`, `slope_16_64_sem`, `_seeds`, `_of_mean` and so on, see `analysis.stats.growth.Growth`.
    """
    rows = []
    key = ["panel", "rule", "updates"]
    curves = dict(list(measured[[*key, "depth", "seed", metric]].groupby(key)))
    for row in range_table(measured, metric).to_dict("records"):
        of_row = curves[tuple(row[name] for name in key)]
        for low, high in SLOPE_RANGES:
            name, growth = f"slope_{low}_{high}", fitted_growth(of_row, "depth", metric, "seed", (low, high))
            row |= {name: growth.slope, f"{name}_sem": growth.sem, f"{name}_seeds": growth.replicas}
            row |= {f"{name}_of_mean": growth.slope_of_mean}
        rows.append(row)
    return pd.DataFrame(rows)
