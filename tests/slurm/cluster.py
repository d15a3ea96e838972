"""A real SLURM cluster on this machine, for the tests: virtual nodes with fake GPUs, and separate daemons.

    python -m tests.slurm.cluster install    # Debian packages, as root
    python -m tests.slurm.cluster start      # prints what to export
    python -m tests.slurm.cluster stop

Jobs in partition `work` are requeued when one in `urgent` wants their nodes; in `graceful`, after a grace time; in
`cancelled`, they are cancelled.
"""

import argparse
import contextlib
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

PACKAGES = ("slurm-wlm", "munge", "charliecloud-runtime")
ACCOUNTING_PACKAGES = ("slurmdbd", "mariadb-server")
NODES = tuple(f"node{number}" for number in range(1, 9))
CPUS, MEMORY_MB, GPUS = 8, 8000, 4
DEAD_AFTER = 6  # seconds of silence after which a node counts as down
FIRST_PORT = 17901  # of a cluster; it takes one for each daemon
DEFAULT_ROOT = Path(tempfile.gettempdir()) / "loopsweep-test-cluster"

CONF = """\
ClusterName=loopsweep
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
# A credential's lifetime is also how long a requeued job waits before it may start again.
AuthInfo=socket={root}/munge/socket,cred_expire=5
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool.%n
SlurmctldPidFile={root}/pid/slurmctld
SlurmdPidFile={root}/pid/slurmd.%n
SlurmctldLogFile={root}/log/slurmctld
SlurmdLogFile={root}/log/slurmd.%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1
GresTypes=gpu
# Nodes have what is written here, whatever the machine has.
SlurmdParameters=config_overrides
ReturnToService=2
JobRequeue=1
KillWait=5
CompleteWait=0
MinJobAge={min_job_age}
SlurmdTimeout={dead_after}
MailProg=/bin/true
SlurmctldParameters=preempt_send_user_signal
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
{accounting}
NodeName=DEFAULT CPUs={cpus} RealMemory={memory} Gres=gpu:{gpus}
NodeName={nodes} NodeHostname={host} NodeAddr=127.0.0.1 Port=[{node_ports}]
PartitionName=work Nodes=ALL Default=YES MaxTime=INFINITE DefMemPerCPU=128 PriorityTier=1 GraceTime=0
PartitionName=graceful Nodes=ALL MaxTime=INFINITE DefMemPerCPU=128 PriorityTier=1 GraceTime=20
PartitionName=cancelled Nodes=ALL MaxTime=INFINITE DefMemPerCPU=128 PriorityTier=1 GraceTime=0 PreemptMode=CANCEL
PartitionName=urgent Nodes=ALL MaxTime=INFINITE DefMemPerCPU=128 PriorityTier=10 PreemptMode=OFF
"""
NO_ACCOUNTING = "AccountingStorageType=accounting_storage/none\nJobCompType=jobcomp/none"
ENFORCED = """
AccountingStorageEnforce=associations,limits,wckeys
TrackWCKey=yes"""
ACCOUNTING = """\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={port}
AccountingStoragePass={root}/munge/socket"""
DBD_CONF = """\
AuthType=auth/munge
AuthInfo=socket={root}/munge/socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={port}
SlurmUser={user}
LogFile={root}/log/slurmdbd
PidFile={root}/pid/slurmdbd
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct_db
"""


def search_path() -> str:
    """PATH with the directories of daemons, which are often missing in it."""
    return os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])


class ClusterError(Exception):
    """The cluster does not start."""


@dataclass(frozen=True)
class Cluster:
    """One cluster below `root`. `start` and `stop` may be called in any state.

    Attributes:
        root: directory of its configuration, logs and state.
        accounting: whether it has a database.
        max_submit: jobs that root may submit. The site then also demands a workload key. root's default is `mine`.
        min_job_age: seconds after which the controller forgets a job.
        first_port: of its daemons.
    """

    root: Path
    accounting: bool = False
    max_submit: int | None = None
    min_job_age: int = 3600
    first_port: int = FIRST_PORT

    @property
    def environment(self) -> dict[str, str]:
        """Environment of a process that uses this cluster."""
        others = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_"))}
        return {**others, "PATH": search_path(), "SLURM_CONF": str(self.root / "etc/slurm.conf")}

    def start(self) -> None:
        """Start all daemons. Returns when all nodes are ready."""
        self._write_configuration()
        if not self._alive("munged"):
            munge = self.root / "munge"
            self._run(
                "munged", "--force", f"--socket={munge}/socket", f"--key-file={munge}/key", f"--seed-file={munge}/seed",
                f"--log-file={self.root}/log/munged", f"--pid-file={self.root}/pid/munged",
            )  # fmt: skip
        self._wait("munge", lambda: self._works("munge", "-n", f"--socket={self.root}/munge/socket"))
        if self.accounting:
            self._start_accounting()
        if not self._alive("slurmctld"):
            self._run("slurmctld")
        self._wait("slurmctld", lambda: self._works("scontrol", "ping"))
        for node in NODES:
            self.start_node(node)
        self._wait("all nodes", lambda: all(self.node_state(node).startswith("IDLE") for node in NODES))

    def stop(self) -> None:
        """Kill all jobs and daemons. The configuration and logs stay."""
        if self._works("scontrol", "ping"):
            with contextlib.suppress(ClusterError):
                self._run("scancel", "--full", "--signal=KILL", "--user=root")
                self._run("scancel", "--user=root")
                self._wait("an empty queue", lambda: not self.squeue("%i"), seconds=15)
        for daemon in (*(f"slurmd.{node}" for node in NODES), "slurmctld", "slurmdbd", "mariadbd", "munged"):
            self._end(daemon)
        for node in NODES:  # a slurmd that was killed leaves them behind
            self._kill(self._job_processes(node))

    def start_node(self, node: str) -> None:
        """Start a node's slurmd, unless it runs."""
        if not self._alive(f"slurmd.{node}"):
            (self.root / f"spool.{node}").mkdir(exist_ok=True)
            self._run("slurmd", "-N", node)

    def kill_slurmd(self, node: str) -> None:
        """`kill -9` of the daemon alone. The processes of its jobs continue."""
        os.kill(self._pid(f"slurmd.{node}"), signal.SIGKILL)

    def kill_node(self, node: str) -> None:
        """Kill everything on the node at once, as a power failure does."""
        daemon = self._pid(f"slurmd.{node}")
        os.kill(daemon, signal.SIGSTOP)  # a dead node reports nothing
        self._kill([daemon, *self._job_processes(node)])

    def node_state(self, node: str) -> str:
        """Such as IDLE, MIXED or DOWN*."""
        return self.query("sinfo", "-h", "-N", "-n", node, "-p", "work", "-o", "%T").strip().upper()

    def squeue(self, fields: str, *arguments: str) -> list[str]:
        """One line per job or array element."""
        return self.query("squeue", "-h", "-r", "-o", fields, *arguments).splitlines()

    def query(self, *command: str) -> str:
        """Output of a SLURM command."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True)
        if done.returncode:
            raise ClusterError(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout

    def _write_configuration(self) -> None:
        for name in ("etc", "pid", "log", "state", "munge", "gpus", "mysql", "mysql-socket"):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        (self.root / "munge").chmod(0o755)
        key = self.root / "munge/key"
        if not key.exists():
            key.write_bytes(os.urandom(1024))
            key.chmod(0o400)
        values = {"root": self.root, "user": "root", "port": self.first_port + 1}
        (self.root / "etc/slurm.conf").write_text(
            CONF.format(
                host=socket.gethostname().split(".")[0],
                root=self.root,
                user="root",
                port=self.first_port,
                node_ports=f"{self.first_port + 2}-{self.first_port + 1 + len(NODES)}",
                nodes=",".join(NODES),
                cpus=CPUS,
                memory=MEMORY_MB,
                gpus=GPUS,
                min_job_age=self.min_job_age,
                dead_after=DEAD_AFTER,
                accounting=self._accounting(values),
            )
        )
        dbd = self.root / "etc/slurmdbd.conf"
        dbd.write_text(DBD_CONF.format(**values))
        dbd.chmod(0o600)
        gpus = [f"NodeName={','.join(NODES)} Name=gpu File={self._fake_gpu(index)}" for index in range(GPUS)]
        (self.root / "etc/gres.conf").write_text("\n".join(gpus) + "\n")

    def _accounting(self, values: dict[str, object]) -> str:
        if not self.accounting:
            return NO_ACCOUNTING
        return ACCOUNTING.format(**values) + (ENFORCED if self.max_submit is not None else "")

    def _fake_gpu(self, index: int) -> Path:
        """SLURM needs a separate character device for every GPU: another /dev/null, if we may create one."""
        path = self.root / f"gpus/gpu{index}"
        if not path.exists():
            try:
                os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
            except PermissionError:
                return Path(("/dev/null", "/dev/zero", "/dev/full", "/dev/random")[index])
        return path

    def _start_accounting(self) -> None:
        data, sock = self.root / "mysql", self.root / "mysql-socket/sock"
        client = ("mariadb", "--no-defaults", f"--socket={sock}", "-e")
        if not self._alive("mariadbd"):
            if not (data / "mysql").exists():
                self._run("mariadb-install-db", "--no-defaults", "--user=root", f"--datadir={data}", "--skip-test-db")
            with (self.root / "log/mariadbd").open("ab") as log:
                process = subprocess.Popen(
                    ["mariadbd", "--no-defaults", "--user=root", f"--datadir={data}", f"--socket={sock}",
                     "--skip-networking", "--innodb-buffer-pool-size=64M", "--innodb-flush-log-at-trx-commit=0"],
                    env=self.environment, stdout=log, stderr=log, start_new_session=True,
                )  # fmt: skip
            (self.root / "pid/mariadbd").write_text(str(process.pid))
        self._wait("the database", lambda: self._works(*client, "select 1"))
        self._run(
            *client,
            "create database if not exists slurm_acct_db; create user if not exists slurm@localhost identified by "
            "'slurm'; grant all on slurm_acct_db.* to slurm@localhost",
        )
        if not self._alive("slurmdbd"):
            self._run("slurmdbd", MYSQL_UNIX_PORT=str(sock))
        self._wait("slurmdbd", lambda: self._works("sacctmgr", "-n", "show", "cluster"))
        if "loopsweep" not in self.query("sacctmgr", "-n", "-P", "show", "cluster", "format=cluster"):
            self._run("sacctmgr", "-i", "-Q", "add", "cluster", "loopsweep")
        if self.max_submit is not None:
            with contextlib.suppress(ClusterError):  # it is there already
                self._run("sacctmgr", "-i", "-Q", "add", "user", "root", "wckey=mine", "defaultwckey=mine")
            self._run("sacctmgr", "-i", "-Q", "modify", "user", "root", "set", f"maxsubmit={self.max_submit}")

    def _run(self, *command: str, **variables: str) -> None:
        done = subprocess.run(command, env={**self.environment, **variables}, capture_output=True, text=True)
        if done.returncode:
            raise ClusterError(f"{' '.join(command)}: {done.stdout.strip()} {done.stderr.strip()}")

    def _works(self, *command: str) -> bool:
        try:
            return subprocess.run(command, env=self.environment, capture_output=True).returncode == 0
        except FileNotFoundError:
            return False

    def _wait(self, what: str, ready: Callable[[], bool], seconds: float = 30.0) -> None:
        end = time.monotonic() + seconds
        while not ready():
            if time.monotonic() > end:
                raise ClusterError(f"waited {seconds:g} s for {what}; see {self.root}/log")
            time.sleep(0.05)

    def _pid(self, daemon: str) -> int:
        return int((self.root / "pid" / daemon).read_text())

    def _alive(self, daemon: str) -> bool:
        try:
            status = Path(f"/proc/{self._pid(daemon)}/stat").read_text()
        except (OSError, ValueError):
            return False
        return status.rsplit(")", 1)[1].split()[0] != "Z"

    def _end(self, daemon: str) -> None:
        if not self._alive(daemon):
            return
        pid = self._pid(daemon)
        os.kill(pid, signal.SIGTERM)
        with contextlib.suppress(ClusterError):
            self._wait(f"the end of {daemon}", lambda: not self._alive(daemon), seconds=10)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        (self.root / "pid" / daemon).unlink(missing_ok=True)

    def _kill(self, pids: list[int]) -> None:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _job_processes(self, node: str) -> list[int]:
        """SLURM's processes of the node's jobs, and all their descendants."""
        listed = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
        children: dict[int, list[int]] = {}
        roots = []
        for line in listed.splitlines()[1:]:
            pid, parent, args = line.split(None, 2)
            children.setdefault(int(parent), []).append(int(pid))
            if args.startswith("slurmstepd:") and self._is_on(int(pid), node):
                roots.append(int(pid))
        found = []
        while roots:
            pid = roots.pop()
            found.append(pid)
            roots += children.get(pid, [])
        return found

    def _is_on(self, pid: int, node: str) -> bool:
        """Whether a slurmstepd belongs to the node, by its open log file."""
        log = (self.root / "log" / f"slurmd.{node}").resolve()
        with contextlib.suppress(OSError):
            return any(link.resolve() == log for link in Path(f"/proc/{pid}/fd").iterdir())
        return False


def install(*, accounting: bool) -> None:
    """Install SLURM from the distribution's packages, unless it is installed. Needs root and apt-get."""
    programs = ("slurmctld", "munged", "ch-run", *(("slurmdbd", "mariadbd") if accounting else ()))
    if all(shutil.which(program, path=search_path()) for program in programs):
        return
    wanted = [*PACKAGES, *(ACCOUNTING_PACKAGES if accounting else ())]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["apt-get", "update", "-qq"], check=True)
    command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *wanted]
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("install", "start", "stop"))
    parser.add_argument("--accounting", action="store_true", help="with slurmdbd and a database")
    parser.add_argument("--root", type=Path, default=DEFAULT_ROOT)
    arguments = parser.parse_args()
    cluster = Cluster(arguments.root, arguments.accounting)
    try:
        match arguments.command:
            case "install":
                install(accounting=arguments.accounting)
            case "start":
                cluster.start()
                print(f"export SLURM_CONF={cluster.environment['SLURM_CONF']}")
            case "stop":
                cluster.stop()
    except ClusterError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
