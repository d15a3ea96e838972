"""Snapshots of the code for queued jobs, taken at submission, so that later edits and commits do not affect them."""

import hashlib
import shutil
import uuid
from pathlib import Path

from sweeper.files import write_json
from sweeper.records.provenance import CODE_ROOT, ORIGIN_FILE, code_origin

PACKAGES = ("model", "sweeper")


def take_snapshot(directory: Path) -> Path:
    """Copy the packages that a run needs into a directory below `directory`, named by a hash of their content.

    The copy includes uncommitted and untracked files. The snapshot records the commit and a hash of the difference from
    it, which become part of every run's result. The same code gives the same snapshot.
    """
    found = (path for package in PACKAGES for path in (CODE_ROOT / package).rglob("*.*"))
    files = sorted(path for path in found if path.suffix in (".py", ".json"))
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.relative_to(CODE_ROOT)}\n".encode() + path.read_bytes())
    target = directory / digest.hexdigest()[:12]
    if target.exists():
        return target
    temporary = directory / f".{uuid.uuid4().hex[:8]}"
    for path in files:
        copy = temporary / path.relative_to(CODE_ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    write_json(temporary / ORIGIN_FILE, code_origin())
    try:
        temporary.rename(target)
    except OSError:  # another process has made the same snapshot
        shutil.rmtree(temporary)
    return target
