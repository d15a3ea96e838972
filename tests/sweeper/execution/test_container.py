"""The command lines of containers, and a job in one that asks its batch script to requeue it."""

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sweeper.errors import UserError
from sweeper.execution.slurm.container import REQUEUE_FILE
from sweeper.execution.slurm.job import Task, requeue
from sweeper.execution.slurm.options import SlurmOptions
from sweeper.execution.slurm.submission import python_command

from .test_slurm_parts import LEAST

FOLDERS = [Path("/work/runs"), Path("/tmp/data"), Path("/work/runs")]
CODE = Path("/work/sweeps/s/code/1")
START = f"python3.11 -IS {CODE}/sweeper/execution/slurm/start.py python3.11"
SHELL = "sh -c 'trap '\"'\"''\"'\"' USR2; exec \"$@\"' sh"


def options(kind: str, **values: Any) -> SlurmOptions:
    container = {"kind": kind, "image": "torch.sif", "mounts": ["/env", "/a:/b"], "python": "python3.11"}
    return SlurmOptions.from_dict({**LEAST, "container": container, **values})


@pytest.mark.parametrize(
    ("kind", "gpus", "words"),
    [
        (
            "apptainer",
            1,
            f"apptainer exec --nv --pwd {CODE} "
            "--bind /work/runs:/work/runs,/tmp/data:/tmp/data,/env:/env,/a:/b torch.sif ",
        ),
        (
            "apptainer",
            0,
            f"apptainer exec --pwd {CODE} --bind /work/runs:/work/runs,/tmp/data:/tmp/data,/env:/env,/a:/b torch.sif ",
        ),
        (
            "charliecloud",
            1,
            f"ch-run --cd={CODE} --bind=/work/runs:/work/runs --bind=/env:/env --bind=/a:/b torch.sif -- ",
        ),
        ("pyxis", 1, ""),
    ],
)
def test_the_tasks_start_inside(kind: str, gpus: int, words: str) -> None:
    assert python_command(CODE, options(kind, gpus_per_node=gpus), FOLDERS) == f"{SHELL} {words}{START}"


def test_pyxis_is_asked_by_options_of_srun() -> None:
    mounts = "/work/runs:/work/runs,/tmp/data:/tmp/data,/env:/env,/a:/b"
    wanted = ["--container-image=torch.sif", f"--container-mounts={mounts}", f"--container-workdir={CODE}"]
    assert options("pyxis").sbatch_parameters("name", CODE, FOLDERS)["srun_args"] == wanted
    assert options("apptainer").sbatch_parameters("name", CODE, FOLDERS)["srun_args"] == []


def test_without_a_container_the_batch_script_does_nothing_after_the_tasks() -> None:
    parameters = SlurmOptions.from_dict(LEAST).sbatch_parameters("name", CODE, FOLDERS)
    assert parameters["teardown"] == []
    assert REQUEUE_FILE not in "".join(parameters["setup"])


def test_options_with_a_container_are_read_back() -> None:
    found = options("pyxis")
    assert SlurmOptions.from_dict(found.to_dict()) == found


@pytest.mark.parametrize(
    ("container", "message"),
    [
        (
            {"kind": "docker", "image": "x"},
            "container.kind=docker is unknown; allowed: apptainer, pyxis",
        ),
        ({"kind": "pyxis"}, "hydra.launcher.container.kind=pyxis needs hydra.launcher.container.image"),
        ({"kind": "pyxis", "image": "x", "mounts": "/a"}, "hydra.launcher.container.mounts"),
    ],
)
def test_a_wrong_container_is_named(container: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        SlurmOptions.from_dict({**LEAST, "container": container})


@pytest.mark.parametrize(
    ("variables", "job"),
    [
        ({"SLURM_JOB_ID": "12"}, "12"),
        ({"SLURM_JOB_ID": "12", "SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "1"}, "12_1"),
    ],
    ids=["no array", "last element"],
)
def test_the_batch_script_requeues_a_job_that_asked_for_it_and_no_other(
    variables: dict[str, str], job: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first start of the job asks for it, the others do not. The job ends as its tasks did."""
    (tmp_path / "scontrol").write_text('#!/bin/sh\necho "$@" >> called\n')
    (tmp_path / "scontrol").chmod(0o755)
    parameters = options("apptainer").sbatch_parameters("name", tmp_path / "code", [])
    before = parameters["setup"][:2]  # what follows changes the directory
    ask = f'{shlex.quote(sys.executable)} -c \'open(__import__("os").environ["{REQUEUE_FILE}"], "x"); exit(75)\''
    for restarts, tasks, status in (("0", ask, 75), ("1", "(exit 3)", 3), ("2", "true", 0)):
        script = "\n".join([*before, tasks, *parameters["teardown"]])
        environment = {**variables, "PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_RESTART_COUNT": restarts}
        done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=environment)
        assert done.returncode == status
        assert (tmp_path / "called").read_text() == f"requeue {job}\n"
    monkeypatch.setenv(REQUEUE_FILE, str(tmp_path / "asked"))
    with pytest.raises(SystemExit, match="75"):
        requeue(Task(job, "0", 0, 0, 1, "127.0.0.1"))
    assert (tmp_path / "asked").exists()
