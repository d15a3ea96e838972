"""A run has one owner at a time. A dead owner is detected at once on this machine, elsewhere by its heartbeat."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sweeper.records import lock as lock_module
from sweeper.records.lock import EXIT_LOST, STALE_SECONDS, Guard, RunLock, RunLocked, is_alive, read_owner
from sweeper.run.stop import StopFlag

# Take the locks named on standard input one after another, each until the next line. Print whether it worked.
HOLDER = """
import sys
from pathlib import Path
from sweeper.records.lock import RunLock, RunLocked
from sweeper.run.stop import StopFlag
held = None
for line in sys.stdin:
    if held is not None:
        held.__exit__(None, None, None)
    held = RunLock(Path(line.strip()), StopFlag())
    try:
        held.__enter__()
        print("won", flush=True)
    except RunLocked:
        held = None
        print("owned", flush=True)
"""


class Holder:
    """A process that takes locks on request."""

    def __init__(self, repository: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDER], cwd=repository, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def tell(self, path: Path) -> None:
        self.process.stdin.write(f"{path}\n")
        self.process.stdin.flush()

    def answer(self) -> str:
        return self.process.stdout.readline().strip()

    def take(self, path: Path) -> str:
        self.tell(path)
        return self.answer()


@pytest.fixture
def holders(repository) -> Iterator[list[Holder]]:
    started = [Holder(repository), Holder(repository)]
    yield started
    for holder in started:
        holder.process.kill()
        holder.process.communicate()


def take(path: Path) -> RunLock:
    return RunLock(path, StopFlag())


def write_owner(path: Path, **owner: object) -> None:
    ours = {"machine": lock_module._machine(), "pid": os.getpid(), "token": "x"}
    path.write_text(json.dumps({**ours, "process_start": lock_module._process_start(os.getpid()), **owner}))


def test_a_second_owner_is_refused_with_the_name_of_the_first(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with take(path):
        with pytest.raises(RunLocked, match=f"owned by process {os.getpid()} on "), take(path):
            pass
        assert is_alive(path)
    assert not path.exists()


def test_another_process_is_refused_until_the_owner_releases_the_lock(tmp_path: Path, holders) -> None:
    path = tmp_path / "lock"
    assert holders[0].take(path) == "won"
    assert holders[1].take(path) == "owned"
    assert holders[0].take(tmp_path / "other") == "won"
    assert holders[1].take(path) == "won"


@pytest.mark.parametrize("reaped", [True, False], ids=["gone", "zombie"])
def test_a_killed_owner_is_taken_over_at_once(tmp_path: Path, holders, reaped, wait_until) -> None:
    path = tmp_path / "lock"
    assert holders[0].take(path) == "won"
    holders[0].process.kill()
    if reaped:
        holders[0].process.wait()
    wait_until(lambda: not is_alive(path))  # known from the process table, because the heartbeat is fresh
    assert time.time() - path.stat().st_mtime < STALE_SECONDS
    with take(path):
        assert read_owner(path)["pid"] == os.getpid()


def test_a_reused_pid_is_not_its_first_owner(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    write_owner(path)
    assert is_alive(path)
    write_owner(path, process_start="1")
    assert not is_alive(path)
    with take(path):
        pass


def test_an_owner_on_another_machine_is_alive_while_its_heartbeat_is(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    write_owner(path, machine="elsewhere/01234567", pid=1, process_start="1")
    with pytest.raises(RunLocked, match="owned by process 1 on elsewhere"), take(path):
        pass
    silent_since = time.time() - STALE_SECONDS - 1
    os.utime(path, (silent_since, silent_since))
    with take(path):
        assert read_owner(path)["pid"] == os.getpid()


@pytest.mark.parametrize("skew", [300.0, -300.0], ids=["ahead", "behind"])
def test_a_clock_that_is_off_neither_kills_a_live_owner_nor_revives_a_dead_one(
    skew: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The owner is on another machine. Only the file system's clock counts."""
    live, dead = tmp_path / "live", tmp_path / "dead"
    for path in (live, dead):
        write_owner(path, machine="elsewhere/01234567", pid=1, process_start="1")
    silent_since = time.time() - STALE_SECONDS - 1
    os.utime(dead, (silent_since, silent_since))
    now = time.time
    monkeypatch.setattr(lock_module.time, "time", lambda: now() + skew)
    assert is_alive(live)
    assert not is_alive(dead)


def test_without_flock_a_guard_is_a_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads would both be inside if there were no guard."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(lock_module.fcntl, "flock", refuse)
    monkeypatch.setattr(lock_module, "_flock_by_device", {})
    guard, order = tmp_path / "guard", []
    inside = threading.Event()

    def second() -> None:
        inside.set()
        with Guard(guard):
            order.append("second")

    with Guard(guard):
        assert (tmp_path / "guard.lease").exists()
        other = threading.Thread(target=second)
        other.start()
        assert inside.wait(10)
        order.append("first")
    other.join(10)
    assert order == ["first", "second"]
    assert [path.name for path in tmp_path.iterdir()] == []
    with take(tmp_path / "lock"):
        assert is_alive(tmp_path / "lock")


def test_a_restart_of_this_machine_ends_all_its_owners(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    host = lock_module._machine().split("/")[0]
    write_owner(path, machine=f"{host}/earlier")
    silent_since = time.time() - STALE_SECONDS - 1
    os.utime(path, (silent_since, silent_since))
    assert not is_alive(path)


@pytest.mark.parametrize("content", ["", '{"machine": "x', "[]", "3"])
def test_a_torn_lock_has_no_owner(tmp_path: Path, content: str) -> None:
    path = tmp_path / "lock"
    path.write_text(content)
    assert not is_alive(path)
    with take(path):
        pass


def test_of_two_that_race_for_a_stale_lock_exactly_one_wins(tmp_path: Path, holders) -> None:
    for attempt in range(20):
        path = tmp_path / f"lock-{attempt}"
        write_owner(path, process_start="1")
        for holder in holders:
            holder.tell(path)
        assert sorted(holder.answer() for holder in holders) == ["owned", "won"], attempt


def test_the_heartbeat_is_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wait_until) -> None:
    monkeypatch.setattr(lock_module, "HEARTBEAT_SECONDS", 0.01)
    path = tmp_path / "lock"
    with take(path):
        os.utime(path, (1, 1))
        wait_until(lambda: path.stat().st_mtime > 1, "a heartbeat")


def test_a_process_that_loses_its_lock_exits_at_once_and_leaves_it_alone(tmp_path: Path, repository) -> None:
    path = tmp_path / "lock"
    code = f"""
import sys, threading
from pathlib import Path
from sweeper.records import lock
from sweeper.run.stop import StopFlag
lock.HEARTBEAT_SECONDS = 0.01
with lock.RunLock(Path({str(path)!r}), StopFlag()):
    print("won", flush=True)
    threading.Event().wait()
"""
    process = subprocess.Popen([sys.executable, "-c", code], cwd=repository, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "won\n"
    beside = tmp_path / "beside"
    write_owner(beside, token="another's")
    beside.replace(path)
    process.communicate(timeout=60)
    assert process.returncode == EXIT_LOST
    assert read_owner(path)["token"] == "another's"


def test_a_run_stops_when_the_process_that_started_it_is_gone(tmp_path: Path, repository, wait_until) -> None:
    run = f"""
import time
from pathlib import Path
from sweeper.records import lock
from sweeper.run.stop import StopFlag
lock.HEARTBEAT_SECONDS = 0.01
stop = StopFlag()
with lock.RunLock(Path({str(tmp_path / "lock")!r}), stop):
    while not stop.is_set():
        time.sleep(0.01)
Path({str(tmp_path / "stopped")!r}).write_text(str(stop.is_set()))
"""
    starter = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {run!r}]).wait()"
    process = subprocess.Popen([sys.executable, "-c", starter], cwd=repository)
    wait_until(lambda: is_alive(tmp_path / "lock"), "the lock")
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_until(lambda: (tmp_path / "stopped").exists() and (tmp_path / "stopped").read_text(), "the end of the run")
    assert (tmp_path / "stopped").read_text() == "True"
