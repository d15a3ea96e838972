"""The code that queued jobs run: copied when they are submitted, so that later edits and commits do not touch them."""

import hashlib
import shutil
import uuid
from pathlib import Path

from sweeper.files import write_json
from sweeper.records.provenance import CODE_ROOT, ORIGIN_FILE, code_origin

PACKAGES = ("model", "sweeper")


def take_snapshot(directory: Path) -> Path:
    """Copy the packages a run needs, as they stand on disk, into a directory below `directory` named by their content.

    Uncommitted and untracked files are part of it. The snapshot records the commit and the hash of the difference from
    it, which end up in the result of every run. The same code again is the same snapshot.
    """
    files = sorted(path for package in PACKAGES for path in (CODE_ROOT / package).rglob("*.py"))
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
    except OSError:  # somebody else took the same one meanwhile
        shutil.rmtree(temporary)
    return target
