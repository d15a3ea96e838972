"""How often models answer the questions of a task: at each curve's best rate, by level and by loops at test time.

A curve is an architecture, a rule for ε, a depth L and a loop count N. Its best rate has the lowest sum of mean loss
and standard error over seeds, so accuracy is never what a rate is chosen by, and no rate is chosen for a lucky run.
"""

import math

import numpy as np
import pandas as pd

from analysis.stats.intervals import Estimate, mean_over_seeds
from sweeper.records.axes import PLAIN

ACCURACY = "val_accuracy"
CURVE = ["architecture", "rule", "n_layers", "n_loops"]
RUN = [*CURVE, "base_lr", "seed", "run_id"]
READOUT = r"(?P<score>accuracy|exact_match)_(?P<kind>trained|beyond)_(?P<level>\d+)"


def has_accuracy(cells: pd.DataFrame) -> bool:
    """Whether the runs of a sweep answer questions."""
    return ACCURACY in cells and bool(cells[ACCURACY].notna().any())


def at_best_rates(cells: pd.DataFrame) -> pd.DataFrame:
    """The cells of every curve at its best rate, one per seed. A curve without a finished run is left out.

    A rate with a diverged run is never the best.
    """
    cells = cells if "architecture" in cells else cells.assign(architecture=PLAIN)
    cells = cells.drop_duplicates([*CURVE, "base_lr", "seed"])
    loss = cells["val_loss"].where(cells["state"] == "done").mask(cells["state"] == "diverged", math.inf)
    points = cells.assign(loss=loss).groupby([*CURVE, "base_lr"])["loss"].agg(["mean", "var", "count"]).reset_index()
    points = points[np.isfinite(points["mean"])]
    sums = points.assign(df=points["count"] - 1, squares=points["var"].fillna(0.0) * (points["count"] - 1))
    sums = sums.groupby(CURVE)[["squares", "df"]].transform("sum")  # of the curve: the variance of one run
    points["bound"] = points["mean"] + np.sqrt(sums["squares"] / sums["df"].clip(lower=1) / points["count"])
    best = points.loc[points.groupby(CURVE)["bound"].idxmin(), [*CURVE, "base_lr"]]
    return cells.merge(best, on=[*CURVE, "base_lr"]).sort_values([*CURVE, "seed"], ignore_index=True)


def accuracy_table(cells: pd.DataFrame) -> pd.DataFrame:
    """A row per curve at its best rate: `base_lr`, `val_loss`, `seeds`, and `accuracy`, `exact_match` with intervals.

    Means over seeds, with Student's interval at 95%.
    """
    rows = []
    for curve, runs in at_best_rates(cells).groupby(CURVE, sort=False):
        done = runs[runs["state"] == "done"]
        row = dict(zip(CURVE, curve, strict=True)) | {"base_lr": runs["base_lr"].iloc[0], "seeds": len(done)}
        row["val_loss"] = done["val_loss"].mean()
        for name in ("accuracy", "exact_match"):
            found = mean_over_seeds(done[f"val_{name}"].to_numpy(dtype=float))
            row |= {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
        rows.append(row)
    return pd.DataFrame(rows)


def level_table(runs: pd.DataFrame, readouts: pd.DataFrame) -> pd.DataFrame:
    """A row per run, level and N_test: `kind` (trained or beyond), `level`, `test_loops`, `accuracy`, `exact_match`.

    `runs` are those of `at_best_rates`.
    """
    named = readouts["readout"].str.extract(f"^{READOUT}$")
    rows = readouts[["run_id", "i", "mean"]].join(named).dropna(subset="score")
    rows = rows.assign(level=rows["level"].astype("int64")).rename(columns={"i": "test_loops"})
    key = ["run_id", "kind", "level", "test_loops"]
    table = rows.pivot(index=key, columns="score", values="mean").reset_index()
    for name in ("accuracy", "exact_match"):
        table[name] = table.get(name, pd.Series(dtype=float))
    found = runs.loc[runs["state"] == "done", RUN].merge(table, on="run_id")
    return found[[*RUN, *key[1:], "accuracy", "exact_match"]].sort_values([*RUN, *key[1:]], ignore_index=True)


def paired_difference(first: pd.Series, second: pd.Series) -> Estimate:
    """`first` minus `second`, both by seed: the mean over the seeds that both have, with Student's interval."""
    both = first.to_frame("first").join(second.rename("second"), how="inner")
    if both.empty:
        return Estimate(math.nan)
    return mean_over_seeds((both["first"] - both["second"]).to_numpy(dtype=float))
