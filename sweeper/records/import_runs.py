"""Finished runs from elsewhere brought into a directory of runs: checked, compared, then taken whole or not at all.

Everything is read and checked first. New runs are written into a folder `.import-…` beside the runs, and one rename
moves each into place. Nothing here is executed, and no checkpoint is taken.
"""

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sweeper.errors import UserError
from sweeper.files import replacing
from sweeper.records.archive import EXPORT, Report, unpack
from sweeper.records.axes import DATA
from sweeper.records.compare import Agreement, Difference, compare
from sweeper.records.foreign import MANIFEST_LIMIT, RUN_ID, Refused, read_finished, read_plain, read_sweep
from sweeper.records.lock import Guard, is_alive
from sweeper.records.restore import CELLS, Records, origin
from sweeper.records.run_dir import RunDir
from sweeper.records.sweep_manifest import Sweep, add, sweeps_beside

ORIGIN = "imported.json"
UNFINISHED = ".import-"  # prefix of the folder of an import under way; one that was killed leaves it behind


@dataclass(frozen=True)
class Source:
    """Runs to be imported.

    Attributes:
        run_ids: of the finished runs.
        read: the checked files of a run, and the hash of its data if its configuration has one; raises `Refused`.
        sweeps: manifests that came with them.
        origin: content of imported.json.
        refused: sweeps that are malformed, with the reason.
    """

    run_ids: Sequence[str]
    read: Callable[[str], tuple[Mapping[str, bytes], str | None]]
    sweeps: Sequence[Sweep]
    origin: Mapping[str, str]
    refused: Mapping[str, str]


@dataclass
class Imported:
    """What became of the runs of an import.

    Attributes:
        taken: new runs.
        here: runs that are finished here too, and how far the two agree. Those here stay, unless they are also in
            `taken`: those had been restored from records, and the equal run with its configuration replaced them.
        running: runs that a process here works on; they stay.
        refused: why a run or sweep is not taken, by name.
        sweeps: the sweeps as they are now, by the name that they came with, and whether something changed.
    """

    taken: list[str] = field(default_factory=list)
    here: dict[str, Difference] = field(default_factory=dict)
    running: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    sweeps: dict[str, tuple[Sweep, bool]] = field(default_factory=dict)


def import_runs(source: Path, runs: Path, sweeps: Path, report: Report) -> Imported:
    """Take the finished runs of `source` that are new here, and add its sweeps to those here.

    Args:
        source: a tar of `loopsweep export`; a directory of records; a directory of runs, or the one that holds `runs/`
            and `sweeps/`; or the directory of one run.
        runs: directory of run directories.
        sweeps: directory of manifests.
        report: called after every run that was checked.

    Raises:
        UserError: if the source is none of these, or a tar is damaged. Then nothing was written.
    """
    found = Imported()
    with _staging(runs) as staging:
        opened = _open(source, staging / "source")
        found.refused |= opened.refused
        for number, run_id in enumerate(opened.run_ids, start=1):
            try:
                files, data = opened.read(run_id)
                _check_data(run_id, data, opened.sweeps)
                target = staging / "ready" / run_id
                target.mkdir(parents=True)
                for name, content in {**files, ORIGIN: _json(opened.origin)}.items():
                    with replacing(target / name) as file:  # on the disk before the run has its place
                        file.write(content)
            except Refused as reason:
                found.refused[run_id] = str(reason)
            report(number, len(opened.run_ids))
        for run_id in opened.run_ids:
            if run_id not in found.refused:
                _take(staging / "ready" / run_id, runs / run_id, staging / "replaced", found)
    for sweep in opened.sweeps:
        # A cell whose run was refused is left out, unless the run is here.
        kept = [cell["run_id"] not in found.refused or (runs / cell["run_id"]).is_dir() for cell in sweep.cells]
        if any(kept):
            found.sweeps[sweep.name] = add(sweeps, sweep.with_rows(kept))
    return found


def _open(source: Path, scratch: Path) -> Source:
    if source.is_file() and source.suffix != ".parquet":
        with source.open("rb") as file:
            checksum = hashlib.file_digest(file, "sha256").hexdigest()
        unpack(source, scratch)
        return _directory(scratch, {"kind": "tar", "from": source.name, "sha256": checksum})
    directory = source.parent if source.name == CELLS else source
    if (directory / CELLS).is_file():
        return _records(directory)
    if source.is_dir():
        return _directory(source, {"kind": "directory", "from": source.resolve().name})
    raise UserError(f"{source} is no tar and no directory of runs or records; make a tar: {EXPORT}")


def _records(directory: Path) -> Source:
    records = Records(directory)
    checksum = hashlib.sha256((directory / CELLS).read_bytes()).hexdigest()
    sweeps, refused = [], {}
    try:
        sweeps = list(records.sweeps())
    except Refused as reason:
        refused[str(directory)] = str(reason)
    return Source(
        records.run_ids, lambda run_id: (records.files(run_id), None), sweeps, origin(directory, checksum), refused
    )


def _directory(directory: Path, origin: Mapping[str, str]) -> Source:
    single = RUN_ID.fullmatch(directory.name) is not None and (directory / "result.json").exists()
    runs = directory.parent if single else directory / "runs" if (directory / "runs").is_dir() else directory
    here = [directory] if single else sorted(path for path in runs.iterdir() if RUN_ID.fullmatch(path.name))
    run_ids = [path.name for path in here if (path / "result.json").exists() and not RunDir(path).is_restored]
    sweeps: list[Sweep] = []
    refused: dict[str, str] = {}
    for path in [] if single else sorted(sweeps_beside(runs).glob("*.json")):
        try:
            sweep = read_sweep(path.stem, read_plain(path, MANIFEST_LIMIT) or b"")
        except Refused as reason:
            refused[path.stem[:80]] = str(reason)
            continue
        if set(sweep.run_ids) & set(run_ids):
            sweeps.append(sweep)
    if not run_ids and not refused:
        raise UserError(f"{directory} holds no finished run; give a directory with runs/ and sweeps/, or a tar")

    def read(run_id: str) -> tuple[Mapping[str, bytes], str | None]:
        finished = read_finished(runs / run_id)
        return finished.files, getattr(finished.config, DATA, None)

    return Source(run_ids, read, sweeps, origin, refused)


def _check_data(run_id: str, data: str | None, sweeps: Sequence[Sweep]) -> None:
    """Whether the sweeps say of a run's data what its configuration says."""
    cells = ((sweep, cell) for sweep in sweeps for cell in sweep.cells if cell["run_id"] == run_id)
    noted = {str(value) for sweep, cell in cells if (value := sweep.value(cell, DATA)) is not None}
    if data is not None and noted - {data}:
        raise Refused(f"its configuration has data {data}, its sweep {', '.join(sorted(noted))}")


def _take(ready: Path, target: Path, replaced: Path, found: Imported) -> None:
    """Move a checked run into place, unless it is here. An unfinished directory without an owner is replaced."""
    run_id, here = target.name, RunDir(target)
    if not target.exists():
        with suppress(OSError):  # another process may have made it by now
            ready.rename(target)
            found.taken.append(run_id)
            return
    if _compared(ready, here, found):
        return
    with Guard(here.lock.with_name(f"{here.lock.name}.guard")):
        if is_alive(here.lock):
            found.running.append(run_id)
            return
        if run_id not in found.here and _compared(ready, here, found):
            return  # it was finished in the meantime
        replaced.mkdir(exist_ok=True)
        target.rename(replaced / run_id)
        try:
            ready.rename(target)
        except BaseException:  # Ctrl-C too: what is replaced may have a checkpoint
            (replaced / run_id).rename(target)
            raise
    found.taken.append(run_id)


def _compared(ready: Path, here: RunDir, found: Imported) -> bool:
    """Compare the run with the finished one that is here, if there is one. Returns whether that one stays.

    It stays unless it was restored from records and the other is the same run with its configuration.
    """
    run_id, theirs = ready.name, RunDir(ready)
    try:
        ours = here.result()
    except UserError as error:
        found.refused[run_id] = str(error)
        return True
    if ours is None:
        return False
    difference = compare(ours, here.read_metrics(), theirs.result() or {}, theirs.read_metrics())
    found.here[run_id] = difference
    if difference.agreement is Agreement.CONFLICT:
        found.refused[run_id] = str(difference)
    return not (here.is_restored and not theirs.is_restored and difference.agreement is Agreement.EQUAL)


@contextmanager
def _staging(runs: Path) -> Iterator[Path]:
    """A folder beside the runs, on their file system; removed at the end, with `runs` if that has stayed empty."""
    existed = runs.is_dir()
    runs.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=runs) as folder:
            yield Path(folder)
    finally:
        if not existed and not any(runs.iterdir()):
            runs.rmdir()


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()
