"""Execute one run in this process: lock it, compute it, record how it ended."""

import contextlib
import errno
import os
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from sweeper.errors import UserError
from sweeper.files import no_space
from sweeper.records.lock import RunLock, RunLocked
from sweeper.records.provenance import provenance
from sweeper.records.redact import redact
from sweeper.records.run_dir import RunDir
from sweeper.run.execution import Execution
from sweeper.run.outcome import Outcome
from sweeper.run.progress import Progress, Reporter
from sweeper.run.spec import KINDS
from sweeper.run.stop import StopFlag
from sweeper.tracking.client import mirrored
from sweeper.training.attempt import Attempt
from sweeper.training.distributed import RankInfo, RunCancelled

PROGRESS_SECONDS = 5.0  # between writes of progress.json


def execute_run(
    run_path: Path, data_root: Path, stop: StopFlag, report: Reporter, rank_info: RankInfo | None = None
) -> tuple[Outcome, str]:
    """Train the run in `run_path` to its end, or until `stop` is set.

    A finished run is left as it is. Errors are written to the run's log and returned, not raised. Where several
    processes train the run together, rank 0 owns it and writes; the others follow it.

    Args:
        run_path: the run's directory.
        data_root: directory of prepared data.
        stop: ends the run at its next step, resumable.
        report: called with progress.
        rank_info: of this process; None if it trains alone.

    Returns:
        The outcome and, unless it went well, the reason in one line.
    """
    rundir, rank_info = RunDir(run_path), rank_info or RankInfo()
    if rank_info.rank > 0:
        return _attempt(rundir, data_root, stop, report, rank_info)
    try:
        with RunLock(rundir.lock, stop), _logging_to(rundir.log), mirrored(rundir, rank_info.size, report) as report:
            return _attempt(rundir, data_root, stop, report, rank_info)
    except RunLocked as owner:
        rank_info.cancel()
        return Outcome.STOPPED if stop.is_set() else Outcome.LOCKED, str(owner)
    except UserError as error:
        return Outcome.INVALID, redact(str(error))
    except OSError as error:
        if not _disk_is_full(error):
            raise
        return Outcome.INVALID, redact(str(no_space(run_path)))


def _disk_is_full(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno == errno.ENOSPC


def _attempt(
    rundir: RunDir, data_root: Path, stop: StopFlag, report: Reporter, rank_info: RankInfo
) -> tuple[Outcome, str]:
    try:
        return _run(rundir, data_root, stop, report, rank_info)
    except RunCancelled as reason:
        return Outcome.LOCKED, str(reason)
    except UserError as error:
        print(redact(str(error)), flush=True)
        return Outcome.INVALID, redact(str(error))
    except Exception as error:
        if _disk_is_full(error):
            raise  # the log is on the same disk
        print(redact(traceback.format_exc()), flush=True)
        return Outcome.ERROR, redact(f"{type(error).__name__}: {error}".splitlines()[0])


def _run(rundir: RunDir, data_root: Path, stop: StopFlag, report: Reporter, rank_info: RankInfo) -> tuple[Outcome, str]:
    finished = rundir.result() if rank_info.rank == 0 else None
    if finished is not None:
        rank_info.cancel()
        return Outcome(finished["state"]), finished["reason"]
    config, execution = rundir.load()
    if rank_info.rank == 0:
        origin = provenance()  # now: the checkout may move on while the run trains
        rundir.clear_failure()
        report = _noting_progress(rundir, report)
    attempt = Attempt(rundir, config, execution, stop, report, data_root, rank_info)
    outcome = resolve_name(KINDS[config.KIND].runner)(attempt)
    if outcome is None:
        return Outcome.STOPPED, "stopped; the next submission resumes it"
    if rank_info.rank == 0:
        rundir.write_result({"run_id": rundir.path.name, **outcome, "provenance": origin | _gpus(execution, rank_info)})
    return Outcome(outcome["state"]), outcome["reason"]


def _gpus(execution: Execution, rank_info: RankInfo) -> dict[str, Any]:
    """Name and number of the GPUs a run took, where it took any."""
    if execution.device != "cuda":
        return {}
    import torch

    return {"gpu": torch.cuda.get_device_name(), "gpus": rank_info.size}


def _noting_progress(rundir: RunDir, report: Reporter) -> Reporter:
    """`report`, which also leaves speed and time left where `loopsweep status` on any machine finds them."""
    written = -PROGRESS_SECONDS

    def note(progress: Progress) -> None:
        nonlocal written
        report(progress)
        if time.monotonic() - written >= PROGRESS_SECONDS:
            written = time.monotonic()
            rundir.write_progress(progress.tokens_per_second, progress.seconds_left)

    return note


@contextlib.contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    """Send this process's standard output and error, native code's included, to the end of `path`."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    with path.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for fd, copy in enumerate(saved, start=1):
            os.dup2(copy, fd)
            os.close(copy)
