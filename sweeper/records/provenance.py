"""Origin of a result: code, packages and hardware. Nothing about the user."""

import hashlib
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from sweeper.files import read_json

CODE_ROOT = Path(__file__).resolve().parents[2]
ORIGIN_FILE = "origin.json"  # at the root of a snapshot
PACKAGES = ("torch", "numpy", "hydra-core", "tokenizers", "datasets")


@cache
def provenance() -> dict[str, Any]:
    """Origin of the code, package versions, Python and processor, at the first call in a process."""
    return {
        **code_origin(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "processor": _processor(),
    }


@cache
def written_by() -> dict[str, str | None]:
    """The version of this package and its commit, for records that another version may read."""
    try:
        installed = version("loopsweep")
    except PackageNotFoundError:  # a checkout that is only on the path
        installed = None
    return {"loopsweep": installed, "commit": code_origin()["commit"]}


def code_origin() -> dict[str, str | None]:
    """`commit` (with "+dirty" if the tree differs from it) and `diff`, the sha256 of the difference.

    In a snapshot, these are the values at the time of the snapshot. Both are None without git.
    """
    recorded: dict[str, str | None] | None = read_json(CODE_ROOT / ORIGIN_FILE)
    if recorded is not None:
        return recorded
    if not (CODE_ROOT / "pyproject.toml").is_file():  # installed: a repository around it is not this project's
        return {"commit": None, "diff": None}
    try:
        head, diff = _git("rev-parse", "HEAD"), _git("diff", "--binary", "HEAD")
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "diff": None}
    if not diff:
        return {"commit": head, "diff": None}
    return {"commit": f"{head}+dirty", "diff": hashlib.sha256(diff.encode()).hexdigest()}


def _git(*args: str) -> str:
    done = subprocess.run(["git", "-C", str(CODE_ROOT), *args], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
