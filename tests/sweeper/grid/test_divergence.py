"""A plan names the runs at points where trainings of its preset diverged or collapsed before."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from sweeper.grid.divergence import divergence_warning
from sweeper.grid.plan import Plan
from sweeper.records.status import RunStatus, State
from sweeper.records.sweep_manifest import Sweep

AXES = {"panel": "loops", "rule": "none", "n_layers": 2, "ref_layers": 2, "depth_multiplier": 1.0, "d_model": 32}
RATES = (1e-3, 1e-2, 3.2e-2)


def cell(rate: float, seed: int, n_loops: int = 3, **more: Any) -> dict[str, Any]:
    run_id = f"L2-N{n_loops}-lr{rate:g}-{seed}"
    axes = {"architecture": "LT", "n_loops": n_loops, "base_lr": rate, "seed": seed, "steps": 40, "flops": 1.0}
    return {**AXES, **axes, "run_id": run_id, **more}


def planned(status: dict[str, RunStatus] | None = None, whole: Sweep | None = None, seed: int = 1) -> Plan:
    """A plan of N = 3 and 6 at all rates with one seed."""
    cells = tuple(cell(rate, seed, n_loops) for n_loops in (3, 6) for rate in RATES)
    runs: dict[str, Any] = {one["run_id"]: SimpleNamespace(config=SimpleNamespace(flops=1.0)) for one in cells}
    states = {run_id: RunStatus(State.PENDING) for run_id in runs} | (status or {})
    return Plan(Sweep("s", "architectures", "quick", cells), runs, states, whole=whole)


def records(folder: Path, *cells: dict[str, Any]) -> Path:
    """A directory of records of the quick preset, seed 0, below `folder`."""
    (folder / "some").mkdir(parents=True)
    (folder / "some" / "provenance.json").write_text(json.dumps({"s": {"preset": "quick"}}))
    known = {"preset": "quick", "state": "done", "val_loss": 3.0, "unigram_entropy": 4.25}
    pd.DataFrame([{**known, **one} for one in cells]).to_parquet(folder / "some" / "cells.parquet")
    return folder


def test_a_rate_at_which_shipped_records_diverged_is_named_with_the_rates_that_are_left(tmp_path: Path) -> None:
    shipped = records(
        tmp_path / "results",
        cell(3.2e-2, 0, state="diverged", val_loss=float("nan")),
        cell(3.2e-2, 0, 6, val_loss=4.24),  # within 0.05 nats of the unigram entropy
        cell(1e-2, 0),
        cell(1e-3, 0, 6, state="running", val_loss=4.5),
    )
    assert divergence_warning(planned(), "quick", tmp_path / "runs", shipped) == (
        "2 of 6 runs to do: at their points runs of quick have diverged or collapsed: LT none L=2 N=3 from η0=0.032, "
        "LT none L=2 N=6 from η0=0.032; optimizer.base_lr=0.001,0.01 would leave them out"
    )
    finished = {f"L2-N{n}-lr0.032-1": RunStatus(State.DONE) for n in (3, 6)}
    assert divergence_warning(planned(finished), "quick", tmp_path / "runs", shipped) == ""


@pytest.mark.parametrize("other", [{"steps": 50}, {"n_layers": 4}, {"rule": "linear"}, {"architecture": "FLT"}])
def test_records_of_another_point_or_preset_flag_nothing(other: dict[str, Any], tmp_path: Path) -> None:
    lost = {"state": "diverged", "val_loss": float("nan")}
    shipped = records(tmp_path / "results", cell(1e-2, 0, **{**lost, **other}))
    assert divergence_warning(planned(), "quick", tmp_path / "runs", shipped) == ""
    shipped = records(tmp_path / "same", cell(1e-2, 0, **lost))
    assert divergence_warning(planned(), "laptop", tmp_path / "runs", shipped) == ""
    assert divergence_warning(planned(), "quick", tmp_path / "runs", shipped) != ""


def test_another_seed_of_the_same_sweep_counts_as_a_record(tmp_path: Path) -> None:
    whole = Sweep("s", "architectures", "quick", (cell(1e-2, 0), *planned().sweep.cells))
    lost = {"L2-N3-lr0.01-0": RunStatus(State.DIVERGED)}
    found = divergence_warning(planned(lost, whole), "quick", tmp_path / "runs", tmp_path / "none")
    assert found.startswith("1 of 6 runs to do: at their points runs of quick have diverged or collapsed: LT none")


def test_a_point_at_every_rate_leaves_no_rate_to_propose(tmp_path: Path) -> None:
    shipped = records(tmp_path / "results", *(cell(rate, 0, state="diverged") for rate in RATES))
    found = divergence_warning(planned(), "quick", tmp_path / "runs", shipped)
    assert found.startswith("3 of 6 runs to do")
    assert "from η0=0.001; another panel" in found
