"""What a training records of its own stability, as numbers: growth of the stream's norm, and gradient oscillation.

`lines` are those of one run in `curves.parquet`, by step: `stream_norm_n` is the mean L2 norm of the residual stream at
the end of loop n, before the norm between loops; `grad_norm` that of all gradients before clipping; `base_lr` the rate.
"""

import math

import numpy as np
import pandas as pd

LAST_SHARE = 0.1  # of the recorded lines, for a value at the end that does not hang on one batch


def growth_over_loops(lines: pd.DataFrame, n_loops: int) -> float:
    """Norm after the last loop over that after the first, in decades, at the end of the record. NaN without norms.

    +inf where a norm is not finite.
    """
    norms = _norms(lines, n_loops)
    return _difference(norms[f"stream_norm_{n_loops}"], norms["stream_norm_1"]) if len(norms) else math.nan


def growth_over_steps(lines: pd.DataFrame, n_loops: int) -> float:
    """Norm after the last loop at the end of the record over that at its start, in decades. As `growth_over_loops`."""
    last_loop = _norms(lines, n_loops)[f"stream_norm_{n_loops}"]
    return _difference(last_loop, last_loop.iloc[[0] * len(last_loop)]) if len(last_loop) else math.nan


def oscillation(lines: pd.DataFrame, base_lr: float) -> tuple[float, int, int]:
    """Standard deviation of the gradient norm in the stable phase of the schedule, and its first and last step.

    The stable phase is that between warmup and decay, where the rate is `base_lr`. +inf where a norm is not finite, NaN
    for fewer than two steps.
    """
    known = lines.reindex(columns=["step", "base_lr", "grad_norm"]).dropna()
    stable = known[np.isclose(known["base_lr"], base_lr, rtol=1e-6)]
    if len(stable) < 2:
        return math.nan, 0, 0
    norms = stable["grad_norm"].to_numpy(dtype=float)
    deviation = float(norms.std(ddof=1)) if np.isfinite(norms).all() else math.inf
    return deviation, int(stable["step"].min()), int(stable["step"].max())


def _norms(lines: pd.DataFrame, n_loops: int) -> pd.DataFrame:
    """The norms of every loop on the lines that have them."""
    names = [f"stream_norm_{loop}" for loop in range(1, n_loops + 1)]
    return lines.reindex(columns=names).dropna()


def _difference(upper: "pd.Series[float]", lower: "pd.Series[float]") -> float:
    last = max(1, round(LAST_SHARE * len(upper)))
    top, bottom = (np.asarray(values, dtype=float)[-last:] for values in (upper, lower))
    if not (np.isfinite(top).all() and np.isfinite(bottom).all()):
        return math.inf
    return float(np.mean(np.log10(top) - np.log10(bottom)))
