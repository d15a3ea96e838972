"""`loopsweep list`, `rename`, `rm` and `du`, as they are typed."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from sweeper.__main__ import main
from sweeper.records.lock import RunLock
from sweeper.records.sweep_manifest import Sweep
from sweeper.run.stop import StopFlag

from .conftest import CommandResult, TypedSweep
from .test_import_export_prune import finish


@pytest.fixture
def two(sweep: TypedSweep) -> TypedSweep:
    """Sweep `mine` of four runs, two of them finished, and `other` of the first of them."""
    for rundir in sweep.rundirs[:2]:
        finish(rundir)
    mine = Sweep.load(sweep.root / "sweeps" / "mine.json")
    Sweep("other", "lr_transfer", "smoke", mine.cells[:1], id="0a1b2c").save(sweep.root / "sweeps")
    return sweep


def typed(sweep: TypedSweep, *words: str) -> CommandResult:
    sweep.capture.readouterr()
    status = 0
    try:
        main([*words, *(f"--{name}={sweep.root / name}" for name in ("runs", "sweeps"))])
    except SystemExit as end:
        status = int(end.code or 0)
    return CommandResult(status, *sweep.capture.readouterr())


def snapshot(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_list_has_a_line_a_sweep_with_its_states(two: TypedSweep) -> None:
    head, *lines = typed(two, "list").out.splitlines()
    assert head.split() == ["sweep", "id", "experiment", "cells", "runs", "changed", "states"]
    rows = {line.split()[0]: line for line in lines}
    assert rows["mine"].endswith("2 pending, 2 done")
    assert "0a1b2c" in rows["other"]
    assert rows["other"].endswith("1 done")


def test_a_renamed_sweep_keeps_everything_but_its_name(two: TypedSweep) -> None:
    before = Sweep.load(two.root / "sweeps" / "mine.json")
    (two.root / "sweeps" / "mine" / "slurm").mkdir(parents=True)
    result = typed(two, "rename", "mine", "first-try")
    assert (result.status, result.err) == (0, "")
    assert Sweep.load(two.root / "sweeps" / "first-try.json") == replace(before, name="first-try")
    assert not (two.root / "sweeps" / "mine.json").exists()
    assert (two.root / "sweeps" / "first-try" / "slurm").is_dir()


@pytest.mark.parametrize("name", ["other", "a/b", ".hidden", "", "x" * 200])
def test_a_name_that_is_taken_or_no_file_is_refused(two: TypedSweep, name: str) -> None:
    before = snapshot(two.root)
    result = typed(two, "rename", "mine", name)
    assert result.status == 2
    assert result.err.count("\n") == 1
    after = snapshot(two.root)
    assert {key: after[key] for key in before} == before


def test_rm_deletes_a_sweep_but_no_run_of_another(two: TypedSweep) -> None:
    refused = typed(two, "rm", "mine")  # nobody can be asked
    assert (refused.status, len(refused.err.splitlines())) == (2, 1)
    assert "1 runs that other sweeps use stay" in refused.out
    assert all(rundir.path.is_dir() for rundir in two.rundirs)
    assert typed(two, "rm", "mine", "--yes").status == 0
    assert [path.name for path in (two.root / "runs").iterdir()] == [two.rundirs[0].path.name]
    assert sorted(path.name for path in (two.root / "sweeps").glob("*.json")) == ["other.json"]


def test_a_sweep_with_a_running_run_is_neither_deleted_nor_renamed(two: TypedSweep) -> None:
    with RunLock(two.rundirs[3].lock, StopFlag()):
        before = snapshot(two.root)
        for words in (("rm", "mine", "--yes"), ("rename", "mine", "new")):
            result = typed(two, *words)
            assert result.status == 2
            assert "is running" in result.err
        assert {key: value for key, value in snapshot(two.root).items() if key in before} == before


def test_du_tells_all_own_and_checkpoint_bytes(two: TypedSweep) -> None:
    (two.rundirs[1].path / "big").write_bytes(os.urandom(3 << 20))
    lines = {line.split()[0]: line.split() for line in typed(two, "du").out.splitlines()[1:3]}
    assert lines["mine"][2:6] == ["3.0", "MiB", "3.0", "MiB"]
    assert lines["other"][4:6] == ["0", "bytes"]  # its run is also mine's
