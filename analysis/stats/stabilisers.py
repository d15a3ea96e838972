"""Stabilisers: an architecture with a rule for ε. How low does each get at its own best rate, and where is that rate?

A shared rate would favour one of them. Collapse is defined in `analysis.stats.collapse`.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from analysis.records import cell_axes
from analysis.stats import transfer
from analysis.stats.collapse import STABILISER, best_rate, is_collapsed
from analysis.stats.intervals import NO_NOISE
from analysis.stats.seeds import DepthNoise
from sweeper.records.axes import PLAIN

COLLAPSED = "collapsed"
CURVE = [*STABILISER, "n_loops"]
LAID_OUT = ("rule", "n_loops", "base_lr", "seed")  # what a figure of stabilisers can show beside the architecture
COLUMNS = [
    *CURVE,
    "state",
    "runs",
    "finished",
    "collapsed",
    "best_lr",
    "best_loss",
    "best_loss_low",
    "best_loss_high",
    "flops",
    "seconds",
    "flag",
    "shift_octaves",
    "fitted_shift_octaves",
    "fitted_shift_octaves_low",
    "fitted_shift_octaves_high",
]


def of_sweep(cells: pd.DataFrame) -> pd.DataFrame:
    """The cells of a sweep by stabiliser: one per architecture, rule, N, rate and seed.

    `panel` becomes the stabiliser's name, and `fate` is the state with "collapsed" where the run has collapsed.

    Raises:
        UserError: if the sweep varies more than these. It names an axis to select from.
    """
    cells = cells if "architecture" in cells else cells.assign(architecture=PLAIN)
    cells = cells.assign(panel=cells["architecture"] + ", " + cells["rule"])
    key = [*STABILISER, *(name for name in cell_axes.cell_key(cells) if name not in STABILISER)]
    cells = cells.drop_duplicates(key).sort_values(key, ignore_index=True)
    for _, of_architecture in cells.groupby("architecture"):
        cell_axes.refuse_beyond(of_architecture, LAID_OUT)
    return cells.assign(fate=cells["state"].mask(is_collapsed(cells), COLLAPSED))


def best_table(cells: pd.DataFrame) -> pd.DataFrame:
    """A row per stabiliser and N, from the cells of `of_sweep`.

    `state`: done if some rate trains with every seed that has finished, collapsed if no rate can, because at each of
    them a seed has collapsed. Otherwise the state of a run that is missing
    `runs`, `finished`, `collapsed`: of the whole rate curve
    `best_lr`, `best_loss`: the optimum (grid) over the rates at which no seed has collapsed. Otherwise `best_rate` and
    the mean loss there. The interval at 95% is for comparisons with other curves of the same seeds
    `flops`, `seconds`: of one run. The seconds are steps times the median time of a step over the finished runs
    `flag`: why there is no optimum (fitted)
    The shifts are from N = 1 of the same stabiliser, see `transfer.transfer_table`.
    """
    tables = [_of_architecture(of_architecture) for _, of_architecture in cells.groupby("architecture", sort=False)]
    return pd.concat(tables, ignore_index=True)[COLUMNS]


def at_rates(cells: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """The cells of `of_sweep` at the best rate of their stabiliser and N. Without one, those at its lowest rate."""
    rates = table[[*CURVE, "best_lr"]]
    chosen = cells.merge(rates, on=CURVE, how="inner")
    lowest = chosen.groupby(CURVE)["base_lr"].transform("min")
    chosen = chosen[chosen["base_lr"] == chosen["best_lr"].fillna(lowest)]
    return chosen.drop(columns="best_lr").reset_index(drop=True)


def curves(cells: pd.DataFrame) -> Iterator[tuple[tuple[str, str, int], pd.DataFrame]]:
    """The cells of every stabiliser and N, in the order of the table."""
    for (architecture, rule, n_loops), of_curve in cells.groupby(CURVE, sort=False):
        yield (str(architecture), str(rule), int(str(n_loops))), of_curve


def _of_architecture(cells: pd.DataFrame) -> pd.DataFrame:
    # A collapsed run is no part of the basin around the optimum, and so counts as diverged there.
    trained = cells.assign(state=cells["fate"].replace(COLLAPSED, "diverged"))
    points = transfer.average_seeds(trained)
    noise = transfer.pooled_noise(trained, points)
    table = transfer.transfer_table(points, noise).to_dict("records")
    found = {(row["rule"], row["n_loops"]): {str(name): value for name, value in row.items()} for row in table}
    seeds = points.groupby(["rule", "n_loops", "base_lr"])["seeds"].first()
    between = noise.get(int(cells["n_layers"].iloc[0]), DepthNoise(NO_NOISE, NO_NOISE)).between
    rows = []
    for (architecture, rule, n_loops), of_curve in curves(cells):
        row = found[rule, n_loops]
        rate, loss, margin = row["optimum_lr"], row["optimum_loss"], math.nan
        if math.isnan(rate):
            rate = best_rate(of_curve)
            loss = float(of_curve.loc[of_curve["base_lr"] == rate, "val_loss"].replace(np.inf, math.nan).mean())
        else:
            margin = between.margin(1 / seeds[rule, n_loops, rate])
        row |= {"architecture": architecture, "rule": rule, "n_loops": n_loops}
        row |= {"best_lr": rate, "best_loss": loss, "best_loss_low": loss - margin, "best_loss_high": loss + margin}
        rows.append(row | _progress(of_curve, row["optimum_lr"]) | _cost(of_curve))
    return pd.DataFrame(rows)


def _progress(of_curve: pd.DataFrame, optimum: float) -> dict[str, Any]:
    missing = [state for state in transfer.STATE_ORDER if state in set(of_curve["fate"]) - set(transfer.FINISHED)]
    is_lost = (of_curve["fate"] == COLLAPSED).groupby(of_curve["base_lr"]).any().all()  # whatever is still missing
    state = "done" if not math.isnan(optimum) else COLLAPSED if is_lost else missing[0]
    finished = int(of_curve["state"].isin(transfer.FINISHED).sum())
    return {
        "state": state,
        "runs": len(of_curve),
        "finished": finished,
        "collapsed": int((of_curve["fate"] == COLLAPSED).sum()),
    }


def _cost(of_curve: pd.DataFrame) -> dict[str, float]:
    unknown = pd.Series(math.nan, index=of_curve.index)
    per_step = of_curve.get("step_seconds", unknown) / of_curve["step"].where(of_curve["step"] > 0)
    return {
        "flops": float(of_curve.get("flops", unknown).median()),
        "seconds": float((per_step * of_curve["steps"]).median()),
    }
