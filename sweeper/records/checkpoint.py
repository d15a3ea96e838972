"""Checkpoints: written atomically and verified on loading. The last two are kept."""

import hashlib
import logging
from pathlib import Path
from typing import Any

import torch

from sweeper.errors import UserError
from sweeper.files import read_json, replacing, write_json

KEEP = 2
WEIGHTS = ".weights"
log = logging.getLogger(__name__)


def save_checkpoint(directory: Path, step: int, state: dict[str, Any], kind: str = "") -> None:
    """Write `state` for `step` and delete all checkpoints but the last two.

    The checksum is written before the checkpoint gets its final name, so a kill leaves no incomplete checkpoint.

    Args:
        directory: the run's checkpoint directory; created if missing.
        step: optimizer steps done.
        state: tensors and plain values only, because it is loaded with `weights_only=True`.
        kind: `WEIGHTS` for one that no training resumes from. It is loaded before a whole one of the same step.

    Raises:
        UserError: if the disk is full. Earlier checkpoints stay.
    """
    directory.mkdir(exist_ok=True)
    target = directory / f"step-{step:08d}{kind}.pt"
    with replacing(target) as file:
        torch.save(state, file)
        file.flush()
        write_json(target.with_suffix(".json"), {"step": step, "sha256": _checksum(Path(file.name))})
    for old in sorted(directory.glob("step-*.pt"))[:-KEEP]:
        old.with_suffix(".json").unlink(missing_ok=True)
        old.unlink()


def load_checkpoint(directory: Path, device: torch.device, step: int | None = None) -> dict[str, Any] | None:
    """The newest checkpoint with a valid checksum, or None. With `step`, only the checkpoint of that step.

    A checkpoint with an invalid checksum is skipped with a warning. A run that resumes from an earlier checkpoint, or
    from the start, writes the same losses.
    """
    pattern = "step-*.pt" if step is None else f"step-{step:08d}.pt"
    for path in sorted(directory.glob(pattern), reverse=True):
        if _checksum(path) != _recorded_checksum(path):
            log.warning("checkpoint %s is damaged; falling back to the one before it", path.name)
            continue
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
        return state
    return None


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _recorded_checksum(checkpoint: Path) -> str | None:
    """The checksum recorded with the checkpoint; None if the record is missing or incomplete."""
    try:
        record = read_json(checkpoint.with_suffix(".json"))
    except UserError:
        return None
    return record.get("sha256") if isinstance(record, dict) else None
