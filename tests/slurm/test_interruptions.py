"""Whatever a cluster does to a job, its run ends with the loss curve it has when nothing happens.

The disturbances run side by side on the cluster's two nodes, because they mostly wait; each test asks for one of them.
"""

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sweeper.records import State

from .cluster import Cluster
from .lab import ONE_RUN, Lab

pytestmark = pytest.mark.slurm
NODE1, NODE2 = (f"+hydra.launcher.extra={{nodelist: {node}}}" for node in ("node1", "node2"))
TWO_GPUS, TWO_NODES = "hydra.launcher.gpus_per_node=2", "hydra.launcher.nodes=2"
ONE_MINUTE = ("hydra.launcher.time=1", "hydra.launcher.warning_seconds=40")
URGENT = ("sbatch", "--partition=urgent", "--nodes=1", "--nodelist=node1", "--exclusive", "--output=/dev/null")
# Ranks add up gradients in another order than one process does; over these steps AdamW makes no more of it.
SAME_LOSS = 1e-6


def usr2(lab: Lab) -> None:
    lab.slurm("scancel", "--signal=USR2", lab.job())
    lab.until_job("PENDING")
    [status] = lab.statuses()
    assert status.state is State.PREEMPTED
    assert not lab.run().lock.exists(), "the run was not stopped in good order"


def requeue(lab: Lab) -> None:
    lab.slurm("scontrol", "requeue", lab.job())


def kill_training_process(lab: Lab) -> None:
    os.kill(lab.trainer(), signal.SIGKILL)


def kill_second_rank(lab: Lab) -> None:
    os.kill(_second_rank(lab), signal.SIGKILL)


def preempt(lab: Lab) -> None:
    with lab.held():
        lab.slurm(*URGENT, "--wrap=true")
        lab.until(lambda: lab.restarts() == 1, "preemption")


def kill_slurmd(lab: Lab) -> None:
    """The node is cut off; its training process lives, and SLURM starts the job elsewhere all the same."""
    with lab.held() as trainer:
        lab.cluster.kill_slurmd("node1")
        _replace_node1(lab)
        lab.until_job("RUNNING")
        lab.until(lambda: "started" in lab.job_log().rpartition("Loading pickle")[2], "second attempt")
        assert lab.trainer() == trainer, "the run was taken from an owner that lives"
    lab.until_finished()
    _mend_node1(lab)


def kill_node(lab: Lab) -> None:
    """Power failure: nobody says a word, and no process is left."""
    lab.cluster.kill_node("node1")
    _replace_node1(lab)
    lab.until_finished()
    _mend_node1(lab)


def cancel_and_retry(lab: Lab) -> None:
    lab.commands.cancel()
    lab.until_job("CANCELLED")
    [status] = lab.statuses()
    assert (status.state, "CANCELLED" in status.reason, status.step > 0) == (State.LOST, True, True)
    lab.commands.retry(lab.data, ["gpus_per_node=1"])


def wait_for_the_limit(lab: Lab) -> None:
    with lab.held():
        lab.until(lambda: "stopping" in lab.job_log(), "warning of the limit")


@dataclass(frozen=True)
class Case:
    """A disturbance, the job it befalls, and how often SLURM starts that job again."""

    disturb: Callable[[Lab], None]
    overrides: tuple[str, ...]
    restarts: int = 1
    ranks: int = 1
    takes_node1: bool = False


CASES = {
    "time limit shorter than the run": Case(wait_for_the_limit, (NODE2, *ONE_MINUTE)),
    "kill -9 of a node": Case(kill_node, (NODE1,), takes_node1=True),
    "kill -9 of slurmd": Case(kill_slurmd, (NODE1,), takes_node1=True),
    "preemption without warning": Case(preempt, (NODE1,), takes_node1=True),
    "preemption with grace": Case(preempt, (NODE1, "hydra.launcher.partition=graceful"), takes_node1=True),
    "USR2": Case(usr2, (NODE2,)),
    "scontrol requeue": Case(requeue, (NODE2,)),
    "kill -9 of the training process": Case(kill_training_process, (NODE2,), restarts=0),
    "cancel and retry": Case(cancel_and_retry, (NODE2,), restarts=0),
    "USR2 to two ranks": Case(usr2, (NODE2, TWO_GPUS), ranks=2),
    "kill -9 of the second rank": Case(kill_second_rank, (NODE2, TWO_GPUS), ranks=2),
    "from two ranks to one": Case(cancel_and_retry, (NODE2, TWO_GPUS), restarts=0, ranks=2),
    "USR2 to two nodes": Case(usr2, (TWO_NODES,), ranks=2, takes_node1=True),
}


@pytest.fixture(scope="module")
def labs(
    cluster: Cluster, texts: Path, data: Path, tmp_path_factory: pytest.TempPathFactory, undisturbed: Callable[..., Any]
) -> Iterator[dict[str, "Future[Lab]"]]:
    """The lab of every case, once its run has ended."""
    undisturbed()  # prepares the data, before a minute begins to run

    def carry_out(case: Case) -> Lab:
        lab = Lab(cluster, tmp_path_factory.mktemp("case"), texts, data)
        lab.submit(*ONE_RUN, *case.overrides)
        lab.until_midway()
        case.disturb(lab)
        lab.until_finished()
        return lab

    with ThreadPoolExecutor(1) as one_by_one, ThreadPoolExecutor(2) as side_by_side:
        yield {
            name: (one_by_one if case.takes_node1 else side_by_side).submit(carry_out, case)
            for name, case in CASES.items()
        }


@pytest.mark.parametrize("name", CASES)
def test_disturbed_run_ends_with_the_undisturbed_curve(
    name: str, labs: dict[str, "Future[Lab]"], undisturbed: Callable[..., Any]
) -> None:
    lab, case = labs[name].result(), CASES[name]
    assert lab.restarts() == case.restarts
    if case.ranks == 1:
        assert lab.curves() == undisturbed()
    else:
        _assert_same_losses(lab.curves(), undisturbed())


def _replace_node1(lab: Lab) -> None:
    lab.until(lambda: lab.cluster.node_state("node1").startswith("DOWN"), "dead node")
    lab.slurm("scontrol", "update", f"JobId={lab.job()}", "ReqNodeList=node2")


def _mend_node1(lab: Lab) -> None:
    lab.cluster.start_node("node1")
    lab.until(lambda: lab.cluster.node_state("node1").startswith(("IDLE", "MIXED")), "node back")


def _second_rank(lab: Lab) -> int:
    """Process id of the training process that is not rank 0."""
    listed = subprocess.run(["pgrep", "-f", "sweeper.worker"], capture_output=True, text=True, check=True).stdout
    for pid in map(int, listed.split()):
        with contextlib.suppress(OSError):
            variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            if b"SLURM_PROCID=1" in variables and f"SLURM_JOB_ID={lab.job()}".encode() in variables:
                return pid
    raise AssertionError("no second rank")


def _assert_same_losses(curves: Any, expected: Any) -> None:
    assert curves.keys() == expected.keys()
    for run_id, rows in curves.items():
        for key in ("loss", "val_loss"):
            ours, theirs = ([row[key] for row in some if key in row] for some in (rows, expected[run_id]))
            assert ours == pytest.approx(theirs, abs=SAME_LOSS, rel=0)
