"""The training side of the mirror: name the run to the follower process, and never wait long for it.

wandb runs in the follower process, so that no problem of wandb (a hanging server, a lost service, a crash) affects the
training. A worker keeps one follower for all its runs, because importing and starting wandb takes about two seconds.
The follower has its own process group and does not receive Ctrl-C. It exits at the end of its standard input, which
also happens when the worker is killed.
"""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeper.errors import UserError
from sweeper.hardware import peak_flops
from sweeper.records.redact import redact
from sweeper.records.run_dir import RunDir
from sweeper.run.base import Run
from sweeper.run.execution import Execution, Tracking

if TYPE_CHECKING:
    from sweeper.run.progress import Progress

GRACE_SECONDS = 5.0  # after the follower's own timeouts, until it is abandoned
MAX_FAILURES = 2  # abandoned followers, after which this process no longer mirrors its runs
CLOSED, BROKEN = b"closed\n", b"broken\n"  # answers of the follower to "close"


class FollowerProcess:
    """`python -m sweeper.tracking.follower`. Requests are lines of JSON on its standard input."""

    def __init__(self) -> None:
        environment = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "sweeper.tracking.follower"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env=environment | {"WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false"},
            start_new_session=True,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        os.set_blocking(self.process.stdin.fileno(), False)  # losing a request is better than blocking the training
        self._requests, self._answers = self.process.stdin, self.process.stdout

    def send(self, do: str, **arguments: Any) -> None:
        """Send a request. Raises `OSError` if the process does not read it."""
        line = json.dumps({"do": do, **arguments}).encode() + b"\n"
        if self._requests.write(line) != len(line):
            raise BlockingIOError("it does not read requests")

    def wait_closed(self, seconds: float) -> bool:
        """Wait for the answer to "close". True if the process can follow another run.

        Raises `OSError` if there is no answer.
        """
        deadline = time.monotonic() + seconds
        answer = b""
        while answer not in (CLOSED, BROKEN):
            ready, _, _ = select.select([self._answers], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError(f"no answer within {seconds:g} s")
            chunk = os.read(self._answers.fileno(), 4096)
            if not chunk:
                raise OSError("its process ended")
            answer += chunk
        return answer == CLOSED

    def end(self) -> None:
        """Let it finish its work and exit."""
        self._requests.close()
        self._answers.close()

    def kill(self) -> None:
        """Kill it. wandb's service then exits by itself."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.end()


_follower: FollowerProcess | None = None  # kept by this process for its next run
_failures = 0  # abandoned followers


@contextmanager
def mirrored(
    rundir: RunDir, ranks: int, report: "Callable[[Progress], None]"
) -> "Iterator[Callable[[Progress], None]]":
    """Mirror the run in `rundir` while the `with` block trains it.

    No error of the mirror is raised. It is one line in the run's log.

    Args:
        rundir: the run's directory.
        ranks: processes that train the run together.
        report: called with progress.

    Yields:
        The function to call with progress, in place of `report`.
    """
    tracking = _open(rundir, ranks)
    if tracking is None:
        yield report
        return
    followed = False

    def note(progress: "Progress") -> None:
        nonlocal followed
        report(progress)
        if not followed:
            followed = True
            _send("follow")  # not earlier: a resumed run first truncates its metrics

    try:
        yield note
    finally:
        _close(tracking)


def mirror_sweep(manifest: Path, runs: Path, tracking: Tracking) -> None:
    """Mirror a sweep's manifest in the background, even after the caller has exited.

    Args:
        manifest: the sweep's file.
        runs: directory of its run directories.
        tracking: tracking settings of its runs.
    """
    if tracking.mode == "off":
        return
    try:
        process = FollowerProcess()
        process.send("sweep", manifest=str(manifest.resolve()), runs=str(runs.resolve()), tracking=vars(tracking))
        process.end()
    except OSError as error:
        print(f"warning: {manifest.stem} is not mirrored ({error})", file=sys.stderr)


def _open(rundir: RunDir, ranks: int) -> Tracking | None:
    global _follower
    try:
        if rundir.result() is not None:
            return None
        config, execution = rundir.load()
    except UserError:
        return None  # the training reports it
    if execution.tracking.mode == "off" or _failures >= MAX_FAILURES:
        return None
    try:
        if _follower is None or _follower.process.poll() is not None:
            _follower = FollowerProcess()
        _follower.send("open", run=str(rundir.path.resolve()), peak_flops=_peak_flops(config, execution, ranks))
    except Exception as error:  # no error of the mirror may stop the run
        _abandon(error)
        return None
    return execution.tracking


def _peak_flops(config: Run, execution: Execution, ranks: int) -> float | None:
    """Peak FLOP/s of all GPUs of the run; None if utilisation is not defined."""
    if execution.device != "cuda" or not config.uses_bf16:
        return None
    import torch

    peak = peak_flops(torch.cuda.get_device_name()) if torch.cuda.is_available() else None
    return peak and peak * ranks


def _send(request: str) -> None:
    if _follower is not None:
        try:
            _follower.send(request)
        except OSError as error:
            _abandon(error)


def _close(tracking: Tracking) -> None:
    global _follower
    _send("close")
    if _follower is not None:
        try:
            if not _follower.wait_closed(tracking.init_timeout + tracking.finish_timeout + GRACE_SECONDS):
                _follower.end()  # the run's log has the reason; the next run starts another follower
                _follower = None
        except OSError as error:  # TimeoutError is one
            _abandon(error)


def _abandon(error: Exception) -> None:
    """Stop mirroring this run. The next run starts another follower."""
    global _follower, _failures
    if _follower is not None:
        _follower.kill()
    _follower = None
    _failures += 1
    print(redact(f"wandb: mirroring stopped ({error}); the run's own records are complete"), flush=True)
