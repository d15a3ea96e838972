"""The training side of the mirror: tell another process which run to follow, and never wait for it for long.

wandb runs in that process, so that nothing it does (a server that hangs, a lost service, a crash) reaches the training.
A worker keeps one such process for all its runs: importing and starting wandb takes about two seconds. The process
leads a session of its own, because Ctrl-C is for those who train: it ends when its standard input does, which is also
how it learns of a `kill -9`.
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

GRACE_SECONDS = 5.0  # beyond the mirror's own timeouts, before it is given up
MAX_LOST = 2  # mirrors given up, after which this process goes on without
CLOSED, BROKEN = b"closed\n", b"broken\n"  # what the process answers once a run is closed


class MirrorProcess:
    """`python -m sweeper.tracking.follower`; requests go in as lines of JSON."""

    def __init__(self) -> None:
        own = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "sweeper.tracking.follower"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env=own | {"WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false"},
            start_new_session=True,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        os.set_blocking(self.process.stdin.fileno(), False)  # rather a request lost than a training that waits
        self._requests, self._answers = self.process.stdin, self.process.stdout

    def send(self, do: str, **arguments: Any) -> None:
        """Hand over a request. Raises `OSError` if nobody takes it."""
        line = json.dumps({"do": do, **arguments}).encode() + b"\n"
        if self._requests.write(line) != len(line):
            raise BlockingIOError("it takes no requests")

    def closes_well(self, seconds: float) -> bool:
        """Wait for the answer to "close": whether the process can go on. Raises `OSError` if there is no answer."""
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
        """Let it finish what it does and end by itself."""
        self._requests.close()
        self._answers.close()

    def kill(self) -> None:
        """End it now; wandb's service follows by itself."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.end()


_kept: MirrorProcess | None = None  # of this process, for its next run
_lost = 0  # mirrors given up


@contextmanager
def mirrored(
    rundir: RunDir, ranks: int, report: "Callable[[Progress], None]"
) -> "Iterator[Callable[[Progress], None]]":
    """Mirror the run in `rundir` while the block trains it.

    Nothing that goes wrong with the mirror is raised; one line in the run's log tells of it.

    Args:
        rundir: the run's directory.
        ranks: processes that train it together.
        report: called with progress.

    Yields:
        What to call with progress instead.
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
            _tell("follow")  # not before: resuming cuts the metrics back first

    try:
        yield note
    finally:
        _close(tracking)


def mirror_sweep(manifest: Path, runs: Path, tracking: Tracking) -> None:
    """Mirror a sweep's manifest, in the background; also after the caller has ended.

    Args:
        manifest: the sweep's file.
        runs: directory of its run directories.
        tracking: of its runs.
    """
    if tracking.mode == "off":
        return
    try:
        process = MirrorProcess()
        process.send("sweep", manifest=str(manifest.resolve()), runs=str(runs.resolve()), tracking=vars(tracking))
        process.end()
    except OSError as error:
        print(f"warning: {manifest.stem} is not mirrored ({error})", file=sys.stderr)


def _open(rundir: RunDir, ranks: int) -> Tracking | None:
    global _kept
    try:
        if rundir.result() is not None:
            return None
        config, execution = rundir.load()
    except UserError:
        return None  # whoever trains the run says so
    if execution.tracking.mode == "off" or _lost >= MAX_LOST:
        return None
    try:
        if _kept is None or _kept.process.poll() is not None:
            _kept = MirrorProcess()
        _kept.send("open", run=str(rundir.path.resolve()), peak_flops=_peak_flops(config, execution, ranks))
    except Exception as error:  # whatever it is, the run does not depend on it
        _give_up(error)
        return None
    return execution.tracking


def _peak_flops(config: Run, execution: Execution, ranks: int) -> float | None:
    """Of all the run's GPUs together; None where utilisation means nothing."""
    if execution.device != "cuda" or not config.uses_bf16:
        return None
    import torch

    peak = peak_flops(torch.cuda.get_device_name()) if torch.cuda.is_available() else None
    return peak and peak * ranks


def _tell(request: str) -> None:
    if _kept is not None:
        try:
            _kept.send(request)
        except OSError as error:
            _give_up(error)


def _close(tracking: Tracking) -> None:
    global _kept
    _tell("close")
    if _kept is not None:
        try:
            if not _kept.closes_well(tracking.init_timeout + tracking.finish_timeout + GRACE_SECONDS):
                _kept.end()  # it has said so in the run's log; the next run starts another
                _kept = None
        except OSError as error:  # TimeoutError is one
            _give_up(error)


def _give_up(error: Exception) -> None:
    """The mirror of this run; the next run starts another."""
    global _kept, _lost
    if _kept is not None:
        _kept.kill()
    _kept = None
    _lost += 1
    print(redact(f"wandb: not mirrored any further ({error}); the run's own records are complete"), flush=True)
