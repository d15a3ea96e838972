"""The finished runs of a sweep as one tar, and back.

    checksums.json         first: sha256 and bytes of every other file
    sweeps/<name>.json     the manifest
    runs/<id>/             config.yaml, metrics.jsonl, readouts.json, result.json

The tar is not compressed, so its own size bounds what it unpacks to. Equal runs give equal bytes.
"""

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sweeper.errors import UserError
from sweeper.files import replacing
from sweeper.records.foreign import LIMITS, MANIFEST_LIMIT, RUN_ID, SWEEP_NAME, Refused, read_finished
from sweeper.records.run_dir import RunDir
from sweeper.records.sweep_manifest import Sweep

CHECKSUMS = "checksums.json"
FORMAT = 1
EXPORT = "loopsweep export SWEEP --out FILE.tar"
MAX_BYTES = 8 * 2**30
_FILES = "|".join(map(re.escape, LIMITS))
_MEMBER = re.compile(rf"runs/({RUN_ID.pattern})/({_FILES})|sweeps/({SWEEP_NAME.pattern})\.json")

Report = Callable[[int, int], None]  # done, of all


def write_archive(sweep: Sweep, runs: Path, out: Path, report: Report) -> tuple[int, dict[str, str]]:
    """Write the finished runs of a sweep as a tar, with its manifest.

    Args:
        sweep: which.
        runs: directory of run directories.
        out: the tar; replaced in one step.
        report: called after every run.

    Returns:
        The number of runs in the tar, and why each other finished run is not in it.

    Raises:
        UserError: if no run can be written.
    """
    manifest = (json.dumps(sweep.to_record(), indent=1) + "\n").encode()
    contents, left_out = {f"sweeps/{sweep.name}.json": _noted(manifest)}, {}
    for number, run_id in enumerate(sweep.run_ids, start=1):
        rundir = RunDir(runs / run_id)
        try:
            if rundir.result() is None:
                continue
            if rundir.is_restored:
                raise Refused("it was restored from records and has no configuration; hand on the records")
            files = read_finished(rundir.path).files
            contents |= {f"runs/{run_id}/{name}": _noted(content) for name, content in files.items()}
        except Refused as refusal:
            left_out[run_id] = str(refusal)
        report(number, len(sweep.run_ids))
    if len(contents) == 1:
        reason = f" ({next(iter(left_out.values()))})" if left_out else ""
        raise UserError(f"no finished run of {sweep.name} can be exported{reason}; `loopsweep status` shows them")
    with replacing(out) as file, tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        _add(tar, CHECKSUMS, (json.dumps({"format": FORMAT, "files": contents}, indent=1) + "\n").encode())
        _add(tar, f"sweeps/{sweep.name}.json", manifest)
        for name in list(contents)[1:]:
            content = (runs / name.removeprefix("runs/")).read_bytes()
            if _noted(content) != contents[name]:
                raise UserError(f"{name} changed while it was exported; export again")
            _add(tar, name, content)
    return len({name.split("/")[1] for name in contents if name.startswith("runs/")}), left_out


def unpack(archive: Path, into: Path) -> None:
    """Unpack a tar of `write_archive` into `runs/` and `sweeps/` below a new directory.

    Only plain files with the names that an export gives, listed in the checksums and equal to them, are written.

    Raises:
        UserError: if it is anything else, or not complete. What was written until then is to be thrown away.
    """
    if archive.stat().st_size > MAX_BYTES:
        raise UserError(f"{archive} has more than {MAX_BYTES // 2**30} GiB; export fewer runs at once")
    try:
        with archive.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            _unpack(tar, into)
    except (tarfile.TarError, EOFError, ValueError, RecursionError, OverflowError) as error:
        raise _unusable(archive, f"it is truncated, or no tar ({' '.join(str(error).split())})") from error
    except Refused as reason:
        raise _unusable(archive, str(reason)) from reason


def _unpack(tar: tarfile.TarFile, into: Path) -> None:
    first = tar.next()
    if first is None or first.name != CHECKSUMS:
        raise Refused(f"it does not begin with {CHECKSUMS}")
    record = json.loads(_content(tar, first, MANIFEST_LIMIT))
    if not isinstance(record, dict) or record.get("format") != FORMAT or not isinstance(record.get("files"), dict):
        raise Refused(f"its {CHECKSUMS} is not of format {FORMAT}")
    left: dict[str, Any] = dict(record["files"])
    while (member := tar.next()) is not None:
        matched = _MEMBER.fullmatch(member.name)
        if matched is None or member.name not in left:
            raise Refused(f"it holds {member.name[:80]!r}, which no export has or which has no checksum")
        limit = LIMITS[matched[2]] if matched[2] else MANIFEST_LIMIT
        content = _content(tar, member, limit)
        if _noted(content) != left.pop(member.name):
            raise Refused(f"{member.name} has not the checksum that is noted for it")
        target = into / member.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    if left:
        raise Refused(f"{next(iter(left))[:80]} is missing: it is truncated")


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo, limit: int) -> bytes:
    if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.issparse():
        raise Refused(f"{member.name[:80]!r} is not a plain file")
    if member.size > limit:
        raise Refused(f"{member.name} has more than {limit // 2**20} MiB")
    stream = tar.extractfile(member)
    content = stream.read() if stream is not None else b""
    if len(content) != member.size:
        raise Refused(f"it ends within {member.name}")
    return content


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), 0o644
    tar.addfile(entry, io.BytesIO(content))


def _noted(content: bytes) -> dict[str, Any]:
    return {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}


def _unusable(archive: Path, reason: str) -> UserError:
    return UserError(f"{archive} is refused: {reason}; nothing was written; make it anew: {EXPORT}")
