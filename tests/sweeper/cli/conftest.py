"""A sweep of four runs in different states, `loopsweep` typed on it, and a SLURM that is four shell scripts."""

import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from sweeper.__main__ import main
from sweeper.execution.slurm.options import SlurmOptions
from sweeper.execution.slurm.submission import Submission, new_submission
from sweeper.records.run_dir import RunDir
from sweeper.records.sweep_manifest import Sweep
from sweeper.run.execution import Execution
from sweeper.run.spec import RunConfig

RESULT = {"state": "done", "val_loss": 3.25, "step": 12, "reason": "", "seconds": {"step": 1.5}}


@dataclass(frozen=True)
class CommandResult:
    """Exit status, standard output and standard error of a command."""

    status: int
    out: str
    err: str


@dataclass
class TypedSweep:
    """A sweep's directories, and `loopsweep` typed on them in this process."""

    root: Path
    configs: list[RunConfig]
    execution: Execution
    capture: pytest.CaptureFixture[str]

    @property
    def rundirs(self) -> list[RunDir]:
        return [RunDir(self.root / "runs" / config.run_id) for config in self.configs]

    def write(self, name: str = "mine") -> None:
        """Write the configurations and the manifest of a sweep that has not started."""
        cells: list[dict[str, Any]] = []
        for config, rundir in zip(self.configs, self.rundirs, strict=True):
            rundir.write_config(config, self.execution, {})
            axes = {"panel": "b", "rule": "linear", "n_layers": 1, "depth_multiplier": 1.0, "n_loops": 2}
            cells.append({**axes, "base_lr": 8e-3, "seed": config.seed, "run_id": config.run_id, "steps": 12})
        Sweep(name, "lr_transfer", "smoke", tuple(cells)).save(self.root / "sweeps")

    def type(self, command: str, *words: str) -> CommandResult:
        """`loopsweep COMMAND mine WORDS…`."""
        places = [f"--{name}={self.root / name}" for name in ("runs", "sweeps")]
        self.capture.readouterr()
        status = 0
        try:
            main([command, "mine", *words, *places])
        except SystemExit as end:
            status = int(end.code or 0)
        return CommandResult(status, *self.capture.readouterr())


@pytest.fixture
def sweep(tmp_path: Path, run_config: RunConfig, execution: Execution, capfd: pytest.CaptureFixture[str]) -> TypedSweep:
    """Four runs that have not started."""
    sweep = TypedSweep(tmp_path, [replace(run_config, seed=seed) for seed in range(4)], execution, capfd)
    sweep.write()
    return sweep


@dataclass
class FakeSlurm:
    """Shell scripts in place of SLURM's commands. They print what a test sets, and record their calls."""

    bin: Path
    sweeps: Path

    def answer(self, command: str, text: str = "", status: int = 0) -> None:
        """What `command` prints from now on: to standard output, or to standard error if it fails."""
        script = self.bin / command
        note = f'echo "{command} $*" >> {shlex.quote(str(self.bin / "calls"))}'
        answer = f"printf '%s\\n' {shlex.quote(text)}" if text else ":"
        script.write_text(f"#!/bin/sh\n{note}\n{answer}{' >&2' * bool(status)}\nexit {status}\n")
        script.chmod(0o755)

    def calls(self, command: str) -> list[list[str]]:
        """Arguments of every call of `command`."""
        lines = (self.bin / "calls").read_text().splitlines() if (self.bin / "calls").exists() else []
        return [words for name, *words in map(str.split, lines) if name == command]

    def queue(self, submission: Submission, *states: str) -> None:
        """squeue lists the elements of the submission's only array in these states."""
        [array] = submission.arrays
        jobs = [f"{array.job_id}_{index}|{array.name}|{state}|None" for index, state in enumerate(states)]
        self.answer("squeue", "\n".join([*jobs, "99|of-somebody-else|RUNNING|None"]))

    def options(self, **options: Any) -> SlurmOptions:
        """The least that a job needs, and `options`."""
        least = {"time": 60, "nodes": 1, "gpus_per_node": 0, "cpus_per_gpu": 1, "pack": 1, "array_parallelism": 4}
        least |= {"max_gpu_hours": 1, "yes": True, "warning_seconds": 60, "attempts": 3}
        return SlurmOptions.from_dict(least | options)

    def submit(self, sweep: TypedSweep, **options: Any) -> Submission:
        """A submission of all runs of the sweep as job 12, in one array."""
        run_ids = [config.run_id for config in sweep.configs]
        submission = new_submission(self.sweeps, "mine", run_ids, self.options(**options), 100)
        [array] = submission.arrays
        submission = replace(submission, arrays=(replace(array, job_id="12"),))
        submission.save()
        (submission.path / "jobs").mkdir()
        return submission


@pytest.fixture
def slurm(tmp_path: Path, sweep: TypedSweep, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    """A cluster without accounting whose queue is empty."""
    folder = tmp_path / "bin"
    folder.mkdir()
    fake = FakeSlurm(folder, tmp_path / "sweeps")
    for command, text in {
        "squeue": "",
        "scancel": "",
        "srun": "",
        "sbatch": "Submitted batch job 13",
        "scontrol": "MaxArraySize            = 1001",
    }.items():
        fake.answer(command, text)
    monkeypatch.setenv("PATH", str(folder))  # and nothing of a SLURM that may be installed here
    return fake
