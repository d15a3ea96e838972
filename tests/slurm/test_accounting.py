"""On a cluster with accounting, the end of jobs that squeue no longer lists is known."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .cluster import FIRST_PORT, Cluster
from .conftest import require, started
from .lab import ONE_RUN, Lab

pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("interrupted")]


@pytest.fixture
def accounting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A second cluster, with a database, and a controller of short memory."""
    require("slurmctld", "")
    require("slurmdbd", " --accounting")
    require("mariadbd", " --accounting")
    root = tmp_path_factory.mktemp("accounts")  # a short name: its sockets' paths may have some 100 characters
    yield from started(Cluster(root, accounting=True, min_job_age=2, first_port=FIRST_PORT + 100))


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
