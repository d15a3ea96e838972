"""Shipped records checked against themselves, and the cells of them that another machine can be asked to repeat.

Rounding differs between processors. A training at a low rate forgets it, and one at a high rate amplifies it: see
`docs/artifact.md`. Cells to repeat are therefore those at most at their curve's optimum (grid), and in a sweep of
architectures, where some kinds are unstable, those at their curve's lowest rate.
"""

import random
from collections.abc import Mapping

import pandas as pd

from sweeper.records.axes import BASE_AXES, is_extra
from sweeper.records.foreign import STATES

TOLERANCE = 0.01  # of the final validation loss, nats per token
SPREAD = 0.1  # nats: where seeds have a larger standard deviation, some of them are on the edge of collapse


def contradictions(cells: pd.DataFrame, curves: pd.DataFrame) -> dict[str, str]:
    """Why the records of a run cannot be true, by run: its cells disagree, or its curve does not lead to its result.

    Args:
        cells: of records, see `sweeper.records.export`.
        curves: of the same records. A run without any is not compared with one.
    """
    finished = cells[cells["state"].isin(STATES)]
    found: dict[str, str] = {}
    for column in ("state", "step", "val_loss"):
        for run_id, values in finished.groupby("run_id", sort=False)[column].unique().items():
            if len(values) > 1:
                found.setdefault(str(run_id), f"its cells have {column} {' and '.join(map(str, values))}")
    if "val_loss" in curves:
        last = curves.dropna(subset="val_loss").sort_values("step").groupby("run_id")["val_loss"].last()
        results = finished.dropna(subset="val_loss").drop_duplicates("run_id").set_index("run_id")["val_loss"]
        for run_id in results.index.intersection(last.index):
            if results[run_id] != last[run_id]:
                text = f"val_loss is {results[run_id]:.6g} in cells and {last[run_id]:.6g} at the end of its curve"
                found.setdefault(str(run_id), text)
    return found


def repeatable(cells: pd.DataFrame) -> pd.DataFrame:
    """One cell of every finished training that is expected to come out the same on another processor.

    Its rate is at most the optimum (grid) of its curve, in a sweep of architectures the lowest of the curve. The seeds
    of its point differ by at most `SPREAD`.
    """
    done = cells[(cells["state"] == "done") & cells["val_loss"].notna()]
    axes = [name for name in map(str, done) if name in BASE_AXES or is_extra(name)]
    curve = ["sweep", *(name for name in axes if name not in ("base_lr", "seed"))]
    losses = done.groupby([*curve, "base_lr"], dropna=False)["val_loss"]
    points = losses.agg(mean="mean", spread="std").reset_index()
    curves = points.groupby(curve, dropna=False)
    best = points.loc[curves["mean"].idxmin()]
    limits = best[curve].assign(optimum=best["base_lr"], lowest=curves["base_lr"].min().to_numpy())
    chosen = done.merge(points, on=[*curve, "base_lr"]).merge(limits, on=curve)
    limit = chosen["optimum"].mask(chosen["experiment"] == "architectures", chosen["lowest"])
    steady = ~(chosen["spread"] > SPREAD)  # of one seed it is not known
    return chosen.loc[(chosen["base_lr"] <= limit) & steady, list(done)].drop_duplicates("run_id")


def drawn(cells: pd.DataFrame, count: int, draw: int) -> pd.DataFrame:
    """`count` of the cells by chance, the same for the same `draw`, or all if there are no more."""
    run_ids = sorted(cells["run_id"])
    chosen = random.Random(draw).sample(run_ids, min(count, len(run_ids)))
    return cells.set_index("run_id").loc[chosen].reset_index()


def deviation(recorded: float, result: Mapping[str, object]) -> float | None:
    """Distance of a repeated run's final validation loss from the recorded one; None if it has not come to its end."""
    loss = result.get("val_loss")
    return abs(loss - recorded) if result.get("state") == "done" and isinstance(loss, float) else None
