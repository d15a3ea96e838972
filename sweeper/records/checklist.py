"""The facts that checklists of conferences ask for, out of a sweep's cells and what is known of its origin."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from sweeper.records.axes import as_text, is_extra, ordered
from sweeper.records.foreign import STATES

SEARCHED = ("base_lr", "n_loops", "n_layers", "d_model", "rule", "architecture", "seed")
_FEW = 8  # values of an axis that are listed
_NOT_SHOWN = ("preset", "kind", "data")  # of the fixed values: stated elsewhere, or no hyperparameter


def checklist(name: str, cells: pd.DataFrame, origin: Mapping[str, Any]) -> Iterator[str]:
    """Lines of Markdown about one sweep.

    Args:
        name: of the sweep.
        cells: of the sweep, see `sweeper.records.status.sweep_table`.
        origin: of its finished runs, see `sweeper.records.export.describe`.
    """
    runs = cells.drop_duplicates("run_id")
    states = runs["state"].value_counts()
    counted = ", ".join(f"{count} {state}" for state, count in states.items())
    yield f"**{name}** ({cells['experiment'].iloc[0]}, preset {cells['preset'].iloc[0]})"
    yield ""
    yield f"- Runs: {len(runs)} for {len(cells)} cells of the grid ({counted}). None is excluded."
    axes = dict(_axes(cells))
    yield f"- Searched: {'; '.join(f'{name}: {_values(values)}' for name, values in axes.items() if len(values) > 1)}."
    fixed = {name: values[0] for name, values in axes.items() if len(values) == 1} | dict(_fixed(origin))
    yield f"- Fixed: {', '.join(f'{key} = {as_text(value)}' for key, value in fixed.items())}."
    if cells["val_loss"].notna().any():
        yield (
            "- Method of choosing: the grid above, made by the commands below. Criterion: final validation loss in "
            "nats per token, mean over seeds. Optimum (grid): the rate with the lowest mean. Optimum (fitted): vertex "
            "of the parabola in log rate through the rates around it."
        )
    seeds = cells["seed"].nunique()
    bars = "95% intervals, see docs/statistics.md" if seeds > 1 else "none"
    yield f"- Repetitions: {seeds} seed{'s' * (seeds > 1)}. Error bars: {bars}."
    yield f"- Compute: {_compute(runs, origin)}."
    hardware = ", ".join(origin.get("processor", [])) or "not recorded"
    yield f"- Hardware: {hardware}. Energy: not measured."
    packages = ", ".join(f"{package} {version}" for package, version in origin.get("packages", {}).items())
    commits = ", ".join(str(commit)[:10] for commit in origin.get("commit", []))
    yield f"- Software: Python {origin.get('python') or 'unknown'}, {packages or 'unknown packages'}; commit {commits}."
    yield f"- Command: {origin.get('command', 'not recorded')}"
    yield ""


def _axes(cells: pd.DataFrame) -> Iterator[tuple[str, list[Any]]]:
    """The values of every axis that has one."""
    names = [*(name for name in SEARCHED if name in cells), *(name for name in map(str, cells) if is_extra(name))]
    yield from ((name, values) for name in names if (values := ordered(cells[name].dropna())))


def _values(values: list[Any]) -> str:
    if len(values) > _FEW and all(isinstance(value, int | float) for value in values):
        return f"{len(values)} values from {as_text(values[0])} to {as_text(values[-1])}"
    return ", ".join(map(as_text, values))


def _fixed(origin: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    values = origin.get("values", {})
    yield from ((key, value) for key, value in values.items() if key not in _NOT_SHOWN and value is not None)


def _compute(runs: pd.DataFrame, origin: Mapping[str, Any]) -> str:
    """Hours of finished runs, and an estimate for those that have no result."""
    hours = {"hours of runs": "run_hours", "core-hours": "core_hours", "GPU-hours": "gpu_hours"}
    parts = [f"{origin[key]:.2f} {text}" for text, key in hours.items() if origin.get(key)]
    found = ", ".join(parts) or "not recorded"
    left = runs[~runs["state"].isin(STATES) & (runs["step"] > 0)]
    if left.empty:
        return f"{found}, of all runs that logged a step"
    done = runs[runs["state"].isin(STATES)]
    seconds = (done["step_seconds"] / done["step"] / (done["n_layers"] * done["n_loops"])).median()
    spent = float((left["step"] * left["n_layers"] * left["n_loops"]).sum() * seconds) / 3600
    more = "unknown hours" if math.isnan(spent) else f"about {spent:.2f} hours"
    return f"{found}, and {more} in {len(left)} runs without a result, estimated from the steps that they logged"
