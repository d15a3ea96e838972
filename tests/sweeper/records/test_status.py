"""Every state a run can be in, told from its directory; and the table that figures are drawn from."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sweeper.errors import UserError
from sweeper.records import lock as lock_module
from sweeper.records.lock import RunLock
from sweeper.records.metrics import SCORES
from sweeper.records.run_dir import RunDir
from sweeper.records.status import State, latest_sweep, run_status, sweep_table
from sweeper.records.sweep_manifest import Sweep
from sweeper.run.stop import StopFlag


def result(state: str, val_loss: float | None, reason: str = "") -> dict[str, object]:
    return {"state": state, "val_loss": val_loss, "step": 12, "reason": reason, "seconds": {"step": 1.5}}


@pytest.fixture
def rundir(tmp_path: Path) -> RunDir:
    """A run that has logged three steps."""
    path = tmp_path / "runs" / "a"
    path.mkdir(parents=True)
    (path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 3}\n{"ste')
    return RunDir(path)


def dead_owner(path: Path) -> None:
    owner = {"machine": lock_module._machine(), "pid": os.getpid(), "process_start": "1", "token": "x"}
    path.write_text(json.dumps(owner))


def test_a_run_that_does_not_exist_is_pending(tmp_path: Path) -> None:
    status = run_status(tmp_path / "none")
    assert (status.state, status.step) == (State.PENDING, 0)
    assert math.isnan(status.val_loss)


def test_a_run_stopped_in_good_order_is_pending_and_tells_how_far_it_came(rundir) -> None:
    assert (run_status(rundir.path).state, run_status(rundir.path).step) == (State.PENDING, 3)


def test_a_run_with_a_live_owner_is_running(rundir) -> None:
    with RunLock(rundir.lock, StopFlag()):
        assert (run_status(rundir.path).state, run_status(rundir.path).step) == (State.RUNNING, 3)
    assert run_status(rundir.path).state is State.PENDING


def test_a_run_whose_owner_is_gone_is_lost(rundir) -> None:
    dead_owner(rundir.lock)
    status = run_status(rundir.path)
    assert (status.state, status.step) == (State.LOST, 3)
    assert "gone" in status.reason


def test_a_run_that_failed_says_why_until_somebody_tries_again(rundir) -> None:
    rundir.write_failure("worker died with signal SIGKILL", attempts=2)
    dead_owner(rundir.lock)
    status = run_status(rundir.path)
    assert (status.state, status.reason) == (State.FAILED, "worker died with signal SIGKILL")
    rundir.lock.unlink()
    with RunLock(rundir.lock, StopFlag()):
        assert run_status(rundir.path).state is State.RUNNING


def test_done_and_diverged_are_what_the_result_says(rundir) -> None:
    dead_owner(rundir.lock)  # a result outweighs whatever else lies there
    rundir.write_result(result("done", 3.25))
    done = run_status(rundir.path)
    assert (done.state, done.val_loss, done.step, done.step_seconds) == (State.DONE, 3.25, 12, 1.5)
    rundir.write_result(result("diverged", None, "loss is nan at step 2"))
    diverged = run_status(rundir.path)
    assert (diverged.state, diverged.reason) == (State.DIVERGED, "loss is nan at step 2")
    assert math.isnan(diverged.val_loss)


def test_the_unigram_entropy_is_a_column_and_nan_where_it_was_not_recorded(tmp_path: Path, rundir) -> None:
    rundir.write_result({**result("done", 3.25), "unigram_entropy": 4.26})
    RunDir(tmp_path / "runs" / "b").path.mkdir()
    RunDir(tmp_path / "runs" / "b").write_result(result("done", 3.25))
    sweep("s", "a", "b").save(tmp_path)
    recorded, absent = sweep_table(tmp_path / "s.json", tmp_path / "runs")["unigram_entropy"]
    assert recorded == 4.26
    assert math.isnan(absent)


def test_scores_of_a_task_are_columns_and_text_has_none(tmp_path: Path, rundir) -> None:
    sweep("s", "a", "b").save(tmp_path)
    rundir.write_result(result("done", 3.25))
    assert not set(SCORES) & set(sweep_table(tmp_path / "s.json", tmp_path / "runs"))
    rundir.write_result({**result("done", 3.25), "val_accuracy": 0.75, "val_exact_match": 0.5})
    table = sweep_table(tmp_path / "s.json", tmp_path / "runs")
    assert table.loc[0, list(SCORES)].tolist() == [0.75, 0.5]
    assert table.loc[1, list(SCORES)].isna().all()


def sweep(name: str, *run_ids: str, experiment: str = "lr_transfer") -> Sweep:
    cells = tuple({"panel": "ab"[i], "n_loops": 1, "run_id": run_id, "steps": 12} for i, run_id in enumerate(run_ids))
    return Sweep(name, experiment, "smoke", cells)


def test_the_table_has_a_row_per_cell_even_where_cells_share_a_run(tmp_path: Path, rundir) -> None:
    rundir.write_result(result("done", 3.25))
    sweep("s", "a", "a").save(tmp_path)
    table = sweep_table(tmp_path / "s.json", tmp_path / "runs")
    assert table["panel"].tolist() == ["a", "b"]
    assert table["run_id"].tolist() == ["a", "a"]
    assert table["val_loss"].tolist() == [3.25, 3.25]
    assert table["step_seconds"].tolist() == [1.5, 1.5]
    assert set(table["state"]) == {"done"}
    assert sweep("s", "a", "a").run_ids == ["a"]


def test_the_latest_sweep_is_of_the_experiment_asked_for(tmp_path: Path) -> None:
    for age, (name, experiment) in enumerate([("x", "lr_transfer"), ("y", "lr_transfer"), ("z", "probe")]):
        sweep(name, "a", experiment=experiment).save(tmp_path)
        os.utime(tmp_path / f"{name}.json", (1000 + age, 1000 + age))
    assert latest_sweep(tmp_path, "lr_transfer") == tmp_path / "y.json"
    assert latest_sweep(tmp_path, "theory") is None


def test_an_unknown_sweep_is_an_error_that_names_the_known(tmp_path: Path) -> None:
    sweep("x", "a").save(tmp_path)
    with pytest.raises(UserError, match=r"no sweep 'y' in .*; known: x"):
        sweep_table(tmp_path / "y.json", tmp_path)
    (tmp_path / "x.json").write_text('{"name": "x"}')
    with pytest.raises(UserError, match=r"x\.json is not a sweep manifest"):
        sweep_table(tmp_path / "x.json", tmp_path)


def test_reading_records_needs_no_torch(repository) -> None:
    code = "import sweeper.records.status, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=repository)
