"""Sweeps on the test cluster: submit, observe, disturb, and compare with an undisturbed run."""

import contextlib
import json
import os
import pwd
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sweeper.cli.commands import SweepCommands
from sweeper.execution.slurm.status import sweep_status
from sweeper.records.lock import is_alive, read_owner
from sweeper.records.run_dir import RunDir
from sweeper.records.status import RunStatus, State, run_status
from sweeper.records.sweep_manifest import Sweep

from .cluster import Cluster

CHECKOUT = Path(__file__).parents[2]
TIMEOUT = 180.0  # seconds; much more than any condition needs on two busy cores
GRID = ("+sweep=lr_transfer", "preset=smoke", "data.val_fraction=0.1")
# One run of a few seconds: long enough to be interrupted in the middle, with checkpoints to resume from.
ONE_RUN = (
    *GRID,
    "panel=b",
    "model.n_loops=1",
    "optimizer.base_lr=8e-3",
    "schedule.steps=300",
    "validation.every=100",
    "execution.checkpoint_every=25",
)
MIDWAY = 60  # steps
# Ranks sum gradients in another order than one process. Over these steps the difference stays below this.
SAME_LOSS = 1e-6
WORDS = (
    "the looped model reads a small text and learns which word follows which other one while its stream stays bounded"
)


@dataclass(frozen=True)
class Lab:
    """A sweep's directories, on a cluster."""

    cluster: Cluster
    root: Path
    texts: Path
    data: Path
    checkout: Path = CHECKOUT
    variables: tuple[tuple[str, str], ...] = ()  # of the environment of commands
    user: str | None = None  # who types the commands; None for this process's user
    python: str = sys.executable

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def sweeps(self) -> Path:
        return self.root / "sweeps"

    @property
    def places(self) -> tuple[str, ...]:
        """Options of commands."""
        return f"--runs={self.runs}", f"--sweeps={self.sweeps}"

    @property
    def sweep(self) -> Sweep:
        [manifest] = self.sweeps.glob("*.json")
        return Sweep.load(manifest)

    @property
    def commands(self) -> SweepCommands:
        return SweepCommands(self.sweeps, self.runs, None)

    def start(self, *overrides: str, launcher: str = "slurm") -> "subprocess.Popen[str]":
        """Start a submission, without waiting for it."""
        resources = ("hydra.launcher.cpus_per_gpu=1",) if launcher == "slurm" else ()
        paths = [f"paths.{name}={getattr(self, name)}" for name in ("runs", "sweeps", "data")]
        return self.start_command(
            "submit", *overrides, f"hydra/launcher={launcher}", *resources, f"data.path={self.texts}", *paths
        )

    def type(self, command: str, *words: str) -> str:
        """Run a command on the newest sweep. Returns its output."""
        return finished(self.start_command(command, *words, *self.places))

    def start_command(self, *words: str) -> "subprocess.Popen[str]":
        """Start a command of loopsweep, without waiting for it."""
        return subprocess.Popen(
            [self.python, "-m", "sweeper", *words],
            cwd=self.checkout,
            env={**self.cluster.environment, "PYTHONPATH": str(self.checkout), **dict(self.variables), **self._home()},
            user=self.user,
            group=pwd.getpwnam(self.user).pw_gid if self.user else None,
            extra_groups=[] if self.user else None,
            umask=0o002 if self.user else -1,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
        )

    def _home(self) -> dict[str, str]:
        if self.user is None:
            return {}
        return {"USER": self.user, "LOGNAME": self.user, "HOME": str(self.root)}

    def submit(self, *overrides: str, launcher: str = "slurm") -> str:
        """Submit a sweep. Returns the output."""
        return finished(self.start(*overrides, launcher=launcher))

    def job(self) -> str:
        """Id of the sweep's newest job."""
        record = max(self.sweeps.glob("*/slurm/*/submission.json"), key=lambda path: path.stat().st_mtime)
        return str(json.loads(record.read_text())["arrays"][-1]["job_id"])

    def node(self) -> str:
        """The node of the newest job."""
        [node] = self.cluster.squeue("%N", "-t", "all", "-j", self.job())
        return node

    def run(self) -> RunDir:
        """The sweep's only run."""
        [run_id] = self.sweep.run_ids
        return RunDir(self.runs / run_id)

    def statuses(self) -> list[RunStatus]:
        return list(sweep_status(self.sweep, self.runs, self.sweeps).values())

    def until_midway(self, step: int = MIDWAY) -> None:
        """Wait until the only run has finished `step` steps, a small part of them."""
        self.until(lambda: self.run().last_metrics().get("step", 0) >= step, f"step {step}")
        assert self.run().result() is None, "the run was over before it could be disturbed; give it more steps"

    def until_finished(self) -> None:
        """Wait until every run of the sweep has a result."""
        self.until(
            lambda: all(run_status(self.runs / i).state in (State.DONE, State.DIVERGED) for i in self.sweep.run_ids),
            "all results",
        )

    def until(self, ready: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + TIMEOUT
        while not ready():
            assert time.monotonic() < end, f"no {what} after {TIMEOUT:g} s\n{self.diagnosis()}"
            time.sleep(0.2)

    def until_job(self, *states: str) -> None:
        """Wait until the newest job is in one of `states`."""
        self.until(lambda: self.job_state() in states, " or ".join(states))

    def job_state(self) -> str:
        lines = self.cluster.squeue("%T", "-t", "all", "-j", self.job())
        return lines[0] if lines else "GONE"

    def slurm(self, *command: str) -> None:
        self.cluster.query(*command)

    def trainer(self, run: RunDir | None = None) -> int:
        """Process id of the training process of a run; by default of the only run."""
        owner = read_owner((run or self.run()).lock)
        assert owner is not None
        return int(owner["pid"])

    @contextlib.contextmanager
    def held(self, run: RunDir | None = None) -> Iterator[int]:
        """Pause the training process, so that the run does not end before the cluster acts."""
        trainer = self.trainer(run)
        os.kill(trainer, signal.SIGSTOP)
        try:
            yield trainer
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(trainer, signal.SIGCONT)

    def restarts(self, job: str | None = None) -> int:
        """How often SLURM restarted a job; by default the newest."""
        shown = self.cluster.query("scontrol", "show", "job", job or self.job())
        return int(shown.split("Restarts=")[1].split()[0])

    def job_log(self) -> str:
        """What the sweep's only job printed."""
        return "".join(path.read_text() for path in self.sweeps.glob("*/slurm/*/jobs/*_log.out"))

    def curves(self) -> dict[str, list[dict[str, Any]]]:
        """All logged numbers of every run."""
        return {run_id: RunDir(self.runs / run_id).read_metrics() for run_id in self.sweep.run_ids}

    def diagnosis(self) -> str:
        """Queue, nodes, states and logs, for a test that fails."""
        parts = [self.cluster.query("squeue", "-t", "all"), self.cluster.query("sinfo", "-N", "-l")]
        with contextlib.suppress(Exception):
            parts += [str(status) for status in self.statuses()]
        for path in [*self.sweeps.glob("*/slurm/*/jobs/*.out"), *self.runs.glob("*/log.txt")]:
            parts += [f"==> {path}", *path.read_text(errors="replace").splitlines()[-30:]]
        return "\n".join(parts)


def write_corpus(folder: Path) -> Path:
    """A corpus of small documents, in a new folder."""
    generator = random.Random(0)
    folder.mkdir()
    for number in range(200):
        (folder / f"{number}.txt").write_text(" ".join(generator.choices(WORDS.split(), k=180)))
    return folder


def kill_a_claiming_job(lab: Lab) -> str:
    """`kill -9` of a job's supervisor and of its training process, in the middle of a run. Returns the run."""
    caught: list[tuple[str, dict[str, Any]]] = []

    def is_caught() -> bool:
        for run_id in lab.sweep.run_ids:
            rundir = RunDir(lab.runs / run_id)
            owner = read_owner(rundir.lock)
            if owner is None or not is_alive(rundir.lock) or rundir.last_metrics().get("step", 0) < 10:
                continue
            os.kill(owner["pid"], signal.SIGSTOP)
            if read_owner(rundir.lock) == owner and rundir.result() is None:
                caught.append((run_id, owner))
                return True
            os.kill(owner["pid"], signal.SIGCONT)
        return False

    lab.until(is_caught, "a run's middle")
    [(run_id, owner)] = caught
    status = Path(f"/proc/{owner['pid']}/status").read_text()
    supervisor = next(line.split()[1] for line in status.splitlines() if line.startswith("PPid:"))
    for pid in (int(supervisor), int(owner["pid"])):
        os.kill(pid, signal.SIGKILL)
    return run_id


def finished(process: "subprocess.Popen[str]", statuses: Sequence[int] = (0,)) -> str:
    """Output of a command. Its exit status must be one of `statuses`."""
    output, _ = process.communicate(timeout=TIMEOUT)
    assert process.returncode in statuses, output
    return output


def assert_same_losses(curves: Any, expected: Any) -> None:
    """The losses of all runs, up to the order of sums."""
    assert curves.keys() == expected.keys()
    for run_id, rows in curves.items():
        for key in ("loss", "val_loss"):
            found, reference = ([row[key] for row in lines if key in row] for lines in (rows, expected[run_id]))
            assert found == pytest.approx(reference, abs=SAME_LOSS, rel=0)
