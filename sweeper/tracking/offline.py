"""Read wandb's offline files: one directory per attempt at a run, `wandb/offline-run-<time>-<id>/run-<id>.wandb`.

The file is a log of protobuf records in LevelDB's format: blocks of 32 KiB with fragments of records, each after a
header of checksum, length and kind. The wandb client no longer has a reader for it. This reader is strict: an unknown
format is an error, not an empty run. Only the end of the file may be incomplete, as after a kill.
"""

import json
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from sweeper.errors import UserError
from sweeper.tracking.mirrored_run import MirroredRun

FILE_HEADER = struct.pack("<4sHB", b":W&B", 0xBEE1, 0)
BLOCK = 32768
FRAGMENT = struct.Struct("<IHB")  # checksum, length, kind
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def read_directory(directory: Path) -> list[MirroredRun]:
    """Every run and sweep with files anywhere below `directory`.

    Attempts at one run are merged in the order of time: later values replace earlier ones.

    Raises:
        UserError: if there are no files, or a file is not in the known format.
    """
    files = sorted(directory.rglob("run-*.wandb"), key=lambda file: file.parent.name)
    if not files:
        raise UserError(
            f"--wandb-dir: no run-*.wandb below {directory}; give the directory that wandb wrote, such as wandb/"
        )
    runs: dict[str, MirroredRun] = {}
    for file in files:
        read_file(file, runs)
    return list(runs.values())


def read_file(file: Path, runs: dict[str, MirroredRun]) -> None:
    """Add the content of `file` to `runs`, by run id.

    Raises:
        UserError: if the file is not in the known format.
    """
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

    run: MirroredRun | None = None
    for content in _records(file):
        record = Record()
        try:
            record.ParseFromString(content)
        except DecodeError as error:
            raise _unknown_format(file, f"a record is not wandb's ({error})") from error
        match record.WhichOneof("record_type"):
            case "run":
                run = runs.setdefault(record.run.run_id, MirroredRun(record.run.run_id))
                run.name = record.run.display_name or run.name
                run.job_type = record.run.job_type or run.job_type
                run.group = record.run.run_group or run.group
                run.tags = tuple(record.run.tags) or run.tags
                _update(run.config, record.run.config.update)
            case "history" if run is not None:
                row: dict[str, Any] = {}
                _update(row, record.history.item)
                run.add_row(row)
            case "summary" if run is not None:
                _update(run.summary, record.summary.update)
            case None:
                raise _unknown_format(file, "a record of an unknown kind")
    if run is not None:
        files = file.parent / "files"
        run.read_file = lambda name: (files / name).read_bytes()


def is_ended(file: Path) -> bool:
    """Whether the run of `file` was closed and is completely written."""
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

    return file.is_file() and any(Record.FromString(content).HasField("exit") for content in _records(file))


def _update(target: dict[str, Any], items: Iterable[Any]) -> None:
    """Set keys and values. A nested key is the path to a value."""
    for item in items:
        *path, last = item.nested_key or [item.key]
        parent = target
        for key in path:
            parent = parent.setdefault(key, {})
        parent[last] = json.loads(item.value_json)


def _records(file: Path) -> Iterator[bytes]:
    """Complete records, up to an incomplete end of the file."""
    data = file.read_bytes()
    if data[: len(FILE_HEADER)] != FILE_HEADER:
        if len(data) < len(FILE_HEADER):
            return
        raise _unknown_format(file, f"it begins with {data[: len(FILE_HEADER)].hex()}")
    position, parts = len(FILE_HEADER), b""
    while position < len(data):
        room = BLOCK - position % BLOCK
        if room < FRAGMENT.size:
            position += room
            continue
        if position + FRAGMENT.size > len(data):
            return
        checksum, length, kind = FRAGMENT.unpack_from(data, position)
        position += FRAGMENT.size
        part = data[position : position + length]
        position += length
        if len(part) < length:
            return
        if kind not in (FULL, FIRST, MIDDLE, LAST) or zlib.crc32(part, zlib.crc32(bytes([kind]))) != checksum:
            raise _unknown_format(file, f"bad checksum or kind before byte {position}")
        parts = part if kind in (FULL, FIRST) else parts + part
        if kind in (FULL, LAST):
            yield parts


def _unknown_format(file: Path, problem: str) -> UserError:
    from wandb import __version__

    return UserError(
        f"{file} is not in the format of wandb 0.31, which is the one this reader knows: {problem}; installed is "
        f"{__version__}; upload the file with `wandb sync` and read it with --wandb"
    )
