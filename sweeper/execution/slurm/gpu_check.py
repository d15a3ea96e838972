"""The first job of a sweep with `hydra.launcher.check_gpu=true`: the others start only if it ends well."""

import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sweeper.execution.slurm.options import SlurmOptions
from sweeper.files import write_json
from sweeper.records.run_dir import RunDir
from sweeper.run.spec import RunConfig

MINUTES, WARNING_SECONDS = 30, 60
NEVER = "DependencyNeverSatisfied"  # SLURM's reason for a job whose check has failed
HELD_BY_CHECK = "the check of the GPU failed"


@dataclass(frozen=True)
class GpuCheck:
    """The job's work. submitit calls `run`.

    Attributes:
        runs: directory of run directories, absolute.
        run_ids: the costliest and the cheapest run of the sweep, whose steps are timed.
        file: for what was found, see `sweeper.training.gpu_check`.
    """

    runs: str
    run_ids: tuple[str, ...]
    file: str

    def run(self) -> None:
        """Check parity, and on a GPU the time of steps against the plan's.

        Raises:
            SystemExit: if one of them fails. SLURM then shows the job as FAILED, and starts no job that depends on it.
        """
        from sweeper.training.gpu_check import SLOWEST, environment, parity, timed

        found: dict[str, Any] = {"environment": environment(), "parity": {}, "steps": {}}
        problems = []
        for run_id in self.run_ids:
            config, execution = RunDir(Path(self.runs) / run_id).load()
            if not found["parity"]:
                found["parity"] = parity(execution, "bf16" if config.uses_bf16 else "fp32")
                if not found["parity"]["passed"]:
                    problems.append("losses or gradients are not those of a CPU")
            if execution.device == "cuda" and isinstance(config, RunConfig):
                found["steps"][run_id] = step = timed(config, execution)
                if not step.get("fast_enough", True):
                    share = step["of_modelled_speed"]
                    problems.append(f"{run_id} has {share:.2f} of the plan's speed, less than {SLOWEST}")
            write_json(Path(self.file), found)
        print(f"found: {found}", flush=True)
        if problems:
            sys.exit(f"error: {'; '.join(problems)}; see {self.file}")


def options_of_check(options: SlurmOptions) -> SlurmOptions:
    """One GPU for a short time, of whatever jobs of the sweep have."""
    time = min(options.minutes, MINUTES)
    gpus, seconds = min(1, options.gpus_per_node), min(WARNING_SECONDS, options.warning_seconds)
    return replace(options, nodes=1, gpus_per_node=gpus, pack=1, time=time, warning_seconds=seconds, panels={})


def start_anyway(jobs: list[str]) -> str:
    """Take the dependency on a failed check off jobs. Returns what SLURM said against it; empty if nothing."""
    said = []
    for job in jobs:
        command = ["scontrol", "update", f"JobId={job}", "Dependency="]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            said.append(" ".join(done.stderr.split()))
    return "; ".join(said)
