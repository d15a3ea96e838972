"""Where the cluster keeps accounts, they tell what squeue has forgotten."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sweeper.records import State

from .cluster import Cluster
from .conftest import require, started
from .lab import ONE_RUN, Lab

pytestmark = pytest.mark.slurm


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """With a database, and a controller of short memory."""
    require("slurmctld", "")
    require("slurmdbd", " --accounting")
    require("mariadbd", " --accounting")
    yield from started(tmp_path_factory.mktemp("accounting"), accounting=True, min_job_age=2)


def test_fate_of_a_forgotten_job_is_known_and_its_run_retried(lab: Lab, undisturbed: Callable[..., Any]) -> None:
    lab.submit(*ONE_RUN)
    lab.until_midway()
    lab.slurm("scancel", lab.job())
    lab.until(lambda: not lab.cluster.squeue("%i", "-t", "all"), "forgetting")
    lab.until(lambda: "CANCELLED" in lab.statuses()[0].reason, "account of the job")
    assert lab.statuses()[0].state is State.LOST
    lab.commands.retry(lab.data, [])
    lab.until_finished()
    assert lab.curves() == undisturbed()
