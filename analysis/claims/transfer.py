"""Claims about learning-rate transfer, from the sweep behind Figure 5."""

import itertools
import math
from dataclasses import replace
from typing import Any, cast

import pandas as pd

from analysis.claims.verdict import Finding, Verdict, as_text, every, judge, not_measured, opposite, some, unfinished
from analysis.records.result_sets import NO_DECAY, Records
from analysis.stats import transfer
from analysis.stats.intervals import Estimate

# Within this many octaves an optimum counts as the same, beyond them as moved. The paper's grid has steps of 0.26 to
# 0.58 octaves, and "nearly invariant" cannot mean less than one step.
SAME_OCTAVES = 0.5
# Figure 5d: base rates above 2e-3 diverge, 1.6 times the 1.25e-3 that N = 1 was tuned to.
SAFE_FACTOR = 2e-3 / 1.25e-3
FULL_LOOPS = 8
DEEPEST = 4.0  # m_L of Figure 5d

Row = dict[str, Any]


def linear_transfers(records: Records) -> Finding:
    """`rate_stays` under linear."""
    cells = _cells(records, "linear")
    if missing := unfinished(cells, "lr_transfer sweep under linear scaling"):
        return missing
    return rate_stays(cast(pd.DataFrame, cells))


def transfers_without_decay(records: Records) -> Finding:
    """`linear_transfers` in the control of Figure 5, the sweep without weight decay."""
    if NO_DECAY not in records.cells:
        command = f"loopsweep submit +sweep=lr_transfer preset={records.preset} optimizer.weight_decay=0"
        return not_measured(f"no lr_transfer sweep without weight decay in the records: {command}")
    return linear_transfers(replace(records, cells={"lr_transfer": records.cells[NO_DECAY]}))


def rate_stays(cells: pd.DataFrame) -> Finding:
    """Every shift, from N = 1 at each depth and from L_ref at each N, is within ± `SAME_OCTAVES`.

    `cells` are of one rule and architecture, all with a result.
    """
    rows = _rows(cells)
    if lost := [f"L = {row['n_layers']}, N = {row['n_loops']}" for row in rows if math.isnan(row["optimum_lr"])]:
        return Finding(Verdict.INCONCLUSIVE, why=f"every run diverged at {'; '.join(lost)}")
    shifts = [(row, "N = 1", _estimate(row, "fitted_shift_octaves")) for row in rows if row["n_loops"] > 1]
    shallow = min(row["n_layers"] for row in rows)
    shifts += [(row, "L_ref", _estimate(row, "depth_shift_octaves")) for row in rows if row["n_layers"] > shallow]
    if not shifts:
        return not_measured("one N and one depth only")
    found = every([_same(shift, rows) for _, _, shift in shifts])
    row, origin, widest = max(shifts, key=lambda one: _reach(one[2]))
    where = f"L = {row['n_layers']}, N = {row['n_loops']}"
    regret = max((_estimate(row, "regret_nats") for row in rows), key=lambda one: one.value)
    return found.with_text(
        f"widest shift {_shift_text(row, widest)} octaves from {origin} at {where}; "
        f"largest regret {as_text(regret, '.4f')} nats"
    )


def sqrt_shifts(records: Records) -> Finding:
    """Some shift from N = 1 under sqrt at L_ref is beyond ± `SAME_OCTAVES`."""
    cells = _cells(records, "sqrt")
    if missing := unfinished(cells, "lr_transfer sweep under sqrt scaling"):
        return missing
    every_row = _rows(cast(pd.DataFrame, cells))
    rows = [row for row in every_row if row["n_loops"] > 1]
    if not rows:
        return not_measured("N = 1 only")
    shifts = [_estimate(row, "fitted_shift_octaves") for row in rows]
    moved = some([opposite(_same(shift, every_row)) for shift in shifts])
    texts = [f"{_shift_text(row, shift)} at N = {row['n_loops']}" for row, shift in zip(rows, shifts, strict=True)]
    return moved.with_text("octaves from N = 1: " + ", ".join(texts))


def linear_gains(records: Records) -> Finding:
    """The loss at the optimum (grid) under sqrt minus that under linear, at N = 8 and L_ref, is above zero."""
    cells = records.cells.get("lr_transfer")
    chosen = None if cells is None else cells[(cells["depth_multiplier"] == 1) & (cells["n_loops"] == FULL_LOOPS)]
    if missing := unfinished(chosen, f"run with N = {FULL_LOOPS} at L_ref"):
        return missing
    gains = _gains(cast(pd.DataFrame, cells))
    rows = gains[gains["n_loops"] == FULL_LOOPS].to_dict("records")
    if not rows:
        return not_measured("not both rules at one depth")
    best, fixed = (_estimate(rows[0], name) for name in ("best_gain_nats", "reference_gain_nats"))
    if math.isnan(best.value):
        return Finding(Verdict.INCONCLUSIVE, why="every run diverged under both rules")
    return judge(best, low=0.0).with_text(
        f"{as_text(best, '+.4f')} nats; {as_text(fixed, '+.4f')} at N = 1's optimum (grid)"
    )


def more_loops_help(records: Records) -> Finding:
    """Under linear at L_ref the loss at the optimum (grid) of every N is above that of the next N."""
    cells = _cells(records, "linear")
    shallow = None if cells is None else cells[cells["depth_multiplier"] == 1]
    if missing := unfinished(shallow, "lr_transfer sweep under linear scaling at L_ref"):
        return missing
    points = transfer.average_seeds(cast(pd.DataFrame, shallow))
    noise = transfer.pooled_noise(cast(pd.DataFrame, shallow), points)
    curves = {
        key[-1]: curve for key, curve in sorted(transfer.curves(points, noise).items(), key=lambda one: one[0][-1])
    }
    if len(curves) < 2:
        return not_measured("one N only")
    drops = {n: transfer.best_gain(curves[before], curves[n]) for before, n in itertools.pairwise(curves)}
    losses = ", ".join(as_text(Estimate(curve.optimum.loss), ".3f") for curve in curves.values())
    steps = ", ".join(f"{as_text(drop, '+.4f')} to N = {n}" for n, drop in drops.items())
    if any(math.isnan(drop.value) for drop in drops.values()):
        return Finding(Verdict.INCONCLUSIVE, why="every run diverged at two N")
    return every([judge(drop, low=0.0) for drop in drops.values()]).with_text(
        f"{losses} at N = {', '.join(map(str, curves))}; lower by {steps}"
    )


def deep_diverges(records: Records) -> Finding:
    """At 4 L_ref and N = 8 under linear, every run above 1.6 times N = 1's optimum (grid) at L_ref diverges."""
    cells = _cells(records, "linear")
    deep = None if cells is None else cells[(cells["depth_multiplier"] == DEEPEST) & (cells["n_loops"] == FULL_LOOPS)]
    if missing := unfinished(deep, f"run with N = {FULL_LOOPS} at 4 L_ref"):
        return missing
    rate = tuned_rate(cast(pd.DataFrame, cells))
    above = cast(pd.DataFrame, deep).query("base_lr > @limit", local_dict={"limit": SAFE_FACTOR * rate * (1 + 1e-6)})
    if math.isnan(rate) or above.empty:
        return Finding(Verdict.INCONCLUSIVE, why="no rate that high in the grid")
    diverged = int((above["state"] == "diverged").sum())
    verdict = Verdict.HOLDS if diverged == len(above) else Verdict.FAILS
    return Finding(verdict, f"{diverged} of {len(above)} runs above {SAFE_FACTOR * rate:.3g} diverged")


def tuned_rate(cells: pd.DataFrame) -> float:
    """The base rate tuned at N = 1, its `best_rate` at L_ref under linear. NaN if nothing has finished."""
    shallow = cells.query("rule == 'linear' and depth_multiplier == 1")
    points = transfer.average_seeds(shallow)
    found = transfer.curves(points, transfer.pooled_noise(shallow, points))
    first = next((curve for key, curve in found.items() if key[3] == transfer.REFERENCE_LOOPS), None)
    at = None if first is None else transfer.best_rate(first)
    return math.nan if first is None or at is None else float(first.rates[at])


def _cells(records: Records, rule: str) -> pd.DataFrame | None:
    cells = records.cells.get("lr_transfer")
    return None if cells is None else cells[cells["rule"] == rule]


def _rows(cells: pd.DataFrame) -> list[Row]:
    points = transfer.average_seeds(cells)
    return cast(list[Row], transfer.transfer_table(points, transfer.pooled_noise(cells, points)).to_dict("records"))


def _gains(cells: pd.DataFrame) -> pd.DataFrame:
    shallow = cells[cells["depth_multiplier"] == 1]
    points = transfer.average_seeds(shallow)
    return transfer.gain_table(points, transfer.pooled_noise(shallow, points))


def _estimate(row: Any, name: str) -> Estimate:
    return Estimate(row[name], row[f"{name}_low"], row[f"{name}_high"])


def _same(shift: Estimate, rows: list[Row]) -> Finding:
    """Whether the shift is within ± `SAME_OCTAVES`. With an open interval the reason names the edge optima."""
    flagged = [f"L = {row['n_layers']}, N = {row['n_loops']}" for row in rows if row["flag"]]
    edges = f"edge optimum at {'; '.join(flagged)}" if len(flagged) < 3 else f"edge optima on {len(flagged)} curves"
    is_open = math.isinf(shift.low) or math.isinf(shift.high)
    return judge(shift, -SAME_OCTAVES, SAME_OCTAVES, reason=edges if flagged and is_open else "")


def _shift_text(row: Row, shift: Estimate) -> str:
    """The shift of the optima (fitted), or that of the optima (grid) if neither it nor a limit of it is known."""
    known = any(math.isfinite(value) for value in (shift.value, shift.low, shift.high))
    return as_text(shift, "+.2f") if known else f"{as_text(Estimate(row['shift_octaves']), '+.2f')} (on the grid)"


def _reach(shift: Estimate) -> float:
    """How far the estimate is from zero, or its nearer end if it has no value."""
    if not math.isnan(shift.value):
        return abs(shift.value)
    return max(shift.low, -shift.high, 0.0) if shift.has_interval else 0.0
