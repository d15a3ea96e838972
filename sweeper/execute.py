"""Carry out one run in this process: own it, train it, record how it ended."""

import contextlib
import errno
import os
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path

from sweeper.data import open_data
from sweeper.errors import UserError
from sweeper.lock import RunLock, RunOwned
from sweeper.outcome import Outcome
from sweeper.provenance import provenance
from sweeper.redact import redact
from sweeper.rundir import RunDir
from sweeper.training import Reporter, Trainer


def execute_run(run_path: Path, data_root: Path, stop: threading.Event, report: Reporter) -> tuple[Outcome, str]:
    """Train the run in `run_path` to its end, or until `stop` is set.

    A finished run is left as it is. Errors are written to the run's log and returned, not raised.

    Returns:
        The outcome and, unless it went well, the reason in one line.
    """
    rundir = RunDir(run_path)
    try:
        with RunLock(rundir.lock, stop), _logging_to(rundir.log):
            try:
                return _train(rundir, data_root, stop, report)
            except UserError as error:
                print(redact(str(error)), flush=True)
                return Outcome.REFUSED, redact(str(error))
            except Exception as error:
                if _disk_is_full(error):
                    raise  # the log is on the same disk
                print(redact(traceback.format_exc()), flush=True)
                return Outcome.ERROR, redact(f"{type(error).__name__}: {error}".splitlines()[0])
    except RunOwned as owner:
        return Outcome.OWNED, str(owner)
    except UserError as error:
        return Outcome.REFUSED, redact(str(error))
    except OSError as error:
        if not _disk_is_full(error):
            raise
        message = f"no space left for {run_path}: free some, or move it with paths.runs=DIR"
        return Outcome.REFUSED, redact(message)


def _disk_is_full(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno == errno.ENOSPC


def _train(rundir: RunDir, data_root: Path, stop: threading.Event, report: Reporter) -> tuple[Outcome, str]:
    finished = rundir.result()
    if finished is not None:
        return Outcome(finished["state"]), finished["reason"]
    config, execution = rundir.load()
    rundir.clear_failure()
    outcome = Trainer(rundir, config, execution, open_data(config.data, data_root)).run(stop, report)
    if outcome is None:
        return Outcome.STOPPED, "stopped; the next submission resumes it"
    rundir.write_result({"run_id": rundir.path.name, **outcome, "provenance": provenance()})
    return Outcome(outcome["state"]), outcome["reason"]


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
