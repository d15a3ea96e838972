"""`loopsweep import`, `export --out FILE.tar` and `prune`, as they are typed."""

import json
from pathlib import Path

import pytest

from sweeper.__main__ import main
from sweeper.records.checkpoint import save_checkpoint
from sweeper.records.run_dir import RunDir

from .conftest import RESULT, CommandResult, TypedSweep

ORIGIN = {"commit": None, "diff": None, "python": "3.11", "packages": {"torch": "2"}, "processor": "Some CPU"}


def finish(rundir: RunDir, loss: float = 3.25) -> None:
    """A result, the metrics that lead to it, and a checkpoint."""
    rundir.metrics.write_text(f'{{"step": 12, "loss": 3.0}}\n{{"step": 12, "val_loss": {loss}}}\n')
    save_checkpoint(rundir.checkpoints, 12, {"step": 12, "val_loss": loss, "model": {}, "optimizer": {}})
    rundir.write_result({**RESULT, "val_loss": loss, "provenance": ORIGIN})


@pytest.fixture
def archive(sweep: TypedSweep) -> Path:
    """The first two of the four runs, exported."""
    for rundir in sweep.rundirs[:2]:
        finish(rundir)
    result = sweep.type("export", "--out", str(sweep.root / "some" / "runs.tar"))
    assert (result.status, result.err) == (0, "")
    assert "wrote 2 of 4 runs, those that are finished" in result.out
    return sweep.root / "some" / "runs.tar"


def import_into(sweep: TypedSweep, source: Path, name: str) -> CommandResult:
    sweep.capture.readouterr()
    status = 0
    try:
        main(["import", str(source), "--runs", str(sweep.root / name / "runs")])
    except SystemExit as end:
        status = int(end.code or 0)
    return CommandResult(status, *sweep.capture.readouterr())


def test_what_was_exported_is_imported_and_a_second_time_is_equal(sweep: TypedSweep, archive: Path) -> None:
    result = import_into(sweep, archive, "other")
    assert (result.status, result.err) == (0, "")
    assert result.out == "2 runs taken\nsweep mine now has 4 cells\n"
    again = import_into(sweep, archive, "other")
    assert again.out.splitlines() == [
        "0 runs taken",
        "2 runs are finished here too, and stay as they are here: 2 bit-equal · 0 within 0.001 · 0 conflict",
        "sweep mine has, as before, 4 cells",
    ]


def test_a_difference_is_reported_and_a_conflict_is_one_line_and_status_2(sweep: TypedSweep, archive: Path) -> None:
    finish(sweep.rundirs[0], 3.2504)
    finish(sweep.rundirs[1], 3.35)
    near, far = (rundir.path.name for rundir in sweep.rundirs[:2])
    sweep.capture.readouterr()
    with pytest.raises(SystemExit) as end:
        main(["import", str(archive), "--runs", str(sweep.root / "runs"), "--sweeps", str(sweep.root / "sweeps")])
    out, err = sweep.capture.readouterr()
    assert end.value.code == 2
    assert "0 bit-equal · 1 within 0.001 · 1 conflict" in out
    assert f"{near}  within 0.001: final difference 0.0004, largest on the way 0.0004 (val_loss at step 12)" in out
    assert err == (
        f"error: refused, and not written: {far}: conflict: final difference 0.1, largest on the way 0.1 "
        "(val_loss at step 12); all else is imported\n"
    )
    assert sweep.rundirs[1].result() == {**RESULT, "val_loss": 3.35, "provenance": ORIGIN}


def test_a_truncated_tar_is_one_line_and_nothing_is_written(sweep: TypedSweep, archive: Path) -> None:
    archive.write_bytes(archive.read_bytes()[:5000])
    result = import_into(sweep, archive, "other")
    assert (result.status, result.out, result.err.count("\n")) == (2, "", 1)
    assert result.err.startswith(f"error: {archive} is refused: ")
    assert not (sweep.root / "other" / "runs").exists()


def test_a_sweep_without_finished_runs_is_not_exported(sweep: TypedSweep) -> None:
    result = sweep.type("export", "--out", str(sweep.root / "runs.tar"))
    assert result.status == 2
    assert result.err == "error: no finished run of mine can be exported; `loopsweep status` shows them\n"
    assert not (sweep.root / "runs.tar").exists()


def test_a_run_that_an_import_would_refuse_is_named_when_it_is_exported(sweep: TypedSweep) -> None:
    for rundir in sweep.rundirs[:2]:
        finish(rundir)
    sweep.rundirs[0].metrics.write_text('{"step": 12, "val_loss": 3.0}\n')
    result = sweep.type("export", "--out", str(sweep.root / "runs.tar"))
    assert "wrote 1 of 4 runs" in result.out
    assert f"{sweep.rundirs[0].path.name} left out: val_loss is 3.25 in result.json and 3.0" in result.out


def test_prune_asks_and_without_a_terminal_prunes_nothing(sweep: TypedSweep, archive: Path) -> None:
    before = sorted(sweep.root.rglob("*.pt"))
    result = sweep.type("prune", "--keep", "nothing")
    assert result.status == 2
    assert "checkpoints of 2 finished runs of mine: pruning frees " in result.out
    assert result.err == "error: nothing was pruned; --yes prunes the checkpoints of 2 runs\n"
    assert sorted(sweep.root.rglob("*.pt")) == before


def test_prune_frees_what_finished_runs_have_and_no_unfinished_one(sweep: TypedSweep, archive: Path) -> None:
    unfinished = sweep.rundirs[2]
    save_checkpoint(unfinished.checkpoints, 4, {"step": 4})
    result = sweep.type("prune", "--keep", "nothing", "--yes")
    assert (result.status, result.err) == (0, "")
    assert " in 2 runs" in result.out.splitlines()[-1]
    assert [path.parent.parent.name for path in sweep.root.rglob("*.pt")] == [unfinished.path.name]
    assert json.loads((sweep.rundirs[0].path / "result.json").read_text())["val_loss"] == 3.25
    again = sweep.type("prune", "--keep", "nothing", "--yes")
    assert again.out == "nothing to prune: no finished run of mine has checkpoints beyond what is to stay\n"
