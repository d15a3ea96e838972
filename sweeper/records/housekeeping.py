"""Sweeps as a whole: their names, the space of their runs, and their removal. Runs that other sweeps use stay."""

import os
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from sweeper.errors import UserError
from sweeper.records.lock import Guard, is_alive
from sweeper.records.run_dir import RunDir
from sweeper.records.sweep_manifest import GUARD, MAX_NAME, Sweep, manifests

NAME = re.compile(r"[\w.=,+-]+")  # as names are derived, see `sweeper.grid.asked`


@dataclass(frozen=True)
class Space:
    """What the runs of a sweep take, in bytes.

    Attributes:
        runs: of all directories of its runs.
        own: of those that no other sweep uses.
        checkpoints: the part of `runs` that `loopsweep prune` can free in the end.
    """

    runs: int
    own: int
    checkpoints: int


def own_runs(sweep: Sweep, sweeps: Path) -> list[str]:
    """The runs of a sweep that no other sweep in the directory uses."""
    used = {run_id for path in manifests(sweeps) if path.stem != sweep.name for run_id in Sweep.load(path).run_ids}
    return [run_id for run_id in sweep.run_ids if run_id not in used]


def space(sweep: Sweep, sweeps: Path, runs: Path) -> Space:
    """The space that the runs of a sweep take."""
    sizes = {run_id: directory_size(runs / run_id) for run_id in sweep.run_ids}
    own = sum(sizes[run_id] for run_id in own_runs(sweep, sweeps))
    checkpoints = sum(directory_size(RunDir(runs / run_id).checkpoints) for run_id in sweep.run_ids)
    return Space(sum(sizes.values()), own, checkpoints)


def directory_size(path: Path) -> int:
    """Bytes of all files below a directory; 0 if there is none. Links are not followed."""
    return sum(file.lstat().st_size for file in _files(path))


def _files(path: Path) -> Iterator[Path]:
    for folder, _, names in os.walk(path):
        yield from (Path(folder, name) for name in names)


def rename(path: Path, name: str, runs: Path) -> Path:
    """Give a sweep another name, with its submissions. Returns its manifest.

    Raises:
        UserError: for a name that is taken or cannot be a file, or if a process works on one of the runs.
    """
    target = path.parent / f"{name}.json"
    if not NAME.fullmatch(name) or name.startswith((".", "-")) or len(name.encode()) > MAX_NAME:
        raise UserError(f"rename {path.stem} {name}: give letters, digits and _.=,+- only, {MAX_NAME} at most")
    with Guard(path.parent / GUARD):
        sweep = Sweep.load(path)
        if target.exists() or (path.parent / name).exists():
            raise UserError(f"rename {path.stem} {name}: there is a sweep of that name in {path.parent}; give another")
        refuse_live(sweep.run_ids, runs, f"rename {path.stem}")
        replace(sweep, name=name).save(path.parent)
        if (submitted := path.with_suffix("")).is_dir():
            submitted.rename(target.with_suffix(""))
        path.unlink()
    return target


def remove_sweep(path: Path, run_ids: Iterable[str], runs: Path) -> None:
    """Delete runs, then the manifest of their sweep and its submissions. After a kill the same call does the rest.

    Raises:
        UserError: if a process works on one of the runs.
    """
    with Guard(path.parent / GUARD):
        refuse_live(run_ids, runs, f"rm {path.stem}")
        for run_id in run_ids:
            if (directory := runs / run_id).is_dir():
                # Out of the way in one step, so that no half of a run is taken for a run.
                gone = directory.rename(runs / f".removed-{uuid.uuid4().hex[:8]}")
                shutil.rmtree(gone)
        shutil.rmtree(path.with_suffix(""), ignore_errors=True)
        path.unlink()


def refuse_live(run_ids: Iterable[str], runs: Path, doing: str) -> None:
    """Raises `UserError` if a process works on one of the runs."""
    if live := [run_id for run_id in run_ids if is_alive(RunDir(runs / run_id).lock)]:
        raise UserError(f"{doing}: {live[0]} is running; stop it first (Ctrl-C where it runs, or `loopsweep cancel`)")
