"""Which sweeps the claims are judged on: one per experiment, the control of Figure 5 apart from the sweep itself."""

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from analysis import figures
from analysis.figures import Experiment, FigureRow
from analysis.records.result_sets import ARCHITECTURES, NO_DECAY, find_records
from sweeper.records.sweep_manifest import Sweep

CellTable = Callable[..., pd.DataFrame]
TABLES = ("curves", "readouts")


def stored(folder: Path, sweeps: dict[str, tuple[pd.DataFrame, dict[str, object]]]) -> Path:
    """Stored results: the cells of several sweeps, and the configuration values that `export` keeps of each."""
    folder.mkdir(parents=True)
    pd.concat([cells.assign(sweep=name) for name, (cells, _) in sweeps.items()]).to_parquet(folder / "cells.parquet")
    described = {
        name: {"command": name, **({"values": values} if values else {})} for name, (_, values) in sweeps.items()
    }
    (folder / "provenance.json").write_text(json.dumps(described))
    return folder


@pytest.mark.parametrize("decay", [0, 0.0])
def test_a_sweep_without_weight_decay_does_not_mix_with_the_default(
    decay: float, cell_table: CellTable, tmp_path: Path
) -> None:
    default, control = cell_table(loop_counts=(1, 2)), cell_table()  # the control is the larger one
    sweeps = {
        "default": (default, {"optimizer.weight_decay": 0.1}),
        "control": (control, {"optimizer.weight_decay": decay}),
    }
    [records] = find_records(None, stored(tmp_path / "both", sweeps))
    found = {kind: set(cells["sweep"]) for kind, cells in records.cells.items()}
    assert found == {"lr_transfer": {"default"}, NO_DECAY: {"control"}}
    assert records.provenance[NO_DECAY]["command"] == "control"
    [alone] = find_records(None, stored(tmp_path / "alone", {"control": sweeps["control"]}))
    assert set(alone.cells) == {NO_DECAY}


def test_a_larger_sweep_with_a_title_does_not_replace_the_one_without(cell_table: CellTable, tmp_path: Path) -> None:
    plain, titled = cell_table(loop_counts=(1, 2)), cell_table()
    sweeps = {"lr_transfer-quick": (plain, {}), "mine-lr_transfer-quick": (titled, {})}
    [records] = find_records(None, stored(tmp_path / "both", sweeps))
    assert set(records.cells["lr_transfer"]["sweep"]) == {"lr_transfer-quick"}


def test_results_of_before_values_were_kept_are_the_default(cell_table: CellTable, tmp_path: Path) -> None:
    [records] = find_records(None, stored(tmp_path / "old", {"old": (cell_table(), {})}))
    assert set(records.cells) == {"lr_transfer"}


def local(root: Path, cells: pd.DataFrame, decay: float) -> None:
    """A finished sweep of this machine, as it is submitted with this weight decay."""
    axes = [
        "panel",
        "rule",
        "n_layers",
        "ref_layers",
        "depth_multiplier",
        "n_loops",
        "base_lr",
        "seed",
        "run_id",
        "steps",
    ]
    rows = tuple(cells[axes].astype(object).to_dict("records"))
    name = f"lr_transfer-quick-optimizer.weight_decay={decay}" if decay != 0.1 else "lr_transfer-quick"
    Sweep(name, "lr_transfer", "quick", rows, base={"optimizer.weight_decay": decay}).save(root / "sweeps")
    origin = {"commit": "none", "packages": {}, "python": "3.11", "processor": "a CPU"}
    result = {
        "state": "done",
        "val_loss": 3.0,
        "step": 600,
        "reason": "",
        "seconds": {"step": 1.0},
        "provenance": origin,
    }
    for run_id in {row["run_id"] for row in rows}:
        (root / "runs" / run_id).mkdir(parents=True, exist_ok=True)
        (root / "runs" / run_id / "result.json").write_text(json.dumps(result))


def test_newest_sweep_of_this_machine_without_weight_decay_is_the_control(
    cell_table: CellTable, tmp_path: Path
) -> None:
    cells = cell_table(loop_counts=(1,)).query("panel == 'b'")
    local(tmp_path, cells, 0.1)
    local(tmp_path, cells.query("base_lr < 2e-3"), 0)
    [records] = find_records(tmp_path / "runs", tmp_path / "results")
    assert {kind: len(found) for kind, found in records.cells.items()} == {"lr_transfer": 8, NO_DECAY: 5}
    assert records.provenance[NO_DECAY]["values"] == {"optimizer.weight_decay": 0}


@pytest.fixture
def with_architectures(monkeypatch: pytest.MonkeyPatch) -> None:
    """An experiment of that name in the table of figures, whatever figures it has."""
    monkeypatch.setitem(figures.EXPERIMENTS, ARCHITECTURES, Experiment("beyond", "make sweep-architectures"))
    row = FigureRow("planted", "Planted", ARCHITECTURES, TABLES)
    monkeypatch.setattr(figures, "FIGURES", (*figures.FIGURES, row))


@pytest.mark.usefixtures("with_architectures")
def test_a_sweep_of_architectures_is_judged_with_its_curves_and_read_outs(
    cell_table: CellTable, tmp_path: Path
) -> None:
    cells = cell_table(loop_counts=(1, 2)).query("panel == 'b'").assign(experiment=ARCHITECTURES, unigram_entropy=4.26)
    cells = pd.concat(
        [cells.assign(architecture=name, run_id=name + "-" + cells["run_id"]) for name in ("plain", "FLT")]
    )
    pending = cells["base_lr"] == 4e-3
    cells.loc[pending, ["state", "val_loss", "unigram_entropy"]] = ["pending", float("nan"), float("nan")]
    folder = stored(tmp_path / "store", {"architectures-quick": (cells, {})})
    runs = pd.DataFrame({"run_id": cells["run_id"]})
    for name in TABLES:
        runs.assign(step=10, readout="test_loss", mean=3.0).to_parquet(folder / f"{name}.parquet")
    [records] = find_records(None, folder)
    found = records.cells[ARCHITECTURES]
    assert set(found["architecture"]) == {"plain", "FLT"}
    assert found["unigram_entropy"].isna().equals(found["state"] == "pending")
    assert set(records.curves) == set(records.readouts) == {ARCHITECTURES}
    assert len(records.curves[ARCHITECTURES]) == len(found)


@pytest.mark.usefixtures("with_architectures")
def test_a_sweep_of_architectures_with_a_further_axis_is_left_to_the_figures(
    cell_table: CellTable, tmp_path: Path
) -> None:
    cells = cell_table(loop_counts=(1,)).assign(experiment=ARCHITECTURES, architecture="FLT")
    both = pd.concat([cells.assign(**{"optimizer.beta2": beta}) for beta in (0.9, 0.95)])
    assert find_records(None, stored(tmp_path / "store", {"beta": (both, {})})) == []
