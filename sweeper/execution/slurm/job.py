"""The work of one element of a job array: train its runs, and recover from what a cluster does to a job.

SLURM warns of the time limit with USR2, and on many clusters of a preemption too. The runs then stop at their next step
with a checkpoint, and the job requeues itself. `scontrol requeue`, a preemption without warning and a node failure
requeue the job without a warning. Its runs then resume from their last checkpoint on disk. A training process that dies
or fails is restarted here from its last checkpoint, until it fails too often without a new checkpoint.

This process is light: it only supervises the training processes, and does not import torch.
"""

import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweeper.execution.retry import FollowRankZero, MaxPerCheckpoint, RetryPolicy
from sweeper.execution.slurm.container import REQUEUE_FILE
from sweeper.execution.worker_pool import WorkerPool
from sweeper.records.run_dir import RunDir
from sweeper.run.outcome import Outcome
from sweeper.training.distributed import RankInfo

SIGNALS = (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT)
ENDS_ALL_TASKS = 75  # an exit status that is not 0 ends the other tasks, which may wait for this one
UNFINISHED = (Outcome.STOPPED, Outcome.ERROR)


class RunsFailed(Exception):
    """Runs have failed."""


class Interrupted(Exception):
    """Runs are unfinished, and the job is not queued again."""


@dataclass(frozen=True)
class Task:
    """This process in SLURM's terms: one task of a job step.

    Attributes:
        job: id of the job, as commands of SLURM take it. For an element of an array it is ARRAY_INDEX: the number in
            SLURM_JOB_ID is that of the whole array in its last element.
        restarts: how often SLURM has restarted the job.
        rank: among all tasks of the step.
        local_rank: among those on this node.
        nodes: of the job.
        launch_host: address of the first node.
    """

    job: str
    restarts: str
    rank: int
    local_rank: int
    nodes: int
    launch_host: str

    @classmethod
    def here(cls) -> "Task":
        """From the environment variables that srun sets."""
        variables = os.environ
        array = variables.get("SLURM_ARRAY_JOB_ID")
        return cls(
            job=f"{array}_{variables['SLURM_ARRAY_TASK_ID']}" if array else variables["SLURM_JOB_ID"],
            restarts=variables.get("SLURM_RESTART_COUNT", "0"),
            rank=int(variables["SLURM_PROCID"]),
            local_rank=int(variables["SLURM_LOCALID"]),
            nodes=int(variables["SLURM_JOB_NUM_NODES"]),
            launch_host=variables.get("SLURM_LAUNCH_NODE_IPADDR", "127.0.0.1"),
        )


@dataclass(frozen=True)
class SlurmJob:
    """The runs of one job.

    Attributes:
        runs: directory of run directories, absolute.
        data: directory of prepared data, absolute.
        run_ids: runs to train in parallel; a single run if there are several ranks.
        rendezvous_dir: shared directory in which the ranks of a run find each other.
        ranks: processes that train one run together, one per task of the job.
        attempts: failures from one checkpoint after which a run counts as failed.
    """

    runs: str
    data: str
    run_ids: tuple[str, ...]
    rendezvous_dir: str
    ranks: int
    attempts: int

    def run(self) -> None:
        """Train the runs. submitit calls this in every task of the job.

        Raises:
            SystemExit: if runs have failed, or are unfinished and the job is not queued again. The log then ends with
                the reason, and SLURM shows the job as FAILED.
        """
        try:
            self._run()
        except (RunsFailed, Interrupted) as error:
            sys.exit(f"error: {error}")

    def _run(self) -> None:
        signal.signal(signal.SIGUSR2, lambda *_: None)  # replaces submitit's handler until the pool sets its own
        task = Task.here()
        todo = [run_id for run_id in self.run_ids if self._rundir(run_id).failure() is None]
        retry_policy: RetryPolicy = MaxPerCheckpoint(self.attempts, in_place=self.ranks == 1)
        if task.rank > 0:
            retry_policy = FollowRankZero()
        outcomes, received = self._train(todo, retry_policy, task) if todo else ({}, [])
        if task.rank > 0:
            return
        failed = [run_id for run_id in self.run_ids if self._rundir(run_id).failure() is not None]
        open_runs = [
            run_id for run_id in todo if run_id not in failed and outcomes.get(run_id, Outcome.STOPPED) in UNFINISHED
        ]
        again = isinstance(retry_policy, MaxPerCheckpoint) and retry_policy.again
        if open_runs and (signal.SIGUSR2 in received or (again and not received)):
            requeue(task)
            return
        if open_runs:
            raise Interrupted(f"stopped with {', '.join(open_runs)} unfinished; `loopsweep retry` resumes them")
        if failed:
            raise RunsFailed("; ".join(f"{i}: {(self._rundir(i).failure() or {}).get('reason')}" for i in failed))

    def _train(self, todo: list[str], retry_policy: RetryPolicy, task: Task) -> tuple[dict[str, Outcome], list[int]]:
        pool = self._pool(todo[0], len(todo), retry_policy, task)
        outcomes = pool.run(todo)
        return {run_id: outcome for run_id, (outcome, _) in outcomes.items()}, pool.received

    def _pool(self, like: str, workers: int, retry_policy: RetryPolicy, task: Task, number: int = 0) -> WorkerPool:
        """Training processes for runs like `like`. `number` tells the pools of one job apart."""
        _, execution = self._rundir(like).load()
        rank_info = RankInfo(
            rank=task.rank if self.ranks > 1 else 0,
            size=self.ranks,
            host="127.0.0.1" if task.nodes == 1 else task.launch_host,
            rendezvous_file=str(Path(self.rendezvous_dir) / f"rendezvous-{task.job}-{task.restarts}-{number}.json"),
        )
        return WorkerPool(
            Path(self.runs),
            Path(self.data),
            workers=workers,
            threads=execution.threads,
            gpus=execution.device == "cuda",
            view=LogView(),
            retry_policy=retry_policy,
            rank_info=rank_info,
            first_gpu=task.local_rank,
            signals=SIGNALS,
            may_kill=False,
        )

    def _rundir(self, run_id: str) -> RunDir:
        return RunDir(Path(self.runs) / run_id)


def requeue(task: Task) -> None:
    """Put the job back into the queue. SLURM then ends its processes.

    Raises:
        Interrupted: if there is no scontrol, or SLURM refuses.
        SystemExit: in a container, whose batch script requeues the job once its tasks have ended.
    """
    if file := os.environ.get(REQUEUE_FILE):
        Path(file).touch()
        print(f"job {task.job} is queued again by its batch script", flush=True)
        sys.exit(ENDS_ALL_TASKS)
    try:
        done = subprocess.run(["scontrol", "requeue", task.job], capture_output=True, text=True)
    except OSError as error:
        raise Interrupted(
            f"job {task.job} cannot requeue itself: no scontrol on {socket.gethostname()} ({error.strerror}); "
            "put it into PATH with hydra.launcher.setup; `loopsweep retry` resumes the job's runs"
        ) from error
    if done.returncode:
        said = " ".join(done.stderr.split())
        raise Interrupted(f"job {task.job} cannot requeue itself: {said}; `loopsweep retry` resumes its runs")
    print(f"job {task.job} is queued again and will resume from its checkpoints", flush=True)


class LogView:
    """A `sweeper.execution.worker_pool.View` that prints lines into the job's log."""

    def started(self, slot: int, run_id: str) -> None:
        """A worker started a run."""
        print(f"{run_id}: started", flush=True)

    def progress(self, slot: int, event: dict[str, Any]) -> None:
        """Not printed: progress is in the run's directory."""

    def ended(self, slot: int, run_id: str, outcome: Outcome, reason: str) -> None:
        """An attempt ended."""
        print(f"{run_id}: {outcome} {reason}", flush=True)

    def retrying(self, run_id: str, reason: str) -> None:
        """An attempt failed and is repeated."""
        print(f"{run_id}: {reason}; trying again from its last checkpoint", flush=True)

    def stopping(self) -> None:
        """A signal arrived."""
        print("stopping: finishing the step and writing checkpoints", flush=True)

    def tick(self) -> None:
        """Not used."""
