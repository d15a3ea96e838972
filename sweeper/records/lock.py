"""Locks of runs: a run has at most one owner process, and a dead owner is detected.

On one machine the process table shows at once whether an owner is alive. Machines that share only the file system use
the owner's heartbeat, which is the lock file's modification time. It is compared with the time of a file that was just
written beside it, so the clocks of two machines are never compared. Taking a lock is serialised by a guard file, so two
processes that find the same dead owner cannot both take over.

A SLURM job that restarts on another node may find a lock held by its own previous attempt, which may be dead or still
running on a partitioned node. The job waits until that heartbeat stops.
"""

import errno
import fcntl
import json
import math
import os
import socket
import tempfile
import threading
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, SoftFileLease

from sweeper.files import write_json
from sweeper.run.stop import StopFlag

HEARTBEAT_SECONDS = 10.0
STALE_SECONDS = 90.0  # without a heartbeat after which an owner on another machine counts as dead
POLL_SECONDS = 1.0
LEASE_SECONDS = 60.0  # without a sign of life after which a guard without flock counts as abandoned
CLOCK_SECONDS = 60.0  # after which the file system's clock is read anew
NO_FLOCK = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)
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


def _slurm_job() -> str | None:
    """Id of the SLURM job of this process, as squeue shows it. None if there is none."""
    if array := os.environ.get("SLURM_ARRAY_JOB_ID"):
        return f"{array}_{os.environ.get('SLURM_ARRAY_TASK_ID')}"
    return os.environ.get("SLURM_JOB_ID")


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
        return file_system_time(path.parent) - path.stat().st_mtime < STALE_SECONDS
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
        self._job = _slurm_job()
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
    """Mutual exclusion for the duration of a `with` block, among all processes that share the file system.

    It is `flock` on a file that is created if missing and never removed. Where the file system has no flock, it is a
    lease: a file that exists while it is held and is renewed by a thread. The lease of a holder that died expires.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        self._lock: FileLock | SoftFileLease
        if has_flock(self._path.parent):
            self._lock = FileLock(self._path, preserve_lock_file=True)
        else:
            self._lock = SoftFileLease(self._path.with_name(f"{self._path.name}.lease"), lease_duration=LEASE_SECONDS)
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


_flock_by_device: dict[int, bool] = {}
_clock_by_device: dict[int, tuple[float, float]] = {}


def has_flock(directory: Path) -> bool:
    """Whether the directory's file system has `flock`. Tried once per file system and process."""
    device = directory.stat().st_dev
    if device not in _flock_by_device:
        with tempfile.TemporaryFile(dir=directory) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _flock_by_device[device] = True
            except OSError as error:
                if error.errno not in NO_FLOCK:
                    raise
                _flock_by_device[device] = False
    return _flock_by_device[device]


def file_system_time(directory: Path) -> float:
    """Now in seconds since the epoch, by the clock that stamps files in `directory`.

    This machine's own clock if it may not write there.
    """
    device, now = directory.stat().st_dev, time.monotonic()
    ahead, read = _clock_by_device.get(device, (0.0, -math.inf))
    if now - read > CLOCK_SECONDS:
        try:
            with tempfile.NamedTemporaryFile(dir=directory, prefix=".clock-") as file:
                os.utime(file.name)  # as a heartbeat does
                ahead = Path(file.name).stat().st_mtime - now
        except OSError:
            ahead = time.time() - now
        _clock_by_device[device] = ahead, now
    return now + ahead
