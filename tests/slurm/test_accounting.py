"""A cluster with accounting: ended jobs are known, limits and workload keys are enforced."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .cluster import FIRST_PORT, Cluster
from .conftest import require, started
from .lab import GRID, ONE_RUN, Lab, finished, kill_a_claiming_job

pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("interrupted")]
MAX_SUBMIT = 4
SIX_RUNS = (*GRID, "panel=a,b", "optimizer.base_lr=4e-3,8e-3")
SIXTEEN_RUNS = (*GRID, "panel=b,c", "optimizer.base_lr=3e-3,4e-3,6e-3,8e-3", "schedule.steps=100")


@pytest.fixture(scope="module")
def accounting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A second cluster, with a database, enforced limits, and a controller of short memory."""
    require("slurmctld", "")
    require("slurmdbd", " --accounting")
    require("mariadbd", " --accounting")
    root = tmp_path_factory.mktemp("accounts")  # a short name: its sockets' paths may have some 100 characters
    port = FIRST_PORT + 100
    yield from started(Cluster(root, accounting=True, max_submit=MAX_SUBMIT, min_job_age=2, first_port=port))


def test_the_end_of_a_forgotten_job_is_known_and_its_run_is_retried(
    accounting: Cluster, texts: Path, data: Path, tmp_path: Path, undisturbed: Callable[..., Any]
) -> None:
    lab = Lab(accounting, tmp_path, texts, data)
    lab.submit(*ONE_RUN)
    lab.until_midway()
    lab.slurm("scancel", lab.job())
    lab.until(lambda: not accounting.squeue("%i", "-t", "all"), "forgetting")
    lab.until(lambda: "CANCELLED" in lab.type("status"), "account of the job")
    assert "1 lost" in lab.type("status")
    lab.type("retry", f"--data={data}")
    lab.until_finished()
    assert lab.curves() == undisturbed()


def test_a_sweep_above_the_limit_of_jobs_is_refused_whole_and_fits_if_packed(
    accounting: Cluster, texts: Path, data: Path, tmp_path: Path, undisturbed: Callable[..., Any]
) -> None:
    """The site refuses any workload key but the user's own, so none may be given."""
    lab = Lab(accounting, tmp_path, texts, data)
    lab.until(lambda: not accounting.squeue("%i"), "an empty queue")
    printed = finished(lab.start(*SIX_RUNS), statuses=(2,))
    assert "error: sbatch refused: AssocMaxSubmitJobLimit; " in printed
    assert "this site allows fewer jobs at once" in printed
    assert lab.type("status").splitlines()[-1] == "8 pending"  # cells; two of them share a run with others
    assert "submitted 6 runs" in lab.submit(*SIX_RUNS, "hydra.launcher.pack=2")
    lab.until_finished()
    assert lab.curves() == undisturbed(*SIX_RUNS)


def test_the_doctor_names_the_limit_and_the_workload_key(
    accounting: Cluster, texts: Path, data: Path, tmp_path: Path
) -> None:
    lab = Lab(accounting, tmp_path, texts, data)
    words = ("doctor", "--no-job", "preset=smoke", "tracking=off", f"paths.runs={lab.runs}")
    rows = [" ".join(line.split()) for line in finished(lab.start_command(*words), statuses=(1,)).splitlines()]
    assert f"problem limits of jobs submitted: {MAX_SUBMIT}, running: unlimited" in rows
    assert "ok workload key demanded; your default is mine" in rows


def test_jobs_that_claim_runs_train_a_sweep_above_the_limit_although_two_of_them_are_killed(
    accounting: Cluster, texts: Path, data: Path, tmp_path: Path, undisturbed: Callable[..., Any]
) -> None:
    lab = Lab(accounting, tmp_path, texts, data)
    lab.until(lambda: not accounting.squeue("%i"), "an empty queue")
    assert "submitted 16 runs" in lab.submit(*SIXTEEN_RUNS, f"hydra.launcher.jobs={MAX_SUBMIT}")
    killed = [kill_a_claiming_job(lab) for _ in range(2)]
    lab.until_finished()
    assert lab.curves() == undisturbed(*SIXTEEN_RUNS)
    log = lab.job_log()
    assert {run_id: log.count(f"{run_id}: done") for run_id in lab.sweep.run_ids} == dict.fromkeys(lab.sweep.run_ids, 1)
    assert all(log.count(f"{run_id}: started") > 1 for run_id in killed), "nothing was interrupted"
