"""Free the space of checkpoints that no run will resume from: those of finished runs.

Metrics, read-outs, results and logs stay, and so do all files of runs that are not finished.
"""

from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path

import torch

from sweeper.records.checkpoint import WEIGHTS, load_checkpoint, save_checkpoint
from sweeper.records.lock import is_alive
from sweeper.records.run_dir import RunDir

KEPT = ("step", "val_loss", "model")  # of a checkpoint's state; the optimizer's goes


class Keep(StrEnum):
    """What stays of a finished run's checkpoints."""

    WEIGHTS = "weights"  # the final model
    NOTHING = "nothing"


def prunable(runs: Path, run_ids: Iterable[str], keep: Keep) -> dict[str, int]:
    """The finished runs that have something to prune, and the bytes that it frees. Changes nothing.

    Where weights stay the number is an estimate: AdamW's two moments are two thirds of a checkpoint.
    """
    found = {}
    for run_id in run_ids:
        rundir = RunDir(runs / run_id)
        files = _files(rundir)
        pruned = keep is Keep.WEIGHTS and [path.suffixes for path in files] == [[WEIGHTS, ".pt"]]
        if files and not pruned and rundir.result() is not None and not is_alive(rundir.lock):
            found[run_id] = _size(files) - (files[-1].stat().st_size // 3 if keep is Keep.WEIGHTS else 0)
    return found


def prune(rundir: RunDir, keep: Keep) -> int:
    """Prune the checkpoints of a finished run. A kill at any moment leaves the final weights, if they are to stay.

    Returns:
        Bytes freed. 0 if the weights are to stay and no valid checkpoint has those of the last step.
    """
    result, files = rundir.result(), _files(rundir)
    assert result is not None, rundir.path
    before, kept = _size(files), ""
    if keep is Keep.WEIGHTS:
        state = load_checkpoint(rundir.checkpoints, torch.device("cpu"))
        if state is None or state["step"] != result["step"]:
            return 0
        save_checkpoint(rundir.checkpoints, state["step"], {name: state[name] for name in KEPT}, WEIGHTS)
        kept = f"step-{state['step']:08d}{WEIGHTS}.pt"
    for path in _files(rundir):
        if path.name != kept:
            path.unlink()
            path.with_suffix(".json").unlink(missing_ok=True)
    return before - _size(_files(rundir))


def _files(rundir: RunDir) -> list[Path]:
    """Checkpoints, and the parts of checkpoints that a kill left behind."""
    return sorted(path for pattern in ("step-*.pt", ".step-*.pt.*") for path in rundir.checkpoints.glob(pattern))


def _size(files: Iterable[Path]) -> int:
    return sum(path.stat().st_size for path in files)
