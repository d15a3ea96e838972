"""What the doctor's job checks on a node: the same way of starting as a training has, then its own end and restart.

Each task writes its findings to FOLDER/node-RANK.json. The first one sends itself the warning that SLURM sends before a
limit, and requeues its job. When the job runs again, it writes FOLDER/resumed.json, which ends the check.
"""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from sweeper.execution.slurm.container import REQUEUE_FILE
from sweeper.execution.slurm.doctor import shared
from sweeper.execution.slurm.doctor.finding import Finding, Verdict, note, ok, problem, skipped
from sweeper.execution.slurm.doctor.login import CPUS_LINE
from sweeper.execution.slurm.job import Interrupted, Task, requeue
from sweeper.files import write_json
from sweeper.hardware import visible_gpus
from sweeper.run.stop import StopFlag
from sweeper.training.distributed import RankInfo

WARNING_SECONDS = 20.0  # for the job's own warning to arrive
SLOW_IMPORT = 30.0  # seconds
RESUMED = "resumed.json"


@dataclass(frozen=True)
class NodeCheck:
    """The job's work. submitit calls `run` in every task.

    Attributes:
        folder: shared directory for what is found.
        runs: directory of run directories.
        ranks: tasks of the job.
        cpus: cores that each task asked for.
        gpus: GPUs that each node asked for.
        checkpoint_bytes: size of a checkpoint.
        warning_seconds: between SLURM's warning and the end of a job.
        urls: servers that runs need, by name.
    """

    folder: str
    runs: str
    ranks: int
    cpus: int
    gpus: int
    checkpoint_bytes: float
    warning_seconds: int
    urls: Mapping[str, str]

    def run(self) -> None:
        """Check, and write down what was found after every check, so that a hanging one is known."""
        task, folder = Task.here(), Path(self.folder)
        if task.restarts != "0":
            if task.rank == 0:
                write_json(folder / RESUMED, {"time": time.time()})
            return
        found: list[Finding] = []
        for finding in self._findings(task):
            found.append(finding)
            self._write(task, found)
        if task.rank == 0 and found[-1].verdict is not Verdict.PROBLEM:
            try:
                requeue(task)
            except Interrupted as error:
                found.append(problem("requeue", str(error), "an interrupted job waits for `loopsweep retry`"))
                self._write(task, found)

    def _write(self, task: Task, found: list[Finding]) -> None:
        write_json(Path(self.folder) / f"node-{task.rank}.json", {"findings": [one.to_dict() for one in found]})

    def _findings(self, task: Task) -> Iterator[Finding]:
        runs = Path(self.runs)
        yield ok("start", f"on {socket.gethostname()}, task {task.rank} of {self.ranks}")
        yield check_cpus(self.cpus)
        yield from check_torch(self.gpus)
        if self.ranks > 1:
            yield self._all_reduce(task)
        if task.rank > 0:
            return
        yield shared.check_flock(runs)
        yield shared.check_clock(runs)
        yield shared.check_write_speed(runs, self.checkpoint_bytes, self.warning_seconds)
        yield from shared.check_network(self.urls, "node")
        yield check_env()
        yield check_warning(task)

    def _all_reduce(self, task: Task) -> Finding:
        """Sum a tensor over all ranks, as a training does with its gradients."""
        import torch

        info = RankInfo(
            task.rank,
            self.ranks,
            "127.0.0.1" if task.nodes == 1 else task.launch_host,
            str(Path(self.folder) / "rendezvous.json"),
        )
        cuda = bool(self.gpus) and torch.cuda.is_available()
        if cuda:
            torch.cuda.set_device(task.local_rank % torch.cuda.device_count())
        check, way = "all-reduce", "nccl" if cuda else "gloo"
        try:
            ranks = info.join("cuda" if cuda else "cpu", StopFlag())
            tensor = torch.full((2**22,), 1.0, device="cuda" if cuda else "cpu")
            started = time.monotonic()
            ranks.sum_([tensor])
            total = float(tensor[-1])
            seconds = time.monotonic() - started
            ranks.leave()
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            remedy = "choose the interface: export NCCL_SOCKET_IFNAME=ib0 GLOO_SOCKET_IFNAME=ib0 (or eth0)"
            return problem(
                check, f"{way}: {reason}", remedy, setup=["export NCCL_SOCKET_IFNAME=ib0 GLOO_SOCKET_IFNAME=ib0"]
            )
        if total != self.ranks:
            return problem(check, f"{way}: the sum is {total:g} instead of {self.ranks}", "tell the administrators")
        return ok(check, f"{way} over {self.ranks} ranks: 16 MiB in {seconds:.2g} s")


def check_cpus(asked: int) -> Finding:
    """A task may run on the cores that it asked for."""
    seen = len(os.sched_getaffinity(0))
    if seen < asked:
        return problem(
            "CPUs of a task", f"{seen} of the {asked} that were asked for", "set SRUN_CPUS_PER_TASK", setup=[CPUS_LINE]
        )
    return ok("CPUs of a task", f"{asked} asked for, {seen} usable")


def check_torch(gpus: int) -> Iterator[Finding]:
    """torch's import, and the GPUs that it sees.

    Args:
        gpus: asked for on a node; 0 if none are wanted.
    """
    started = time.monotonic()
    import torch

    seconds = time.monotonic() - started
    seen = f"torch {torch.__version__} imported in {seconds:.1f} s"
    remedy = "many jobs that start at once will be slow; put the virtual environment on a faster file system"
    yield note("import", seen, remedy) if seconds > SLOW_IMPORT else ok("import", seen)
    if not gpus:
        yield skipped("GPUs", "gpus_per_node=0")
        return
    given = len(visible_gpus())
    if not torch.cuda.is_available():
        seen = f"{given} given by SLURM, none usable by torch {torch.__version__} (CUDA {torch.version.cuda})"
        yield problem("GPUs", f"{seen}; driver {driver_version()}", "install a torch that is built for this driver")
        return
    names = ", ".join(sorted({torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())}))
    seen = f"{torch.cuda.device_count()} x {names}, driver {driver_version()}, torch for CUDA {torch.version.cuda}"
    if torch.cuda.device_count() != gpus:
        yield problem("GPUs", f"{seen}; {gpus} were asked for", "look at `scontrol show job`; the site may need gres")
    else:
        yield ok("GPUs", seen)


def driver_version() -> str:
    """Of the NVIDIA driver; "unknown" without nvidia-smi."""
    if shutil.which("nvidia-smi") is None:
        return "unknown"
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True)
    return (done.stdout.split() or ["unknown"])[0]


def check_env() -> Finding:
    """`env --block-signal` is missing before coreutils 8.31. Jobs do not use it."""
    found = shutil.which("env") is not None
    if not found or subprocess.run(["env", "--block-signal=USR2", "true"], capture_output=True).returncode:
        return ok("env", "has no --block-signal (coreutils before 8.31); jobs do not need it")
    return ok("env", "new enough for --block-signal; jobs do not need it")


def check_warning(task: Task) -> Finding:
    """The warning before a limit reaches the training, and the job may then requeue itself."""
    if REQUEUE_FILE in os.environ:
        return skipped("warning", "in a container, where there is no scancel; its batch script requeues the job")
    if shutil.which("scontrol") is None:
        remedy = "put it into PATH; without it, a job that is interrupted waits for `loopsweep retry`"
        line = 'export PATH="$PATH:/usr/local/slurm/bin"  # where scontrol is'
        return problem("requeue", f"no scontrol on {socket.gethostname()}", remedy, setup=[line])
    arrived: list[int] = []
    signal.signal(signal.SIGUSR2, lambda number, _: arrived.append(number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR2})
    done = subprocess.run(["scancel", "--signal=USR2", task.job], capture_output=True, text=True)
    end = time.monotonic() + WARNING_SECONDS
    while not arrived and done.returncode == 0 and time.monotonic() < end:
        time.sleep(0.05)
    if not arrived:
        reason = " ".join(done.stderr.split()) or f"not within {WARNING_SECONDS:g} s"
        return problem("warning", f"USR2 did not arrive ({reason})", "checkpoint often: execution.checkpoint_every")
    return ok("warning", "USR2 arrives at the training process")
