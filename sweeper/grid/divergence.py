"""Points of a grid at which trainings of its preset diverged or collapsed before, flagged before they are trained."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sweeper.files import read_json
from sweeper.grid.plan import Plan
from sweeper.records.axes import PLAIN, as_text
from sweeper.records.collapse import has_collapsed
from sweeper.records.presets import SHIPPED, name_today
from sweeper.records.status import run_status, sweep_rows

SHOWN = 4  # curves in the line; more are counted
_CURVE = ("rule", "architecture", "n_layers", "ref_layers", "n_loops", "d_model", "steps")
_COLUMNS = [*_CURVE, "base_lr", "preset", "state", "val_loss", "unigram_entropy"]

Point = tuple[str, ...]


def divergence_warning(plan: Plan, preset: str, runs: Path, shipped: Path = SHIPPED) -> str:
    """One line on the runs to do at points where a training diverged or collapsed, with any seed. Else empty.

    A point is a rule, an architecture, L, L_ref, N, a width, steps and a base rate.

    Args:
        plan: of the grid.
        preset: its scale. Only records of it count.
        runs: run directories; those of the plan's whole sweep are its own records.
        shipped: directories of records.
    """
    lost = {_point(cell) for cell in (*_own(plan, runs), *_shipped(preset, shipped)) if has_collapsed(cell)}
    todo = set(plan.to_run) if lost else set()
    cells = [cell for cell in plan.sweep.cells if cell["run_id"] in todo]
    flagged = [cell for cell in cells if _point(cell) in lost]
    if not flagged:
        return ""
    kept = {cell["base_lr"] for cell in cells} - {cell["base_lr"] for cell in flagged}
    rates = f"optimizer.base_lr={','.join(as_text(rate) for rate in sorted(kept))}"
    without = f"{rates if kept else 'another panel or other values of model.n_loops'} would leave them out"
    count = len({cell["run_id"] for cell in flagged})
    where = f"at their points runs of {preset} have diverged or collapsed: {_curves(flagged)}"
    return f"{count} of {len(todo)} runs to do: {where}; {without}"


def _curves(cells: Iterable[Mapping[str, Any]]) -> str:
    """`LT none L=2 N=6 from η0=0.01`, a curve each."""
    lowest: dict[str, float] = {}
    for cell in cells:
        curve = f"{cell.get('architecture') or PLAIN} {cell['rule']} L={cell['n_layers']} N={cell['n_loops']}"
        lowest[curve] = min(cell["base_lr"], lowest.get(curve, cell["base_lr"]))
    texts = [f"{curve} from η0={as_text(rate)}" for curve, rate in lowest.items()]
    more = [f"and {len(texts) - SHOWN} more"] if len(texts) > SHOWN else []
    return ", ".join([*texts[:SHOWN], *more])


def _point(cell: Mapping[str, Any]) -> Point:
    values = {**cell, "architecture": cell.get("architecture") or PLAIN}
    return (*(as_text(values.get(name)) for name in _CURVE), f"{cell['base_lr']:.6g}")


def _own(plan: Plan, runs: Path) -> list[dict[str, Any]]:
    """The cells of the whole sweep, such as other seeds of the same points."""
    whole = plan.whole or plan.sweep
    known = dict(plan.status)
    return sweep_rows(whole, {run_id: known.get(run_id) or run_status(runs / run_id) for run_id in whole.run_ids})


def _shipped(preset: str, directory: Path) -> Iterator[dict[str, Any]]:
    """The cells of the preset in all records of a directory."""
    for file in sorted(directory.glob("*/cells.parquet")):
        described = read_json(file.parent / "provenance.json") or {}
        if not any(preset.startswith(str(sweep.get("preset"))) for sweep in described.values()):
            continue
        import pyarrow.parquet as pq  # takes time, and most grids have no records of their preset

        known = set(pq.read_schema(file).names)
        for cell in pq.read_table(file, columns=[name for name in _COLUMNS if name in known]).to_pylist():
            if name_today(cell["preset"], cell["steps"]) == preset:
                yield cell
