"""Does a learning rate tuned at N = 1 stay good at larger N? The numbers beside Figure 5.

A curve is one panel and one loop count N: validation loss against the base learning rate η0. Where a cell was
trained with several seeds, `average_seeds` takes the mean over them first and all else works on the means.
A diverged run counts as +inf, a run without a result as NaN: the first is bad news, the second is none.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

REFERENCE_LOOPS = 1
FINISHED = ("done", "diverged")
# Of a point's seeds, the state that most needs saying stands for the point.
STATE_ORDER = ("diverged", "failed", "lost", "running", "pending", "done")
POINT_KEY = ["panel", "rule", "n_layers", "depth_multiplier", "n_loops", "base_lr"]


@dataclass(frozen=True)
class Optimum:
    """The lowest point of one curve; rates are base rates η0, losses nats per token, NaN where there is none.

    `rate`, `loss`: the grid minimum (of equal losses, the one at the lower rate).
    `fitted_rate`, `fitted_loss`: the vertex of the parabola in log2(rate) through exactly three points, the
    grid minimum and the rate on either side of it in the grid. Three, because a rate curve is steeper above
    its optimum than below, which would pull a wider fit; and their vertex, always convex, stays within the
    half of each gap that is next to the minimum.
    `flag`: empty where all three have a finite loss; otherwise why there is no vertex.
    """

    rate: float
    loss: float
    fitted_rate: float
    fitted_loss: float
    flag: str


def curve_optimum(rates: NDArray[np.float64], losses: NDArray[np.float64]) -> Optimum:
    """The optimum of one curve.

    `rates`: (R,) every base rate η0 of the grid, ascending.
    `losses`: (R,) nats per token, NaN missing, +inf diverged.
    """
    assert rates.shape == losses.shape
    assert (np.diff(rates) > 0).all()
    nan = float("nan")
    if not np.isfinite(losses).any():
        flag = "all finished runs diverged" if np.isinf(losses).any() else "no results"
        return Optimum(nan, nan, nan, nan, flag)
    at = int(np.nanargmin(losses))
    rate, loss = float(rates[at]), float(losses[at])
    sides = [_beside(losses, at - 1, "below"), _beside(losses, at + 1, "above")]
    if flag := ", ".join(reason for reason in sides if reason):
        return Optimum(rate, loss, nan, nan, f"at the edge: {flag}")
    vertex = _parabola_vertex(np.log2(rates[at - 1 : at + 2]), losses[at - 1 : at + 2])
    return Optimum(rate, loss, float(2.0 ** vertex[0]), vertex[1], flag="")


def _beside(losses: NDArray[np.float64], index: int, side: str) -> str:
    """Why the grid minimum is not enclosed on this side; empty where it is."""
    if not 0 <= index < len(losses):
        return f"grid ends {side}"
    if np.isnan(losses[index]):
        return f"missing {side}"
    return f"diverged {side}" if np.isinf(losses[index]) else ""


def _parabola_vertex(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, float]:
    """Vertex (x, y) of the parabola through three points, the middle one below the first and lowest."""
    slopes = np.diff(y) / np.diff(x)
    curvature = (slopes[1] - slopes[0]) / (x[2] - x[0])
    vertex = (x[0] + x[1]) / 2 - slopes[0] / (2 * curvature)
    return float(vertex), float(y[0] + (vertex - x[0]) * (slopes[0] + curvature * (vertex - x[1])))


def average_seeds(cells: pd.DataFrame) -> pd.DataFrame:
    """Cells (one row per seed) → points (one row per panel, N and base rate), in that order.

    `val_loss` is the mean over the seeds that have a result: +inf if any diverged, NaN if none has finished.
    `seeds` counts those with a result, `seeds_expected` all; `state` is the seeds' first in `STATE_ORDER`.
    """
    cells = cells.assign(loss=_losses(cells), rank=cells["state"].map(STATE_ORDER.index))
    grouped = cells.groupby(POINT_KEY, sort=True)
    points = pd.DataFrame(
        {
            "val_loss": grouped["loss"].mean(),
            "state": grouped["rank"].min().map(lambda rank: STATE_ORDER[rank]),
            "seeds": grouped["loss"].count(),
            "seeds_expected": grouped.size(),
        }
    )
    return points.reset_index()


def _losses(cells: pd.DataFrame) -> "pd.Series[float]":
    finished = cells["val_loss"].where(cells["state"] == "done")
    return finished.mask(cells["state"] == "diverged", np.inf)


def transfer_table(points: pd.DataFrame) -> pd.DataFrame:
    """One row per panel and N: the optimum, how far it moved from N = 1, and what keeping N = 1's rate costs.

    `points` are those of `average_seeds`. Columns beside panel, rule, n_layers, n_loops:
    `finished`, `diverged`, `expected`: points with a result, of these the diverged, and all of the grid
    `seeds`: the most seeds any point of the curve has
    `optimum_lr`, `optimum_loss`, `fitted_lr`, `fitted_loss`, `flag`: see `Optimum`
    `shift_octaves`, `fitted_shift_octaves`: log2 of the optimum over that of N = 1 in the same panel
    `regret_nats`: loss at the rate of N = 1's grid minimum minus the best loss at this N: ≥ 0, +inf where
    that rate diverged at this N, NaN where it has no result
    """
    rows = []
    for (panel, rule, n_layers), of_panel in points.groupby(["panel", "rule", "n_layers"], sort=True):
        reference = curve_optimum(*_arrays(of_panel[of_panel["n_loops"] == REFERENCE_LOOPS]))
        for n_loops in sorted(set(of_panel["n_loops"])):
            curve = of_panel[of_panel["n_loops"] == n_loops]
            key = {"panel": panel, "rule": rule, "n_layers": n_layers, "n_loops": n_loops}
            rows.append(key | _progress(curve) | _transfer(*_arrays(curve), reference))
    return pd.DataFrame(rows)


def _arrays(curve: pd.DataFrame) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return curve["base_lr"].to_numpy(dtype=float), curve["val_loss"].to_numpy(dtype=float)


def _progress(curve: pd.DataFrame) -> dict[str, int]:
    return {
        "finished": int(curve["state"].isin(FINISHED).sum()),
        "diverged": int((curve["state"] == "diverged").sum()),
        "expected": len(curve),
        "seeds": int(curve["seeds"].max()),
    }


def _transfer(rates: NDArray[np.float64], losses: NDArray[np.float64], reference: Optimum) -> dict[str, float | str]:
    optimum = curve_optimum(rates, losses)
    return {
        "optimum_lr": optimum.rate,
        "optimum_loss": optimum.loss,
        "shift_octaves": float(np.log2(optimum.rate / reference.rate)),
        "regret_nats": transfer_regret(rates, losses, reference.rate),
        "fitted_lr": optimum.fitted_rate,
        "fitted_loss": optimum.fitted_loss,
        "fitted_shift_octaves": float(np.log2(optimum.fitted_rate / reference.fitted_rate)),
        "flag": optimum.flag,
    }


def transfer_regret(rates: NDArray[np.float64], losses: NDArray[np.float64], reference_rate: float) -> float:
    """Loss at `reference_rate` minus the curve's lowest loss, nats per token; arrays as for `curve_optimum`.

    +inf where that rate diverged; NaN where it has no result or is not in the grid.
    """
    at_reference = losses[rates == reference_rate]
    if len(at_reference) == 0 or np.isnan(at_reference[0]):
        return float("nan")
    return float("inf") if np.isinf(at_reference[0]) else float(at_reference[0] - np.nanmin(losses))
