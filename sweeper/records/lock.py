"""Who owns a run: at most one process at a time, and an owner that died is noticed.

On one machine the process table tells at once whether an owner lives. Between machines, which share only the file
system, the owner's heartbeat (the lock file's modification time) does. Taking a lock is serialised by `flock` on a
guard file, so that two processes that find the same dead owner cannot both take over.

A SLURM job that starts again, on another node, may find its own former self in the lock: killed without a word, or cut
off and still at work. It waits for that heartbeat to stop instead of leaving the run to an owner that may be dead.
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
STALE_SECONDS = 90.0  # of silence after which an owner on another machine counts as dead
POLL_SECONDS = 1.0
EXIT_LOST = 75  # exit status of a process whose run was taken over


class RunLocked(Exception):
    """Another live process owns the run."""


def _machine() -> str:
    """This boot of this machine, as far as its process table reaches: containers have their own."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:8]
        processes = Path("/proc/self/ns/pid").readlink().name
    except OSError:
        boot = processes = "-"
    return f"{socket.gethostname()}/{boot}/{processes}"


def _process_start(pid: int) -> str | None:
    """Start time of a process in clock ticks, which tells a reused pid from the first one; None if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return None
    return None if fields[0] == "Z" else fields[19]


def read_owner(path: Path) -> dict[str, Any] | None:
    """The lock's content, or None if there is none (or only a torn one)."""
    try:
        owner = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return owner if isinstance(owner, dict) else None


def is_alive(path: Path) -> bool:
    """True if the lock at `path` has an owner that lives."""
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

    A daemon thread renews the heartbeat. If the process that started us is gone it sets `stop`, so that the run
    ends at its next step, resumable. If the lock is not ours any more, somebody took us for dead: the process exits
    on the spot, because whatever it wrote from now on would fall into another's files.

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
            former_self = self._job is not None and owner.get("job") == self._job
            if not former_self or self._stop.is_set():
                raise RunLocked(f"owned by process {owner.get('pid')} on {owner.get('machine', '?').split('/')[0]}")
            time.sleep(POLL_SECONDS)
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()
        return self

    def _take(self) -> dict[str, Any] | None:
        """Become the owner, or return the one that lives."""
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
    """`flock` on a file, for the length of a `with` block; made if missing, never removed."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        self._file = self._path.open("w")
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        self._file.close()
