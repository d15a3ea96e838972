"""What a directory of runs holds, its exported tables hold."""

import itertools
import json
import shutil
from dataclasses import replace

import pandas as pd
import pytest

from sweeper.__main__ import main
from sweeper.records.export import describe
from sweeper.records.run_dir import RunDir
from sweeper.records.sweep_manifest import Sweep


@pytest.fixture(scope="module")
def exported(finished_sweep, tmp_path_factory):
    """The smoke sweep's tables. Do not change them."""
    out = tmp_path_factory.mktemp("results") / "smoke"
    export(finished_sweep, out)
    return out


def export(sweep, out) -> None:
    [manifest] = (sweep.path / "sweeps").glob("*.json")
    places = ["--runs", str(sweep.runs), "--sweeps", str(sweep.path / "sweeps")]
    main(["export", manifest.stem, *places, "--out", str(out), "--command", "make sweep-lr-transfer PRESET=smoke"])


def test_every_cell_and_every_logged_step_is_there(finished_sweep, exported) -> None:
    [manifest] = (finished_sweep.path / "sweeps").glob("*.json")
    sweep = Sweep.load(manifest)
    cells, curves = (pd.read_parquet(exported / f"{name}.parquet") for name in ("cells", "curves"))
    assert len(cells) == len(sweep.cells)
    assert set(curves["run_id"]) == set(sweep.run_ids)
    run_id = sweep.run_ids[0]
    lines = RunDir(finished_sweep.runs / run_id).read_metrics()
    losses = {line["step"]: line["loss"] for line in lines if "loss" in line}
    validations = {line["step"]: line["val_loss"] for line in lines if "val_loss" in line}
    curve = curves[curves["run_id"] == run_id].set_index("step")
    assert curve["loss"].to_dict() == losses
    assert curve["val_loss"].dropna().to_dict() == validations


def test_read_outs_are_there_for_every_finished_run(finished_sweep, exported) -> None:
    readouts = pd.read_parquet(exported / "readouts.parquet")
    cells = pd.read_parquet(exported / "cells.parquet")
    for cell in cells[cells["state"] == "done"].to_dict("records"):
        of_run = readouts[readouts["run_id"] == cell["run_id"]]
        counts = of_run["readout"].value_counts().to_dict()
        n = cell["n_loops"]
        assert counts == {"residual_norm": n + 1, "loop_loss": n + 1, "increment_cosine": n * n}
        last = of_run[(of_run["readout"] == "loop_loss") & (of_run["i"] == n)]["mean"].item()
        # smoke's validation set is smaller than the read-outs' share of it: the same tokens
        assert last == pytest.approx(cell["val_loss"], rel=1e-5)


def test_a_second_export_replaces_and_another_sweep_joins(finished_sweep, exported, tmp_path) -> None:
    out = shutil.copytree(exported, tmp_path / "copy")
    before = {path.name: path.read_bytes() for path in out.glob("*.parquet")}
    export(finished_sweep, out)
    assert {path.name: path.read_bytes() for path in out.glob("*.parquet")} == before
    cells = pd.read_parquet(out / "cells.parquet").assign(sweep="another", run_id="x")
    both = pd.concat([pd.read_parquet(out / "cells.parquet"), cells])
    both.to_parquet(out / "cells.parquet")
    export(finished_sweep, out)
    [manifest] = (finished_sweep.path / "sweeps").glob("*.json")
    assert set(pd.read_parquet(out / "cells.parquet")["sweep"]) == {"another", manifest.stem}


def test_provenance_names_command_commit_packages_and_cost(exported) -> None:
    [described] = json.loads((exported / "provenance.json").read_text()).values()
    assert described["command"] == "make sweep-lr-transfer PRESET=smoke"
    assert described["finished"] == described["runs"] > 0
    assert described["commit"]
    assert described["packages"]["torch"]
    assert 0 < described["core_hours"] < 1
    assert described["gpu_hours"] == 0


def test_provenance_counts_hours_of_every_gpu(finished_sweep) -> None:
    [manifest] = (finished_sweep.path / "sweeps").glob("*.json")
    sweep = Sweep.load(manifest)
    result = RunDir(finished_sweep.runs / sweep.run_ids[0]).result()
    on_gpus = {
        **result,
        "seconds": {"step": 3600.0, "cpu": 9.0},
        "provenance": {**result["provenance"], "gpu": "NVIDIA H100", "gpus": 2},
    }
    described = describe(sweep, [result, on_gpus], "")
    assert described["gpu_hours"] == 2
    assert described["processor"] == sorted([result["provenance"]["processor"], "NVIDIA H100"])


def test_provenance_is_that_of_the_results_in_any_order(finished_sweep) -> None:
    [manifest] = (finished_sweep.path / "sweeps").glob("*.json")
    sweep = Sweep.load(manifest)
    result = RunDir(finished_sweep.runs / sweep.run_ids[0]).result()
    results = [
        {
            **result,
            "seconds": {"step": 3600 * tenths / 10, "cpu": 3600 * tenths / 10},
            "provenance": {**result["provenance"], "gpus": 1, "packages": {"torch": f"2.{tenths}"}},
        }
        for tenths in (1, 2, 3)
    ]
    described = describe(sweep, results, "")
    assert described["packages"] == {"torch": "2.1 and 2.2 and 2.3"}
    for order in itertools.permutations(results):
        assert describe(sweep, order, "") == described


def test_provenance_has_the_commands_that_were_recorded_or_none(finished_sweep, tmp_path) -> None:
    [manifest] = (finished_sweep.path / "sweeps").glob("*.json")
    places = ["--runs", str(finished_sweep.runs), "--sweeps", str(finished_sweep.path / "sweeps")]
    main(["export", manifest.stem, *places, "--out", str(tmp_path / "new")])
    [described] = json.loads((tmp_path / "new" / "provenance.json").read_text()).values()
    typed = f"+sweep=lr_transfer preset=smoke data.path={finished_sweep.text} data.val_fraction=0.3"
    assert described["command"] == f"loopsweep submit {typed} hydra.launcher.workers=2"
    sweep = Sweep.load(manifest)
    described = describe(replace(sweep, commands=("first", "second")), [])
    assert described["command"] == "first; second"
    assert "command" not in describe(replace(sweep, commands=()), [])


def test_an_extra_axis_is_a_column_of_the_exported_cells(finished_sweep, tmp_path) -> None:
    [manifest] = (finished_sweep.path / "sweeps").glob("*.json")
    sweep = Sweep.load(manifest)
    cells = tuple(
        {**cell, "values": {"optimizer.beta2": 0.9}} if cell["panel"] == "a" else cell for cell in sweep.cells
    )
    replace(sweep, name="varied", cells=cells).save(tmp_path / "sweeps")
    places = ["--runs", str(finished_sweep.runs), "--sweeps", str(tmp_path / "sweeps")]
    main(["export", "varied", *places, "--out", str(tmp_path / "cells.parquet")])
    main(["export", manifest.stem, "--runs", str(finished_sweep.runs), "--out", str(tmp_path / "plain.parquet")])
    table, plain = (pd.read_parquet(tmp_path / f"{name}.parquet") for name in ("cells", "plain"))
    assert table.groupby("panel")["optimizer.beta2"].unique().map(list).to_dict() == {
        "a": [0.9], "b": [0.95], "c": [0.95], "d": [0.95]
    }  # fmt: skip
    assert set(table) - set(plain) == {"optimizer.beta2"}
