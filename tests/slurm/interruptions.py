"""Interruptions of jobs by a cluster, each with the run that it interrupts."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sweeper.execution.slurm.submission import submissions
from sweeper.records.status import State

from .lab import ONE_RUN, Lab

# A node for one job, so that a failure of the node affects no other job.
OWN_NODE = "+hydra.launcher.extra={exclusive: true}"
TWO_GPUS, TWO_NODES = "hydra.launcher.gpus_per_node=2", "hydra.launcher.nodes=2"
WITHOUT_SCONTROL = "hydra.launcher.setup=['D=$(mktemp -d)', 'ln -s /usr/bin/* $D', 'rm $D/scontrol', 'export PATH=$D']"
ONE_MINUTE = ("hydra.launcher.time=1", "hydra.launcher.warning_seconds=25")


def usr2(lab: Lab) -> None:
    lab.slurm("scancel", "--signal=USR2", lab.job())
    lab.until_job("PENDING")
    [status] = lab.statuses()
    assert status.state is State.PREEMPTED
    assert not lab.run().lock.exists(), "the run was not stopped cleanly"


def requeue(lab: Lab) -> None:
    lab.slurm("scontrol", "requeue", lab.job())


def kill_training_process(lab: Lab) -> None:
    os.kill(lab.trainer(), signal.SIGKILL)


def kill_second_rank(lab: Lab) -> None:
    os.kill(_second_rank(lab), signal.SIGKILL)


def preempt(lab: Lab) -> None:
    urgent = ("sbatch", "--partition=urgent", f"--nodelist={lab.node()}", "--exclusive", "--output=/dev/null")
    with lab.held():
        lab.slurm(*urgent, "--wrap=true")
        lab.until(lambda: lab.restarts() == 1, "preemption")


def kill_slurmd(lab: Lab) -> None:
    """The node is partitioned: its training process is alive, but SLURM restarts the job on another node."""
    node = lab.node()
    with lab.held() as trainer:
        lab.cluster.kill_slurmd(node)
        lab.until(lambda: lab.job_log().count(": started") == 2, "second attempt")
        assert lab.node() != node
        assert lab.trainer() == trainer, "the run was taken from a live owner"
    lab.until_finished()
    lab.cluster.start_node(node)


def kill_node(lab: Lab) -> None:
    """Power failure: no process is left, and nothing is reported."""
    node = lab.node()
    lab.cluster.kill_node(node)
    lab.until_finished()
    assert lab.node() != node
    lab.cluster.start_node(node)


def cancel_and_retry(lab: Lab) -> None:
    lab.commands.cancel()
    lab.until_job("CANCELLED")
    [status] = lab.statuses()
    assert (status.state, "CANCELLED" in status.reason, status.step > 0) == (State.LOST, True, True)
    lab.commands.retry(lab.data, ["gpus_per_node=1"])


def cancel_before_a_follow_up(lab: Lab) -> None:
    """The job after the cancelled one claims its run."""
    first, after = submissions(lab.sweeps)[-1].arrays
    assert after.job_id == lab.job()
    lab.slurm("scancel", str(first.job_id))


def usr2_without_scontrol(lab: Lab) -> None:
    """The job cannot requeue itself: the checkpoint is written, and the reason is known."""
    lab.slurm("scancel", "--signal=USR2", lab.job())
    lab.until_job("FAILED")
    [status] = lab.statuses()
    assert (status.state, "no scontrol on" in status.reason) == (State.FAILED, True), status
    assert "Traceback" not in lab.job_log()
    lab.commands.retry(lab.data, ["setup=[]"])


def wait_for_the_limit(lab: Lab) -> None:
    with lab.held():
        lab.until(lambda: "stopping" in lab.job_log(), "warning of the limit")
    lab.until(lambda: lab.restarts() == 1, "restart")  # the job may wait in the queue only for a moment
    # A slow machine may need more than another minute. With an hour there is only one restart.
    lab.slurm("scontrol", "update", f"JobId={lab.job()}", "TimeLimit=60")


@dataclass(frozen=True)
class Interruption:
    """A disturbance, the options of its job, and how often SLURM restarts that job."""

    disturb: Callable[[Lab], None]
    overrides: tuple[str, ...] = ()
    restarts: int = 1
    ranks: int = 1

    def run(self, lab: Lab) -> Lab:
        """Submit a run, disturb it midway, and return the lab once the run has ended."""
        lab.submit(*ONE_RUN, *self.overrides)
        lab.until_midway()
        self.disturb(lab)
        lab.until_finished()
        return lab


INTERRUPTIONS = {  # the first ones mostly wait; the others run meanwhile
    "kill -9 of slurmd": Interruption(kill_slurmd, (OWN_NODE,)),
    "time limit shorter than the run": Interruption(wait_for_the_limit, ONE_MINUTE),
    "preemption with grace": Interruption(preempt, (OWN_NODE, "hydra.launcher.partition=graceful")),
    "preemption without warning": Interruption(preempt, (OWN_NODE,)),
    "preemption that cancels": Interruption(preempt, (OWN_NODE, "hydra.launcher.partition=cancelled")),
    "kill -9 of a node": Interruption(kill_node, (OWN_NODE,)),
    "USR2": Interruption(usr2),
    "USR2 without scontrol": Interruption(usr2_without_scontrol, (WITHOUT_SCONTROL,), restarts=0),
    "USR2 to two ranks": Interruption(usr2, (TWO_GPUS,), ranks=2),
    "USR2 to two nodes": Interruption(usr2, (TWO_NODES,), ranks=2),
    "USR2 to two ranks that claim runs": Interruption(usr2, (TWO_GPUS, "hydra.launcher.jobs=1"), ranks=2),
    "kill -9 of the second rank": Interruption(kill_second_rank, (TWO_GPUS,), ranks=2),
    "scontrol requeue": Interruption(requeue),
    "kill -9 of the training process": Interruption(kill_training_process, restarts=0),
    "cancel and retry": Interruption(cancel_and_retry, restarts=0),
    "cancelled, with a follow-up job": Interruption(
        cancel_before_a_follow_up, ("hydra.launcher.follow_up=1",), restarts=0
    ),
    "from two ranks to one": Interruption(cancel_and_retry, (TWO_GPUS,), restarts=0, ranks=2),
}


def _second_rank(lab: Lab) -> int:
    """Process id of the training process that is not rank 0."""
    listed = subprocess.run(
        ["pgrep", "-f", "sweeper.execution.worker"], capture_output=True, text=True, check=True
    ).stdout
    for pid in map(int, listed.split()):
        with contextlib.suppress(OSError):
            variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            if b"SLURM_PROCID=1" in variables and f"SLURM_JOB_ID={lab.job()}".encode() in variables:
                return pid
    raise AssertionError("no second rank")
