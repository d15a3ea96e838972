"""The follower process: reads requests from standard input and logs run directories to wandb.

    {"do": "open", "run": its directory, "peak_flops": of its GPUs, or null}
    {"do": "follow"}                        from now on the metrics only grow
    {"do": "close"}                         answered by "closed" once everything is logged
    {"do": "sweep", "manifest": …, "runs": …, "tracking": …}

It reads only those directories. The only thing it writes to them is a warning in a run's log. At the end of its
standard input it closes the open run and exits, after a timeout in any case.
"""

import contextlib
import json
import os
import select
import signal
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from sweeper.records.redact import redact
from sweeper.records.run_dir import RunDir, readout_rows
from sweeper.records.sweep_manifest import Sweep
from sweeper.run.execution import Tracking
from sweeper.tracking.client import BROKEN, CLOSED, GRACE_SECONDS
from sweeper.tracking.wandb_run import Entry, WandbRun

POLL_SECONDS = 1.0
COLUMNS = ("i", "j", "mean", "std")  # of a read-out's table


class RunFollower:
    """Copies one run directory to one wandb run.

    Args:
        rundir: directory of the run.
        peak_flops: peak of all its GPUs, FLOP/s; None if utilisation is not shown.
    """

    def __init__(self, rundir: RunDir, peak_flops: float | None) -> None:
        config, execution = rundir.load()
        self.rundir, self.tracking = rundir, execution.tracking
        self._batch_tokens, self._utilisation = config.batch_tokens, 0.0  # utilisation at one token per second
        if self._batch_tokens and peak_flops:
            tokens = self._batch_tokens * config.steps
            self._utilisation = (config.flops + config.attention_flops) / tokens / peak_flops
        self._position, self._last_progress = 0, rundir.progress()
        record = yaml.safe_load((rundir.path / "config.yaml").read_text())
        entry = Entry.of_run(config, record)
        self._wandb_run = WandbRun(self.tracking, rundir.path.parent.parent, entry, partial(warn, rundir))
        self._server_step = self._wandb_run.last_step

    def catch_up(self) -> None:
        """Log the new lines of metrics.jsonl, except those that the server has from an earlier attempt."""
        lines = [line for line in self._new_lines() if line["step"] >= self._server_step]
        for line in lines:
            if "loss" in line and self._batch_tokens:
                line["tokens"] = line["step"] * self._batch_tokens
        if lines:
            lines[-1] |= self._speed_now()
        for line in lines:
            self._wandb_run.log(line.pop("step"), line)

    def close(self) -> None:
        """Log the remaining lines, and the result if there is one."""
        self.catch_up()
        result = self.rundir.result()
        if result is not None:
            step_time = result["seconds"]["step"] / result["step"] if result["step"] else 0.0
            self._wandb_run.summarize(
                result=result, **(self._speed(self._batch_tokens / step_time) if step_time else {})
            )
            for name, values in self.rundir.readouts().items():
                self._wandb_run.log_table(result["step"], f"readouts/{name}", COLUMNS, readout_rows(**values))
        self._wandb_run.close(finished=result is not None)

    def _new_lines(self) -> Iterator[dict[str, Any]]:
        try:
            with self.rundir.metrics.open("rb") as file:
                file.seek(self._position)
                whole, newline, _ = file.read().rpartition(b"\n")  # the last line may be incomplete
        except FileNotFoundError:
            return
        self._position += len(whole + newline)
        for line in whole.splitlines():
            yield json.loads(line)

    def _speed_now(self) -> dict[str, float]:
        """Speed of the current attempt, if the training has reported a new one."""
        progress = self.rundir.progress()
        if not progress or progress == self._last_progress:
            return {}
        self._last_progress = progress
        return self._speed(progress["tokens_per_second"])

    def _speed(self, rate: float) -> dict[str, float]:
        """Tokens per second of a training and, on GPUs, model-FLOPs utilisation."""
        if not self._batch_tokens:
            return {}
        return {"tokens_per_second": rate} | ({"mfu": rate * self._utilisation} if self._utilisation else {})


def warn(rundir: RunDir, message: str) -> None:
    """Write one line to the run's log."""
    with contextlib.suppress(OSError), rundir.log.open("a") as log:
        log.write(redact(f"wandb: {message}\n"))


def first_line(error: Exception) -> str:
    """Type and message of an error in one short line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def mirror_manifest(manifest: Path, runs: Path, tracking: Tracking) -> None:
    """Log a sweep's manifest. There is no log for a warning: the user sees the output of the sweep itself."""
    wandb_run = WandbRun(tracking, runs.parent, Entry.of_sweep(Sweep.load(manifest)), lambda message: None)
    wandb_run.close(finished=True)


class Requests:
    """Requests from standard input, one per line."""

    def __init__(self, fd: int) -> None:
        self._fd, self._buffer = fd, b""

    def next(self, seconds: float | None) -> dict[str, Any] | None:
        """The next request; None if none came within `seconds`. Raises `EOFError` at the end."""
        while b"\n" not in self._buffer:
            if not select.select([self._fd], [], [], seconds)[0]:
                return None
            chunk = os.read(self._fd, 65536)
            if not chunk:
                raise EOFError
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        request: dict[str, Any] = json.loads(line)
        return request


def serve(requests: Requests) -> None:
    """Serve requests until they end. An error becomes one line in the run's log."""
    run: RunFollower | None = None
    following = broken = False
    while True:
        try:
            request = requests.next(POLL_SECONDS if run and following else None)
        except EOFError:
            break
        do = request["do"] if request else "catch up"
        try:
            if do == "open" and request:
                rundir, run, following = RunDir(Path(request["run"])), None, False
                run = RunFollower(rundir, request["peak_flops"])
            elif do == "sweep" and request:
                tracking = Tracking(**request["tracking"])
                _exit_soon(tracking)
                mirror_manifest(Path(request["manifest"]), Path(request["runs"]), tracking)
            elif do == "follow":
                following = True
            elif do == "catch up" and run:
                run.catch_up()
            elif do == "close" and run:
                run.close()
                run = None
        except Exception as error:
            if do != "sweep":
                warn(rundir, f"mirroring stopped ({first_line(error)}); the run's own records are complete")
            run, broken = None, True
        if do == "close":
            os.write(sys.stdout.fileno(), BROKEN if broken else CLOSED)
    _exit_soon(run.tracking if run else Tracking())
    if run is not None:
        run.close()


def _exit_soon(tracking: Tracking) -> None:
    """Exit after the timeouts, even if another thread hangs."""
    seconds = tracking.init_timeout + tracking.finish_timeout + GRACE_SECONDS
    timer = threading.Timer(seconds, os._exit, [1])
    timer.daemon = True
    timer.start()


def main() -> None:
    """Entry point."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # signals are for the training, which closes this process afterwards
    serve(Requests(sys.stdin.fileno()))


if __name__ == "__main__":
    main()
