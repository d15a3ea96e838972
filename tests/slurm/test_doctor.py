"""`loopsweep doctor` on the test cluster: a healthy visit, and one with faults that only a node shows."""

from pathlib import Path

import pytest

from .lab import Lab, finished

pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("interrupted")]


def doctor(lab: Lab, *overrides: str, status: int) -> dict[str, str]:
    """Verdict and what was seen, by check."""
    paths = [f"paths.{name}={getattr(lab, name)}" for name in ("runs", "sweeps", "data")]
    words = ("doctor", "preset=smoke", "tracking=off", "hydra.launcher.cpus_per_gpu=1", *paths, *overrides)
    lines = finished(lab.start_command(*words), statuses=(status,)).splitlines()
    rows = [line for line in lines if line.startswith(("ok ", "note ", "problem ", "skipped "))]
    return {" ".join(row[9:].partition("  ")[0].split()): f"{row.split()[0]} {row}" for row in rows}


def test_a_healthy_cluster_has_no_problem_and_its_job_resumes(lab: Lab) -> None:
    """Two ranks without GPUs, as torch cannot use the cluster's false ones."""
    found = doctor(lab, "hydra.launcher.nodes=2", "hydra.launcher.gpus_per_node=0", status=0)
    assert "gloo over 2 ranks" in found["all-reduce"]
    assert found["requeue"].startswith("ok")
    assert not [*(lab.sweeps / ".doctor").glob("*/jobs")], "the visit leaves its files"


def test_an_old_env_and_a_missing_scontrol_are_named(lab: Lab) -> None:
    programs = lab.root / "bin"
    programs.mkdir()
    for program in Path("/usr/bin").iterdir():
        if program.name not in ("env", "scontrol"):
            (programs / program.name).symlink_to(program)
    (programs / "env").write_text("#!/bin/sh\nexit 125\n")
    (programs / "env").chmod(0o755)
    setup = f"hydra.launcher.setup=['export PATH={programs}']"
    found = doctor(lab, setup, "hydra.launcher.gpus_per_node=0", status=1)
    assert "has no --block-signal" in found["env"]
    assert "no scontrol on" in found["requeue"]
