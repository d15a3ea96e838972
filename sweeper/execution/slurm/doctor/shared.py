"""Checks that both the login node and a compute node make: locks, clock, speed of the disk, network."""

import errno
import os
import shutil
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from sweeper.execution.slurm.doctor.finding import Finding, note, ok, problem
from sweeper.records.lock import has_flock

NETWORK_SECONDS = 5.0
CLOCK_SECONDS = 10.0  # of difference between a machine and a file system that harm nothing
WRITE_BYTES = 256 * 2**20  # at most, to measure the speed of a checkpoint
WRITE_CHUNK = 4 * 2**20
GIB = 2**30


def nearest(directory: Path) -> Path:
    """The directory, or if it does not exist yet, the nearest one above it that does."""
    return next(path for path in (directory.absolute(), *directory.absolute().parents) if path.is_dir())


@contextmanager
def scratch_file(directory: Path) -> Iterator[IO[bytes]]:
    """A temporary file on the same file system as `directory`."""
    with tempfile.NamedTemporaryFile(dir=nearest(directory), prefix=".loopsweep-doctor-") as file:
        yield file


def check_flock(directory: Path) -> Finding:
    """Runs, manifests and submissions are guarded by flock, or by leases where there is none."""
    if has_flock(nearest(directory)):
        return ok("flock", f"works in {nearest(directory)}")
    remedy = "every machine must mount it alike; with locks is better (Lustre: -o flock)"
    return note("flock", f"{nearest(directory)} has none; lease files take its place", remedy)


def check_clock(directory: Path) -> Finding:
    """Runs compare the times of files only with each other, but SLURM's authentication compares clocks."""
    with scratch_file(directory) as file:
        file.write(b"x")
        file.flush()
        os.utime(file.name)
        ahead = time.time() - Path(file.name).stat().st_mtime
    if abs(ahead) <= CLOCK_SECONDS:
        return ok("clock", f"agrees with the file system to {max(1, round(abs(ahead)))} s")
    seen = f"{abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} the file system of {nearest(directory)}"
    return note("clock", seen, "tell the administrators (NTP); runs do not mind, SLURM's authentication does")


def check_write_speed(directory: Path, checkpoint_bytes: float, warning_seconds: int) -> Finding:
    """A checkpoint must be on disk between SLURM's warning and the end of the job."""
    size = int(min(max(checkpoint_bytes, WRITE_CHUNK), WRITE_BYTES))
    chunk = os.urandom(WRITE_CHUNK)
    started = time.monotonic()
    try:
        with scratch_file(directory) as file:
            for _ in range(0, size, WRITE_CHUNK):
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        return problem(
            "write speed", f"{nearest(directory)}: {error.strerror}", "free some, or paths.runs=DIR elsewhere"
        )
    rate = size / max(time.monotonic() - started, 1e-6)
    seconds = checkpoint_bytes / rate
    seen = f"{rate / 1e6:,.0f} MB/s, so a checkpoint of {checkpoint_bytes / 1e9:.2g} GB takes {seconds:.2g} s"
    if seconds > warning_seconds / 2:
        needed = round(3 * seconds)
        return problem(
            "write speed", seen, f"warn earlier than {warning_seconds} s before the limit", warning_seconds=needed
        )
    return ok("write speed", seen)


def check_space(directory: Path, checkpoint_bytes: float) -> Finding:
    """Two checkpoints are kept per run."""
    usage = shutil.disk_usage(nearest(directory))
    runs = int(usage.free // (2 * checkpoint_bytes))
    seen = f"{usage.free / GIB:,.0f} GiB free for {nearest(directory)}: checkpoints of {runs:,} such runs"
    if runs < 1:
        return problem("space", seen, "free some, or paths.runs=DIR elsewhere")
    if runs < 10:
        return note("space", seen, "a sweep may need more; paths.runs=DIR moves it")
    return ok("space", seen)


def check_network(urls: Mapping[str, str], where: str) -> list[Finding]:
    """The servers that runs or data need.

    Args:
        urls: by what each is for; see `sweeper.execution.slurm.doctor.examine.Plan`.
        where: this machine, such as "login node".
    """
    return [_reach(name, url, where) for name, url in urls.items()]


def _reach(name: str, url: str, where: str) -> Finding:
    check = f"{name} from the {where}"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=NETWORK_SECONDS):
            pass
    except urllib.error.HTTPError:
        return ok(check, f"{url} answers")  # that it refuses this request does not matter
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        remedy = {
            "wandb": "tracking=offline; `wandb sync` later sends what the runs wrote",
            "hub": "prepare the data where there is a network, then copy paths.data",
        }[name]
        return note(check, f"{url} does not answer ({reason})", remedy)
    return ok(check, f"{url} answers")
