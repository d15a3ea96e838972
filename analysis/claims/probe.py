"""Claims about parameters and the first ten steps, from the configuration and the diagnostics at initialisation."""

import math
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.claims.verdict import Finding, Verdict, as_text, every, fold_text, judge, not_measured, unfinished
from analysis.records.result_sets import Records
from analysis.stats.intervals import mean_over_seeds
from analysis.stats.probe import DEEP_PANELS, SLOPE_RANGES
from model.scaling import RULES

# Growth is an exponent p of n^p, and the theory has p = 0, 1/2 and 1. A measured exponent counts as the nearest.
HALF_STEP = 0.25
PAPER_SHAPE: dict[str, Any] = {"vocab_size": 128_256, "d_model": 768, "n_heads": 12, "mlp_dim": 2048}  # Table 2
PAPER_PARAMETERS = {12: 183.5, 24: 268.4, 48: 438.3}  # millions
# Half-way between the paper's "within ~4x" and the 8x of sqrt(N) growth over N = 1…64, in octaves.
SPREAD_OCTAVES = 2.5
LARGEST, SATURATED = 64, 32
ASYMPTOTIC = SLOPE_RANGES[0][0]  # loops from which on the growth of an update is measured, as in Figure 4
# Cosines of unrelated vectors scatter by 1/sqrt(d). This constant makes the bound ±0.1 at the paper's width.
CHANCE_COSINE = 0.1 * math.sqrt(PAPER_SHAPE["d_model"])

Floats = NDArray[np.float64]


def parameter_counts(_: Records) -> Finding:
    """Parameters of the model at the paper's three depths, to a tenth of a million. No records are needed."""
    # Only the arithmetic of the shape: neither this module nor the package's __init__ imports torch.
    from model.config import ModelConfig

    counts = {
        n_layers: ModelConfig(**PAPER_SHAPE, n_layers=n_layers, n_loops=1).n_params / 1e6
        for n_layers in PAPER_PARAMETERS
    }
    same = all(abs(counts[n_layers] - expected) < 0.05 for n_layers, expected in PAPER_PARAMETERS.items())
    return Finding(Verdict.HOLDS if same else Verdict.FAILS, ", ".join(f"{count:.1f}M" for count in counts.values()))


def stays_bounded(records: Records, panel: str, rule: str) -> Finding:
    """In none of ten steps does R grow, or shrink, like a square root."""
    return _growth(records, panel, rule, "residual_rms", range(1, 11), -HALF_STEP, HALF_STEP)


def grows(records: Records, panel: str, rule: str) -> Finding:
    """In some of ten steps R grows at least like a square root."""
    return _growth(records, panel, rule, "residual_rms", range(1, 11), HALF_STEP, math.inf)


def update_grows(records: Records, panel: str, rule: str) -> Finding:
    """The change of h_N by the first step grows with N as Theorem 2 has it for the rule."""
    exponent = RULES[rule].update_growth
    low, high = exponent - HALF_STEP, exponent + HALF_STEP
    return _growth(records, panel, rule, "update_rms", range(1, 2), low, high, ASYMPTOTIC)


def update_saturates(records: Records, panel: str, rule: str) -> Finding:
    """The change of h_N by the first step stays within a range like 4x over N = 1…64, and is flat from 32 on."""
    table = _per_seed(records, panel, rule, "update_rms", range(1, 2))
    if isinstance(table, Finding):
        return table
    values, n = table
    if n[-1] != LARGEST or SATURATED not in n:
        return Finding(Verdict.INCONCLUSIVE, why=f"points missing: N = {n[0]:g}…{n[-1]:g} only")
    octaves = np.log2(values[:, 0])
    spread = mean_over_seeds(octaves.max(axis=-1) - octaves.min(axis=-1))
    last = mean_over_seeds(octaves[:, -1] - octaves[:, list(n).index(SATURATED)])
    found = every([judge(spread, high=SPREAD_OCTAVES), judge(last, -HALF_STEP, HALF_STEP)])
    return found.with_text(
        f"{fold_text(spread, 2, '.2f')} over N = 1…{LARGEST}; {fold_text(last, 2, '.2f')} from {SATURATED} to {LARGEST}"
    )


def increments_align(records: Records, panel: str) -> Finding:
    """Every off-diagonal cosine of block-level increments after ten steps is positive."""
    return _cosine_finding(records, panel, lambda cosines, d_model: cosines >= 0)


def increments_unrelated(records: Records, panel: str) -> Finding:
    """Every off-diagonal cosine of block-level increments after ten steps is as small as for unrelated vectors."""
    return _cosine_finding(records, panel, lambda cosines, d_model: cosines.abs() <= CHANCE_COSINE * d_model**-0.5)


def _cosine_finding(records: Records, panel: str, is_as_claimed: Callable[[Any, int], Any]) -> Finding:
    cells = records.cells.get("increments")
    chosen = None if cells is None else cells[cells["panel"] == panel]
    if missing := unfinished(chosen, f"probe {panel}"):
        return missing
    readouts = records.readouts.get("increments")
    if readouts is None:
        return not_measured("no read-outs in the records")
    chosen = cast(pd.DataFrame, chosen)
    of_panel = readouts[readouts["run_id"].isin(chosen["run_id"]) & (readouts["readout"] == "increment_cosine")]
    cosines = of_panel.loc[of_panel["i"] != of_panel["j"], "mean"]
    if cosines.empty:
        return Finding(Verdict.INCONCLUSIVE, why="points missing: diverged before its read-out")
    d_model = int(chosen["d_model"].iloc[0])
    as_claimed = bool(is_as_claimed(cosines, d_model).all())
    measured = f"in [{cosines.min():.3f}, {cosines.max():.3f}], d = {d_model}".replace("-", "−")
    return Finding(Verdict.HOLDS if as_claimed else Verdict.FAILS, measured)


def _growth(
    records: Records, panel: str, rule: str, metric: str, steps: range, low: float, high: float, smallest: int = 1
) -> Finding:
    table = _per_seed(records, panel, rule, metric, steps)
    if isinstance(table, Finding):
        return table
    values, n = table
    values, n = values[..., n >= smallest], n[n >= smallest]
    if len(n) < 3:
        return Finding(Verdict.INCONCLUSIVE, why="points missing: fewer than three depths")
    exponents = np.array([[_exponent(n, of_step) for of_step in of_seed] for of_seed in values])
    largest = exponents.max(axis=1) if high > HALF_STEP else exponents[np.arange(len(values)), abs(exponents).argmax(1)]
    estimate = mean_over_seeds(largest)
    axis = "L" if panel in DEEP_PANELS else "N"
    return judge(estimate, low, high).with_text(f"∝ {axis}^{as_text(estimate, '.2f')}, {axis} = {n[0]:g}…{n[-1]:g}")


def _exponent(n: Floats, values: Floats) -> float:
    """Least-squares slope of log value against log n, +inf if a value is not finite."""
    return float(np.polyfit(np.log2(n), np.log2(values), 1)[0]) if np.isfinite(values).all() else math.inf


def _per_seed(records: Records, panel: str, rule: str, metric: str, steps: range) -> tuple[Floats, Floats] | Finding:
    """Values (seed, step, n) and the n = L or N of `panel` under `rule`. Values of a run after it diverged are +inf."""
    cells = records.cells.get("init_probe")
    chosen = None if cells is None else cells[(cells["panel"] == panel) & (cells["rule"] == rule)]
    if missing := unfinished(chosen, f"probe {panel}"):
        return missing
    curves = records.curves.get("init_probe")
    if curves is None or metric not in curves:
        return not_measured("no curves in the records")
    chosen = cast(pd.DataFrame, chosen)
    axis = "n_layers" if panel in DEEP_PANELS else "n_loops"
    depths, seeds = sorted(set(chosen[axis])), sorted(set(chosen["seed"]))
    lines = chosen.merge(curves[curves["step"].isin(steps)], on="run_id", suffixes=("", "_of_line"))
    values = np.full((len(seeds), len(steps), len(depths)), math.inf)
    for row in lines.to_dict("records"):
        step = steps.index(int(row["step_of_line"]))
        values[seeds.index(row["seed"]), step, depths.index(row[axis])] = row[metric]
    return np.where(np.isnan(values), math.inf, values), np.array(depths, dtype=float)
