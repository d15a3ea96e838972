"""Checks on the login node: what SLURM is configured to do and what this user may ask of it."""

import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from getpass import getuser

from sweeper.execution.slurm.doctor.finding import Finding, note, ok, problem, skipped
from sweeper.execution.slurm.options import SlurmOptions

DROPS_CPUS = re.compile(r"22\.05|23\.02")  # versions in which srun does not take over sbatch's --cpus-per-task
CPUS_LINE = "export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK"  # without braces, which mean an interpolation in YAML
COMFORTABLE_LIMIT = 200  # submitted jobs; most sweeps have fewer runs


def slurm_config() -> dict[str, str]:
    """`scontrol show config`, by key. Empty if the controller does not answer."""
    done = _asked("scontrol", "show", "config")
    pairs = (line.partition("=") for line in done.splitlines())
    return {key.strip(): value.strip() for key, sign, value in pairs if sign}


def check_slurm(config: Mapping[str, str], options: SlurmOptions) -> Iterator[Finding]:
    """The cluster as a whole."""
    version, cluster = (config.get(key, "unknown") for key in ("SLURM_VERSION", "ClusterName"))
    yield ok("SLURM", f"version {version}, cluster {cluster}, arrays of up to {config.get('MaxArraySize', '?')} jobs")
    enforced = config.get("AccountingStorageEnforce", "")
    if "accounting_storage/slurmdbd" not in config.get("AccountingStorageType", ""):
        yield note("accounting", "none: SLURM soon forgets how a job ended", "`loopsweep status` calls such runs lost")
    else:
        yield ok("accounting", f"on; enforced: {enforced or 'nothing'}")
    if "jobs" in config.get("PrivateData", ""):
        yield note(
            "private data", "other users' jobs are hidden", "do not submit a sweep that a colleague has submitted"
        )
    task = config.get("TaskPlugin", "")
    if DROPS_CPUS.match(version) and re.search("affinity|cgroup", task) and CPUS_LINE not in options.setup:
        seen = f"SLURM {version} with {task}: srun may not take over --cpus-per-task, and a run then has one core"
        yield note("srun", seen, "set SRUN_CPUS_PER_TASK, unless the job counts all its cores below", setup=[CPUS_LINE])


def check_wckey(config: Mapping[str, str], options: SlurmOptions) -> Finding:
    """A site may demand a workload key."""
    given = options.extra.get("wckey")
    if "wckeys" not in config.get("AccountingStorageEnforce", ""):
        return ok("workload key", "not demanded")
    if given:
        return ok("workload key", f"demanded; {given} is given")
    default = _asked("sacctmgr", "-n", "-P", "show", "user", getuser(), "format=defaultwckey").strip()
    if default:
        return ok("workload key", f"demanded; your default is {default}")
    seen = [name.strip("*") for name in _asked("sacctmgr", "-n", "-P", "show", "wckey", f"user={getuser()}",
                                               "format=wckey").split()]  # fmt: skip
    known = f" (yours: {', '.join(seen)})" if seen else ""
    return problem(
        "workload key", f"demanded, none is given{known}", "give it", extra={"wckey": seen[0] if seen else "KEY"}
    )


def check_partition(options: SlurmOptions) -> Iterator[Finding]:
    """The partition that jobs go to: state, time limit, GPUs, and what preemption does."""
    shown = map(_fields, _asked("scontrol", "show", "partition", "-o").splitlines())
    found = {one["PartitionName"]: one for one in shown if "PartitionName" in one}
    default = next((name for name, one in found.items() if one.get("Default") == "YES"), None)
    names = options.partition.split(",") if options.partition else [default] if default else []
    with_gpus = sorted({name for name, gres, _ in _nodes() if "gpu" in gres})
    if not names or any(name not in found for name in names):
        seen = f"{options.partition or 'no default'}: not among {', '.join(found)}"
        choice = {"partition": with_gpus[0]} if with_gpus else {}
        yield problem("partition", seen, f"choose one; with GPUs: {', '.join(with_gpus) or 'none'}", **choice)
        return
    for name in names:
        one = found[name]
        limit = one.get("MaxTime", "UNLIMITED")
        yield ok("partition", f"{name}: {one.get('State', '?')}, {one.get('TotalNodes', '?')} nodes, at most {limit}")
        if one.get("State") != "UP":
            yield problem("partition", f"{name} is {one.get('State')}", "jobs will not start; choose another partition")
        if limit != "UNLIMITED" and (longest := _minutes(limit)) < options.minutes:
            yield problem(
                "time limit",
                f"{name} allows {limit}, jobs ask for {options.minutes} minutes",
                "ask for less",
                time=longest,
            )
        mode = one.get("PreemptMode", "OFF").split(",")[-1]
        if mode == "CANCEL":
            yield note(
                "preemption",
                f"{name} cancels jobs instead of requeueing them",
                "`loopsweep watch --retry` resumes their runs, and so do follow-up jobs: hydra.launcher.follow_up=3",
            )
        elif mode not in ("OFF", "GANG"):
            yield ok("preemption", f"{name}: {mode.lower()}")
    yield from _check_gpus(names, with_gpus, options)


def _check_gpus(names: list[str], with_gpus: list[str], options: SlurmOptions) -> Iterator[Finding]:
    if not options.gpus_per_node:
        yield skipped("GPUs of the partition", "gpus_per_node=0")
        return
    kinds = {
        kind for name, gres, _ in _nodes() if name in names for kind in re.findall(r"gpu:(?:([^:,(]+):)?\d+", gres)
    }
    counts = [
        int(number)
        for name, gres, _ in _nodes()
        if name in names
        for number in re.findall(r"gpu:(?:[^:,(]+:)?(\d+)", gres)
    ]
    if not counts:
        choice = {"partition": with_gpus[0]} if with_gpus else {}
        remedy = f"choose one that has: {', '.join(with_gpus) or 'none does'}, or gpus_per_node=0"
        yield problem("GPUs of the partition", f"{', '.join(names)} has none", remedy, **choice)
        return
    typed = sorted(kinds - {""})
    seen = f"up to {max(counts)} a node" + (f", of kind {', '.join(typed)}" if typed else "")
    if options.gpus_per_node > max(counts):
        yield problem("GPUs of the partition", seen, "ask for fewer", gpus_per_node=max(counts))
    elif len(typed) > 1 and "gpus_per_node" not in options.extra:
        wanted = f"{typed[0]}:{options.gpus_per_node}"
        yield note("GPUs of the partition", seen, "a job takes any; choose one kind", extra={"gpus_per_node": wanted})
    else:
        yield ok("GPUs of the partition", seen)


def check_limits(options: SlurmOptions) -> Finding:
    """How many jobs this user may have at once. Every element of an array counts."""
    if shutil.which("sacctmgr") is None:
        return skipped("limits of jobs", "no sacctmgr here")
    account = [f"account={options.account}"] if options.account else []
    rows = _asked("sacctmgr", "-n", "-P", "show", "assoc", f"user={getuser()}", *account,
                  "format=account,maxsubmit,maxjobs,grpsubmit,defaultqos,qos")  # fmt: skip
    associations = [row.split("|") for row in rows.splitlines()]
    if not associations:
        return skipped("limits of jobs", "no association of this user in accounting")
    used = {options.qos} if options.qos else {row[4] for row in associations if row[4]} or {
        qos for row in associations for qos in row[5].split(",")
    }  # fmt: skip
    qos = [row.split("|") for row in _asked("sacctmgr", "-n", "-P", "show", "qos",
                                            "format=name,maxsubmitpu,maxjobspu,grpsubmit").splitlines()]  # fmt: skip
    submitted = [value for row in associations for value in (row[1], row[3])]
    submitted += [value for row in qos if row[0] in used for value in (row[1], row[3])]
    running = [row[2] for row in associations] + [row[2] for row in qos if row[0] in used]
    most, at_once = (
        min((int(value) for value in values if value.isdecimal()), default=None) for values in (submitted, running)
    )
    seen = f"submitted: {_or_unlimited(most)}, running: {_or_unlimited(at_once)}"
    fits = most is None or (options.jobs is not None and options.jobs <= most)
    if most is not None and most < COMFORTABLE_LIMIT and not fits:
        remedy = (
            f"a submission of more than {most} jobs is refused: let {most} jobs train all runs, one after the other"
        )
        return problem("limits of jobs", seen, remedy, jobs=most)
    return ok("limits of jobs", seen)


def _or_unlimited(value: int | None) -> str:
    return "unlimited" if value is None else str(value)


def _nodes() -> list[tuple[str, str, str]]:
    """Partition, generic resources and number of nodes, for each kind of node."""
    lines = _asked("sinfo", "-h", "-o", "%R|%G|%D").splitlines()
    return [(fields[0], fields[1], fields[2]) for fields in (line.split("|") for line in lines) if len(fields) == 3]


def _fields(line: str) -> dict[str, str]:
    return dict(word.partition("=")[::2] for word in line.split())


def _minutes(limit: str) -> int:
    """Whole minutes of a limit as scontrol shows it: [days-]hours:minutes:seconds."""
    days, _, clock = limit.rpartition("-")
    hours, minutes, _ = map(int, clock.split(":"))
    return (int(days or 0) * 24 + hours) * 60 + minutes


def _asked(*command: str) -> str:
    """Output of a SLURM command; empty if it fails or is not there."""
    if shutil.which(command[0]) is None:
        return ""
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout if done.returncode == 0 else ""
