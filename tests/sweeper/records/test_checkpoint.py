"""Checkpoints are complete and verified. The last two are kept. Loading one runs no code."""

import errno
import hashlib
import io
import json
import os
import pickle
from pathlib import Path

import pytest
import torch

from sweeper.errors import UserError
from sweeper.records.checkpoint import load_checkpoint, save_checkpoint

CPU = torch.device("cpu")


def state(step: int) -> dict[str, object]:
    return {"step": step, "val_loss": float("nan"), "model": {"w": torch.full((3,), float(step))}}


def saved(directory: Path, *steps: int) -> Path:
    for step in steps:
        save_checkpoint(directory, step, state(step))
    return directory


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path / "checkpoint", CPU) is None


def test_the_newest_is_loaded_and_the_last_two_are_kept(tmp_path: Path) -> None:
    directory = saved(tmp_path / "checkpoint", 4, 8, 12)
    loaded = load_checkpoint(directory, CPU)
    assert loaded["step"] == 12
    assert torch.equal(loaded["model"]["w"], torch.full((3,), 12.0))
    names = sorted(path.name for path in directory.iterdir())
    assert names == ["step-00000008.json", "step-00000008.pt", "step-00000012.json", "step-00000012.pt"]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def lose_the_checksum(path: Path) -> None:
    path.with_suffix(".json").unlink()


def tear_the_checksum(path: Path) -> None:
    path.with_suffix(".json").write_text('{"step": 8, "sha')


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, lose_the_checksum, tear_the_checksum])
def test_a_damaged_checkpoint_falls_back_to_the_one_before_it(tmp_path: Path, damage, caplog) -> None:
    directory = saved(tmp_path / "checkpoint", 4, 8)
    damage(directory / "step-00000008.pt")
    assert load_checkpoint(directory, CPU)["step"] == 4
    assert "step-00000008.pt is damaged" in caplog.text
    damage(directory / "step-00000004.pt")
    assert load_checkpoint(directory, CPU) is None


def test_a_kill_between_checksum_and_checkpoint_leaves_the_one_before_it_and_no_warning(
    tmp_path: Path, monkeypatch, caplog
) -> None:
    directory = saved(tmp_path / "checkpoint", 4)
    real_replace = Path.replace

    class Killed(BaseException):
        pass

    def replace(path: Path, target: Path) -> None:
        if target.suffix == ".pt":
            raise Killed
        real_replace(path, target)

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(Killed):
        saved(directory, 8)
    monkeypatch.undo()
    assert (directory / "step-00000008.json").exists()
    assert load_checkpoint(directory, CPU)["step"] == 4
    assert not caplog.text
    assert load_checkpoint(saved(directory, 8), CPU)["step"] == 8


class Bomb:
    """Writes a file when unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, (str(self.mark),))


def test_code_in_a_checkpoint_is_refused_and_not_executed(tmp_path: Path) -> None:
    """Even if its checksum is right."""
    directory, mark = saved(tmp_path / "checkpoint", 4), tmp_path / "executed"
    path = directory / "step-00000008.pt"
    buffer = io.BytesIO()
    torch.save({**state(8), "model": Bomb(mark)}, buffer)
    path.write_bytes(buffer.getvalue())
    path.with_suffix(".json").write_text(
        json.dumps({"step": 8, "sha256": hashlib.sha256(buffer.getvalue()).hexdigest()})
    )
    with pytest.raises(pickle.UnpicklingError):
        load_checkpoint(directory, CPU)
    assert not mark.exists()
    torch.load(path, weights_only=False)  # the bomb is live
    assert mark.exists()


def test_a_full_disk_is_named_and_earlier_checkpoints_stay(tmp_path, monkeypatch) -> None:
    """`torch.save` hides the system's error in a RuntimeError; here the write itself fails."""
    saved(tmp_path, 1)

    class FullDisk(io.BytesIO):
        def write(self, _: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    real_open = Path.open
    monkeypatch.setattr(
        Path, "open", lambda path, mode="r", **kw: FullDisk() if mode == "wb" else real_open(path, mode, **kw)
    )
    with pytest.raises(UserError, match=r"no space left .* paths\.runs=DIR"):
        saved(tmp_path, 2)
    monkeypatch.undo()
    loaded = load_checkpoint(tmp_path, CPU)
    assert loaded is not None
    assert loaded["step"] == 1
    assert [path.name for path in tmp_path.glob("*.pt")] == ["step-00000001.pt"]
