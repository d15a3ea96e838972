"""Checkpoints of finished runs are pruned, and nothing else is touched."""

import shutil
from pathlib import Path

import pytest
import torch

from sweeper.records.checkpoint import load_checkpoint, save_checkpoint
from sweeper.records.lock import RunLock
from sweeper.records.prune import Keep, prunable, prune
from sweeper.records.run_dir import RunDir
from sweeper.run.stop import StopFlag

RESULT = {"state": "done", "val_loss": 3.25, "step": 12, "reason": "", "seconds": {"step": 1.5}}
CPU = torch.device("cpu")


def trained(path: Path, *, finished: bool) -> RunDir:
    """A run with two checkpoints of 1,000 weights and AdamW's state."""
    path.mkdir(parents=True)
    rundir = RunDir(path)
    for step in (8, 12):
        weights, moments = torch.full((1000,), float(step)), torch.zeros(2000)
        state = {"step": step, "val_loss": 3.25, "seconds": {}, "model": {"w": weights}, "optimizer": {"m": moments}}
        save_checkpoint(rundir.checkpoints, step, state)
    rundir.metrics.write_text('{"step": 12, "val_loss": 3.25}\n')
    if finished:
        rundir.write_result(RESULT)
    return rundir


def content(rundir: RunDir) -> dict[str, bytes]:
    return {str(path.relative_to(rundir.path)): path.read_bytes() for path in rundir.path.rglob("*") if path.is_file()}


def size(rundir: RunDir) -> int:
    return sum(path.stat().st_size for path in rundir.checkpoints.glob("*.pt"))


@pytest.fixture
def done(tmp_path: Path) -> RunDir:
    """A finished run."""
    return trained(tmp_path / "done", finished=True)


def test_the_final_weights_stay_and_load_as_any_checkpoint(done) -> None:
    before = size(done)
    freed = prune(done, Keep.WEIGHTS)
    assert freed == before - size(done)
    assert freed > before / 2
    state = load_checkpoint(done.checkpoints, CPU)
    assert state is not None
    assert set(state) == {"step", "val_loss", "model"}
    assert state["model"]["w"].tolist() == [12.0] * 1000
    assert len(list(done.checkpoints.iterdir())) == 2  # and its checksum
    assert prunable(done.path.parent, ["done"], Keep.WEIGHTS) == {}


def test_nothing_stays_of_checkpoints_and_everything_else_does(done) -> None:
    whole, before = content(done), size(done)
    assert prunable(done.path.parent, ["done"], Keep.NOTHING) == {"done": before}
    assert prune(done, Keep.NOTHING) == before
    assert content(done) == {name: text for name, text in whole.items() if not name.startswith("checkpoint/")}


@pytest.mark.parametrize("keep", Keep)
def test_only_finished_runs_without_an_owner_are_prunable(tmp_path, done, keep: Keep) -> None:
    trained(tmp_path / "unfinished", finished=False)
    owned = trained(tmp_path / "owned", finished=True)
    with RunLock(owned.lock, StopFlag()):
        assert list(prunable(tmp_path, ["done", "unfinished", "owned", "absent"], keep)) == ["done"]


def test_a_damaged_last_checkpoint_is_left_as_it_is(done) -> None:
    (done.checkpoints / "step-00000012.pt").write_bytes(b"damaged")
    before = content(done)
    assert prune(done, Keep.WEIGHTS) == 0
    assert content(done) == before


@pytest.mark.parametrize("call", range(8))  # as many as it makes
def test_a_kill_at_any_moment_leaves_the_final_weights(done, monkeypatch, call: int) -> None:
    calls = 0

    def dying(function):
        def wrapped(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls > call:
                raise KeyboardInterrupt
            return function(*args, **kwargs)

        return wrapped

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", dying(Path.unlink))
        patch.setattr(Path, "replace", dying(Path.replace))
        try:
            prune(done, Keep.WEIGHTS)
        except KeyboardInterrupt:
            assert calls > call
    for _ in range(2):
        state = load_checkpoint(done.checkpoints, CPU)
        assert state is not None
        assert state["model"]["w"].tolist() == [12.0] * 1000
        prune(done, Keep.WEIGHTS)
    assert [path.name for path in done.checkpoints.glob("*.pt")] == ["step-00000012.weights.pt"]


def test_sizes_before_and_after_are_about_the_same(tmp_path, done) -> None:
    other = RunDir(shutil.copytree(done.path, tmp_path / "other"))
    [expected] = prunable(tmp_path, ["other"], Keep.WEIGHTS).values()
    assert prune(other, Keep.WEIGHTS) == pytest.approx(expected, rel=0.2)
