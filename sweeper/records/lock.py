"""Locks of runs: a run has at most one owner process, and a dead owner is detected.

On one machine the process table shows at once whether an owner is alive. Machines that share only the file system use
the owner's heartbeat, which is the lock file's modification time. Taking a lock is serialised by `flock` on a guard
file, so two processes that find the same dead owner cannot both take over.

A SLURM job that restarts on another node may find a lock held by its own previous attempt, which may be dead or still
running on a partitioned node. The job waits until that heartbeat stops.
"""

import fcntl
import json
import os
import socket
import threading
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any

from sweeper.files import write_json
from sweeper.run.stop import StopFlag

HEARTBEAT_SECONDS = 10.0
STALE_SECONDS = 90.0  # without a heartbeat after which an owner on another machine counts as dead
POLL_SECONDS = 1.0
EXIT_LOST = 75  # exit status of a process whose run was taken over


class RunLocked(Exception):
    """Another live process owns the run."""


def _machine() -> str:
    """Identifies this boot of this machine and its process table. Containers have separate process tables."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:8]
        processes = Path("/proc/self/ns/pid").readlink().name
    except OSError:
        boot = processes = "-"
    return f"{socket.gethostname()}/{boot}/{processes}"


def _process_start(pid: int) -> str | None:
    """Start time of a process in clock ticks, which differs if a pid is reused. None if there is no such process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return None
    return None if fields[0] == "Z" else fields[19]


def read_owner(path: Path) -> dict[str, Any] | None:
    """Content of the lock, or None if it is missing or incomplete."""
    try:
        owner = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return owner if isinstance(owner, dict) else None


def is_alive(path: Path) -> bool:
    """Whether the lock at `path` has a live owner."""
    owner = read_owner(path)
    if owner is None:
        return False
    if owner["machine"] == _machine():
        return bool(_process_start(owner["pid"]) == owner["process_start"])
    try:
        return time.time() - path.stat().st_mtime < STALE_SECONDS
    except OSError:
        return False


class RunLock:
    """Ownership of a run directory for the duration of a `with` block.

    A daemon thread renews the heartbeat. If the parent process is gone, it sets `stop`, and the run stops at its next
    step with a checkpoint. A process that loses its lock exits immediately, because another process now writes to the
    run's files.

    Raises:
        RunLocked: on entry, if another live process owns the run.
    """

    def __init__(self, path: Path, stop: StopFlag) -> None:
        self._job = os.environ.get("SLURM_JOB_ID")
        self._path = path
        self._stop = stop
        self._token = uuid.uuid4().hex
        self._released = threading.Event()
        self._parent = os.getppid()

    def __enter__(self) -> "RunLock":
        while (owner := self._take()) is not None:
            same_job = self._job is not None and owner.get("job") == self._job
            if not same_job or self._stop.is_set():
                raise RunLocked(f"owned by process {owner.get('pid')} on {owner.get('machine', '?').split('/')[0]}")
            time.sleep(POLL_SECONDS)
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()
        return self

    def _take(self) -> dict[str, Any] | None:
        """Become the owner, or return the live owner."""
        with self._guard():
            if is_alive(self._path):
                return read_owner(self._path) or {}
            pid = os.getpid()
            write_json(
                self._path,
                {
                    "machine": _machine(),
                    "pid": pid,
                    "process_start": _process_start(pid),
                    "job": self._job,
                    "token": self._token,
                },
            )
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._released.set()
        with self._guard():
            if self._is_ours():
                self._path.unlink(missing_ok=True)

    def _is_ours(self) -> bool:
        owner = read_owner(self._path)
        return owner is not None and owner["token"] == self._token

    def _beat(self) -> None:
        while not self._released.wait(HEARTBEAT_SECONDS):
            if not self._is_ours():
                if not self._released.is_set():
                    os._exit(EXIT_LOST)
                return
            if os.getppid() != self._parent:
                self._stop.set()
            os.utime(self._path)

    def _guard(self) -> "Guard":
        return Guard(self._path.with_name(f"{self._path.name}.guard"))


class Guard:
    """`flock` on a file for the duration of a `with` block. The file is created if missing and never removed."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        self._file = self._path.open("w")
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        self._file.close()
