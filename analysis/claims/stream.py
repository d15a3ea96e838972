"""Claims about the residual stream after training, from the read-outs of the sweep behind Figure 5.

All of them concern linear scaling at the rate tuned at N = 1 (`tuned_rate`). The paper's runs were chosen so too.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.claims.transfer import tuned_rate
from analysis.claims.verdict import Finding, Verdict, as_text, every, judge, not_measured, unfinished
from analysis.records.result_sets import Records
from analysis.stats import looks
from analysis.stats.intervals import Estimate, mean_over_seeds

MIDDLE = (0.3, 0.6)  # most cosines of early and middle increments in Figure 6
NEAR_ZERO = 0.15  # nearer to 0 than to the middle range
NORM_LOOPS = (2, 4, 8)
NORM_OCTAVES = 0.5  # final norms that differ by less than √2 are nearer to equal than to growing like √N over N = 2…8

Floats = NDArray[np.float64]


def increments_agree(records: Records, n_loops: int = 8) -> Finding:
    """At every depth most early and middle pairs are within `MIDDLE`. Pairs with the last step are near 0 or below."""
    matrices = _matrices(records, n_loops)
    if isinstance(matrices, Finding):
        return matrices
    shares, lasts = [], []
    for of_seed in matrices:
        early = [_early(matrix) for matrix in of_seed.values()]
        shares.append(min(np.mean((MIDDLE[0] <= pairs) & (pairs <= MIDDLE[1])) for pairs in early))
        lasts.append(max(matrix[:-1, -1].mean() for matrix in of_seed.values()))
    share, last = (_mean(records, values) for values in (shares, lasts))
    found = every([judge(share, low=0.5), judge(last, high=NEAR_ZERO)])
    return found.with_text(
        f"share of early and middle pairs in {MIDDLE[0]}…{MIDDLE[1]} at least {as_text(share, '.2f')}; "
        f"mean with the last step at most {as_text(last, '.2f')}"
    )


def last_step_weakest(records: Records, n_loops: int = 4) -> Finding:
    """Early and middle pairs are positive and above those with the last step at every depth.

    Pairs with the last step are lowest at L_ref.
    """
    matrices = _matrices(records, n_loops)
    if isinstance(matrices, Finding):
        return matrices
    if len(matrices[0]) < 2:
        return not_measured("one depth only")
    positive, drops, margins = [], [], []
    for of_seed in matrices:
        early = {n_layers: float(_early(matrix).mean()) for n_layers, matrix in of_seed.items()}
        last = {n_layers: float(matrix[:-1, -1].mean()) for n_layers, matrix in of_seed.items()}
        shallow = min(last)
        positive.append(min(early.values()))
        drops.append(min(early[n_layers] - last[n_layers] for n_layers in last))
        margins.append(min(value for n_layers, value in last.items() if n_layers != shallow) - last[shallow])
    estimates = [_mean(records, values) for values in (positive, drops, margins)]
    least, drop, margin = (as_text(estimate, "+.2f") for estimate in estimates)
    return every([judge(estimate, low=0.0) for estimate in estimates]).with_text(
        f"early and middle pairs at least {least}, above the last step's by {drop}; L_ref's lower by {margin}"
    )


def norms_converge(records: Records) -> Finding:
    """Within each depth the final norms of N = 2, 4, 8 differ by less than a factor √2."""
    cells = _chosen(records, NORM_LOOPS)
    if isinstance(cells, Finding):
        return cells
    norms = _readouts(records, cells, "residual_norm")
    final = norms[norms["i"] == norms["n_loops"]]
    if len(final) < len(cells):
        return Finding(Verdict.INCONCLUSIVE, why="points missing: no norms of some runs")
    # In a refined sweep a seed may have some N alone, and its norms say nothing of the others.
    whole = final.pivot(index=["seed", "n_layers"], columns="n_loops", values="mean").dropna()
    if whole.empty:
        return Finding(Verdict.INCONCLUSIVE, why="points missing: no seed has every N at one depth")
    ratios = (whole.max(axis=1) / whole.min(axis=1)).groupby("seed").max()
    spread = _mean(records, [math.log2(ratio) for ratio in ratios])
    fold = Estimate(2**spread.value, 2**spread.low, 2**spread.high)
    return judge(spread, high=NORM_OCTAVES, reason="interval spans √2").with_text(
        f"largest ratio within a depth {as_text(fold, '.2f')}"
    )


def _mean(records: Records, values: "Sequence[Any] | pd.Series[float]") -> Estimate:
    """Over seeds, at the level of the sweep's rounds."""
    return mean_over_seeds(np.asarray(values, dtype=np.float64), looks.alpha(records.cells["lr_transfer"]))


def _early(matrix: Floats) -> Floats:
    """Cosines of the pairs without the last step."""
    kept = matrix[:-1, :-1]
    return kept[np.triu_indices(len(kept), 1)]


def _matrices(records: Records, n_loops: int) -> list[dict[int, Floats]] | Finding:
    """Per seed, the N × N cosine matrix of each depth L. In a refined sweep, of seeds that have every depth."""
    cells = _chosen(records, (n_loops,))
    if isinstance(cells, Finding):
        return cells
    cosines = _readouts(records, cells, "increment_cosine")
    found: dict[int, dict[int, Floats]] = {}
    for _, of_run in cosines.groupby("run_id"):
        matrix = np.full((n_loops, n_loops), np.nan)
        matrix[of_run["i"], of_run["j"]] = of_run["mean"]
        found.setdefault(int(of_run["seed"].iloc[0]), {})[int(of_run["n_layers"].iloc[0])] = matrix
    if sum(map(len, found.values())) < len(cells):
        return Finding(Verdict.INCONCLUSIVE, why="points missing: no increments of some runs")
    depths = {n_layers for of_seed in found.values() for n_layers in of_seed}
    whole = [of_seed for of_seed in found.values() if len(of_seed) == len(depths)]
    return whole or Finding(Verdict.INCONCLUSIVE, why="points missing: no seed has every depth")


def _chosen(records: Records, loop_counts: tuple[int, ...]) -> pd.DataFrame | Finding:
    """The cells of `loop_counts` under linear at the tuned rate, all finished and none diverged."""
    cells = records.cells.get("lr_transfer")
    if cells is None:
        return not_measured("no lr_transfer sweep in the records")
    if absent := set(loop_counts) - set(cells["n_loops"]):
        return not_measured(f"no N = {', '.join(map(str, sorted(absent)))} in this grid")
    if records.readouts.get("lr_transfer") is None or records.readouts["lr_transfer"].empty:
        return not_measured("no read-outs in the records")
    linear = cells[cells["rule"] == "linear"]
    chosen = linear[linear["n_loops"].isin(loop_counts) & (linear["base_lr"] == tuned_rate(linear))]
    if missing := unfinished(chosen, "training at the tuned rate"):
        return missing
    if diverged := int((chosen["state"] == "diverged").sum()):
        return Finding(Verdict.INCONCLUSIVE, why=f"{diverged} of {len(chosen)} runs diverged at the tuned rate")
    return chosen


def _readouts(records: Records, cells: pd.DataFrame, name: str) -> pd.DataFrame:
    readouts = records.readouts["lr_transfer"]
    return readouts[readouts["readout"] == name].merge(cells[["run_id", "seed", "n_layers", "n_loops"]], on="run_id")
