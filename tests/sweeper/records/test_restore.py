"""Runs restored from records draw the same figures and export the same tables."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from analysis import plot_fig2, plot_fig5
from sweeper.__main__ import main
from sweeper.errors import UserError
from sweeper.records.compare import Agreement
from sweeper.records.import_runs import import_runs
from sweeper.records.run_dir import RunDir, readout_rows
from sweeper.records.status import State, run_status
from sweeper.records.sweep_manifest import Sweep, add

TABLES = ("cells", "curves", "readouts")


def unwatched(done: int, total: int) -> None:
    pass


def export(name: str, root: Path, out: Path) -> None:
    main(["export", name, "--runs", str(root / "runs"), "--out", str(out)])


@pytest.fixture(scope="module")
def quick(repository: Path) -> Path:
    """Records that ship with the project."""
    return repository / "results" / "quick"


@pytest.fixture(scope="module")
def restored(quick: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A machine with nothing but the smallest sweeps of those records. Do not change it."""
    root = tmp_path_factory.mktemp("restored")
    few = shutil.copytree(quick, root / "quick")
    cells = pd.read_parquet(few / "cells.parquet")
    small = cells["sweep"].isin(["increments-quick", "init_probe-quick"]) | (
        (cells["sweep"] == "lr_transfer-quick") & (cells["panel"] == "a") & (cells["n_loops"] <= 2)
    )
    cells[small].to_parquet(few / "cells.parquet", index=False)
    import_runs(few, root / "runs", root / "sweeps", unwatched)
    return root


@pytest.mark.parametrize("name", ["increments-quick", "init_probe-quick", "lr_transfer-quick"])
def test_an_export_of_restored_runs_has_what_the_records_have(restored, name: str) -> None:
    records, out = restored / "quick", restored / f"out-{name}"
    export(name, restored, out)
    cells = pd.read_parquet(records / "cells.parquet").query("sweep == @name")
    run_ids = set(cells["run_id"])
    for table in TABLES:
        recorded, again = (pd.read_parquet(place / f"{table}.parquet") for place in (records, out))
        recorded = recorded[recorded["run_id"].isin(run_ids)]
        recorded = recorded.query("sweep == @name") if table == "cells" else recorded
        recorded = recorded.dropna(axis="columns", how="all")  # columns of other sweeps in the same file
        keys = [key for key in ("run_id", "panel", "rule", "step", "readout", "i", "j") if key in recorded]
        first, second = (
            one[list(recorded)].sort_values(keys, kind="stable").reset_index(drop=True) for one in (recorded, again)
        )
        pd.testing.assert_frame_equal(first, second, check_exact=True, check_dtype=False)


def test_provenance_of_a_whole_restored_sweep_is_that_of_the_records(restored, quick) -> None:
    out = restored / "provenance"
    export("init_probe-quick", restored, out)
    [described] = json.loads((out / "provenance.json").read_text()).values()
    assert described == json.loads((quick / "provenance.json").read_text())["init_probe-quick"]


@pytest.mark.parametrize(("script", "panel"), [(plot_fig5, ["--where", "panel=a"]), (plot_fig2, [])])
def test_figures_of_restored_runs_are_byte_for_byte_those_of_the_records(restored, script, panel) -> None:
    drawn = []
    for source in (["--results", str(restored / "quick")], ["--runs", str(restored / "runs")]):
        out = restored / f"{script.__name__}{source[0]}"
        script.main([*source, *panel, "--format", "svg", "--out", str(out)])
        drawn.append({path.name: path.read_bytes() for path in out.iterdir() if path.suffix == ".csv"})
    assert drawn[0] == drawn[1] != {}


def test_a_restored_run_says_where_it_is_from_and_has_no_configuration(restored) -> None:
    rundir = RunDir(next(path for path in (restored / "runs").iterdir() if path.name.startswith("L1-N1")))
    assert rundir.origin["kind"] == "records"
    assert rundir.origin["from"] == "quick"
    assert "no configuration" in rundir.origin["holds"]
    assert not rundir.config.exists()
    assert run_status(rundir.path).state is State.DONE


def test_records_of_runs_that_are_here_are_compared_with_them(finished_sweep, tmp_path) -> None:
    root = tmp_path / "copy"
    for name in ("runs", "sweeps"):
        shutil.copytree(finished_sweep.path / name, root / name)
    [manifest] = (root / "sweeps").glob("*.json")
    export(manifest.stem, root, tmp_path / "records")
    found = import_runs(tmp_path / "records", root / "runs", root / "sweeps", unwatched)
    assert {one.agreement for one in found.here.values()} == {Agreement.EQUAL}
    assert (found.taken, found.refused) == ([], {})
    assert list(found.sweeps) == [manifest.stem]
    cells = pd.read_parquet(tmp_path / "records" / "cells.parquet")
    cells.assign(val_loss=cells["val_loss"] + 0.01).to_parquet(tmp_path / "records" / "cells.parquet")
    found = import_runs(tmp_path / "records", root / "runs", root / "sweeps", unwatched)
    assert set(found.refused) == set(found.here) == set(cells["run_id"])


def test_a_run_with_its_configuration_takes_the_place_of_the_equal_one_from_records(finished_sweep, tmp_path) -> None:
    [manifest] = (finished_sweep.path / "sweeps").glob("*.json")
    export(manifest.stem, finished_sweep.path, tmp_path / "records")
    first = import_runs(tmp_path / "records", tmp_path / "runs", tmp_path / "sweeps", unwatched)
    assert all(RunDir(tmp_path / "runs" / run_id).is_restored for run_id in first.taken)
    second = import_runs(finished_sweep.runs, tmp_path / "runs", tmp_path / "sweeps", unwatched)
    assert sorted(second.taken) == sorted(first.taken)
    assert not any(RunDir(tmp_path / "runs" / run_id).is_restored for run_id in second.taken)
    export(manifest.stem, tmp_path, tmp_path / "again")
    for table in TABLES:
        assert (tmp_path / "again" / f"{table}.parquet").read_bytes() == (
            tmp_path / "records" / f"{table}.parquet"
        ).read_bytes()


def test_read_outs_come_back_as_they_were_measured(finished_sweep, tmp_path) -> None:
    [manifest] = (finished_sweep.path / "sweeps").glob("*.json")
    export(manifest.stem, finished_sweep.path, tmp_path / "records")
    found = import_runs(tmp_path / "records", tmp_path / "runs", tmp_path / "sweeps", unwatched)
    for run_id in found.taken:
        measured, restored = (RunDir(place / run_id).readouts() for place in (finished_sweep.runs, tmp_path / "runs"))
        assert list(restored) == list(measured)
        for name, values in measured.items():
            assert readout_rows(**restored[name]) == readout_rows(**values)


def test_title_values_and_extra_axes_of_a_sweep_come_back(finished_sweep, tmp_path) -> None:
    [manifest] = (finished_sweep.path / "sweeps").glob("*.json")
    sweep = Sweep.load(manifest)
    varied = [{**cell, "values": {"optimizer.beta2": 0.5, "data.path": "x"}} for cell in sweep.cells[:2]]
    sweep = replace(sweep, name="titled", title="mine", cells=(*varied, *sweep.cells[2:]))
    sweep.save(tmp_path / "sweeps")
    places = ["--runs", str(finished_sweep.runs), "--sweeps", str(tmp_path / "sweeps")]
    main(["export", "titled", *places, "--out", str(tmp_path / "records")])
    import_runs(tmp_path / "records", tmp_path / "there" / "runs", tmp_path / "there" / "sweeps", unwatched)
    restored = Sweep.load(tmp_path / "there" / "sweeps" / "titled.json")
    assert replace(restored, id=sweep.id) == sweep
    again, changed = add(tmp_path / "there" / "sweeps", sweep)  # what is submitted under that name adds up
    assert (again.cells, changed) == (sweep.cells, False)


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("run_id", "../../planted", "is no run's id"),
        ("reason", "\x1b[2J", "not one line of plain text"),
        ("val_loss", "low", "a number is none"),
    ],
)
def test_records_with_values_that_no_run_has_are_refused(finished_sweep, tmp_path, column, value, reason) -> None:
    [manifest] = (finished_sweep.path / "sweeps").glob("*.json")
    export(manifest.stem, finished_sweep.path, tmp_path / "records")
    cells = pd.read_parquet(tmp_path / "records" / "cells.parquet")
    cells.assign(**{column: value}).to_parquet(tmp_path / "records" / "cells.parquet")
    found = import_runs(tmp_path / "records", tmp_path / "runs", tmp_path / "sweeps", unwatched)
    assert found.taken == []
    assert any(reason in why for why in found.refused.values())
    assert not (tmp_path / "runs").exists()


def test_tables_that_are_no_records_are_one_line(tmp_path) -> None:
    for content, reason in [(b"PAR1 and no more", "cannot be read"), (None, "has no column sweep")]:
        if content is None:
            pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "cells.parquet")
        else:
            (tmp_path / "cells.parquet").write_bytes(content)
        with pytest.raises(UserError, match=reason) as refused:
            import_runs(tmp_path, tmp_path / "runs", tmp_path / "sweeps", unwatched)
        assert "\n" not in str(refused.value)
