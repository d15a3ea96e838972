"""The block for checklists: every run is counted, and hours of runs without a result are estimated and said to be."""

from pathlib import Path

import pandas as pd
import pytest

from sweeper.__main__ import main
from sweeper.records.checklist import checklist

RESULTS = Path(__file__).resolve().parents[3] / "results"
STORED = sorted(path.parent.name for path in RESULTS.glob("*/cells.parquet"))
ORIGIN = {"run_hours": 2.0, "core_hours": 1.5, "processor": ["Some CPU"], "values": {"optimizer.beta1": 0.9}}


def cells(**changes: object) -> pd.DataFrame:
    rows = [
        {"run_id": f"r{seed}{rate}", "base_lr": rate, "seed": seed, "state": "done", "val_loss": 3.0, "step": 100}
        for seed in (0, 1)
        for rate in (1e-3, 2e-3)
    ]
    shared = {"experiment": "lr_transfer", "preset": "smoke", "n_layers": 2, "n_loops": 4, "step_seconds": 36.0}
    table = pd.DataFrame(rows).assign(**shared)
    for name, value in changes.items():
        table.loc[3, name] = value
    return table


def test_bounds_fixed_values_seeds_and_criterion_are_stated() -> None:
    text = "\n".join(checklist("mine", cells(), ORIGIN))
    assert "Runs: 4 for 4 cells of the grid (4 done)." in text
    assert "Searched: base_lr: 0.001, 0.002; seed: 0, 1." in text
    assert "Fixed: n_loops = 4, n_layers = 2, optimizer.beta1 = 0.9." in text
    assert "Repetitions: 2 seeds." in text
    assert "2.00 hours of runs, 1.50 core-hours, of all runs that logged a step" in text


def test_hours_of_a_failed_run_are_estimated_from_its_steps() -> None:
    failed = cells(state="failed", step=50, step_seconds=float("nan"), val_loss=float("nan"))
    text = "\n".join(checklist("mine", failed, ORIGIN))
    assert "(3 done, 1 failed)" in text
    assert "and about 0.01 hours in 1 runs without a result" in text  # 50 of 100 steps of 36 s: 18 s, 0.005 h


@pytest.mark.parametrize("name", STORED)
def test_every_shipped_sweep_has_a_block(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["checklist", "--results", str(RESULTS / name)])
    out = capsys.readouterr().out
    sweeps = pd.read_parquet(RESULTS / name / "cells.parquet", columns=["sweep"])["sweep"].unique()
    assert [line.split("**")[1] for line in out.splitlines() if line.startswith("**")] == list(sweeps)
    assert out.count("Compute: ") == len(sweeps)
