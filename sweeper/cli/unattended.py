"""`loopsweep watch` with nobody at the keyboard: what is submitted again, and who is told."""

import json
import os
import re
import subprocess
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from sweeper.errors import UserError
from sweeper.execution.slurm.status import SweepView
from sweeper.records.run_dir import RunDir
from sweeper.records.status import RunStatus, State

RETRIED = (State.FAILED, State.LOST, State.TIMEOUT)
TRIES = 3  # submissions of one run without a new step in between
SECONDS = 30.0  # for a command or web server that is told


@dataclass
class AutomaticRetry:
    """Submits runs again whose jobs ended without them: cancelled, preempted, refused a requeue, or out of time.

    A run that failed by itself is not tried again. Nor is one that has come no further in its last `TRIES` submissions.

    Attributes:
        runs: directory of run directories.
        submit: submits runs again.
        trouble: why the last submission failed, in one line; empty if it did not.
    """

    runs: Path
    submit: Callable[[list[str]], None]
    trouble: str = field(default="", init=False)
    _tries: dict[str, tuple[int, int]] = field(default_factory=dict, init=False)  # step, submissions from there

    def due(self, statuses: Mapping[str, RunStatus]) -> list[str]:
        """Runs to submit again."""
        return [
            run_id
            for run_id, status in statuses.items()
            if status.state in RETRIED
            and RunDir(self.runs / run_id).failure() is None
            and self._count(run_id, status.step) < TRIES
        ]

    def look(self, view: SweepView) -> tuple[dict[str, RunStatus], list[str]]:
        """States of all runs, and the runs that are still to be submitted again. Submits what is due.

        Nothing is submitted on an old answer of SLURM.
        """
        statuses = view.statuses()
        due = self.due(statuses)
        if due and view.is_fresh:
            for run_id in due:
                step = statuses[run_id].step
                self._tries[run_id] = step, self._count(run_id, step) + 1
            try:
                self.submit(due)
                self.trouble = ""
            except UserError as error:
                self.trouble = str(error)
            view.ask_anew()
            statuses = view.statuses()
            due = self.due(statuses)
        return statuses, due

    def _count(self, run_id: str, step: int) -> int:
        before, count = self._tries.get(run_id, (step, 0))
        return count if before == step else 0


@dataclass
class Notifier:
    """Sends one line when the first run needs a person, and one when the sweep has ended.

    Attributes:
        sweep: name of the sweep.
        target: a URL, which gets {"text": line} as JSON, or a shell command, which gets the line as $LINE and as its
            standard input. None sends nothing.
        console: where to print that nobody could be told.
    """

    sweep: str
    target: str | None
    console: Console
    _told: bool = field(default=False, init=False)

    def see(self, statuses: Mapping[str, RunStatus], counts: str, *, due: list[str], ended: bool) -> None:
        """Tell what is new.

        Args:
            statuses: of all runs.
            counts: of the states, in words.
            due: runs that are submitted again without a person.
            ended: whether nothing moves any more.
        """
        needy = [
            (run_id, status)
            for run_id, status in statuses.items()
            if status.state in (*RETRIED, State.HELD) and run_id not in due
        ]
        if needy and not self._told:
            self._told = True
            run_id, status = needy[0]
            self.send(f"{self.sweep}: first trouble: {run_id} is {status.state}: {status.reason}")
        if ended:
            self.send(f"{self.sweep} has ended: {counts}")

    def send(self, line: str) -> None:
        """Send a line. A failure is printed, and never ends the watch."""
        try:
            match self.target:
                case None:
                    return
                case url if re.match("https?://", url):
                    body = json.dumps({"text": line}).encode()
                    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
                    urllib.request.urlopen(request, timeout=SECONDS).close()
                case command:
                    environment = {**os.environ, "LINE": line}
                    subprocess.run(
                        command, shell=True, check=True, text=True, input=f"{line}\n", env=environment, timeout=SECONDS
                    )
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            # The command and the address may be secret, so neither is printed.
            reason = getattr(error, "returncode", None) or getattr(error, "reason", None) or type(error).__name__
            self.console.print(f"warning: --notify failed ({reason}); it should have said: {line}", markup=False)
