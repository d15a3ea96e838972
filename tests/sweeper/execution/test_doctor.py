"""Each fault of a cluster that the doctor knows is named with its remedy. The job itself is tested in tests/slurm."""

import errno
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from omegaconf import OmegaConf

from sweeper.execution.slurm.container import REQUEUE_FILE
from sweeper.execution.slurm.doctor import login, node, shared
from sweeper.execution.slurm.doctor.finding import Finding, Verdict, note, ok, problem, site_lines
from sweeper.execution.slurm.job import Task
from sweeper.execution.slurm.options import SlurmOptions
from sweeper.records import lock

Options = Callable[..., SlurmOptions]
TASK = Task(job="12", restarts="0", rank=0, local_rank=0, nodes=1, launch_host="127.0.0.1")
PARTITIONS = """\
PartitionName=cpu Default=YES PreemptMode=OFF State=UP MaxTime=7-00:00:00 TotalNodes=9
PartitionName=gpu Default=NO PreemptMode=CANCEL State=UP MaxTime=08:00:00 TotalNodes=2
PartitionName=old Default=NO PreemptMode=OFF State=DOWN MaxTime=UNLIMITED TotalNodes=1
"""
NODES = "cpu|(null)|9\ngpu|gpu:h100:4(S:0-1)|1\ngpu|gpu:a100:8|1\nold|gpu:2|1\n"


@pytest.fixture
def options() -> Options:
    """Options of a job with one GPU and an hour, and those given."""

    def options(**values: object) -> SlurmOptions:
        least = {"time": 60, "nodes": 1, "gpus_per_node": 1, "cpus_per_gpu": 1, "pack": 1, "array_parallelism": 4}
        least |= {"max_gpu_hours": 1, "yes": True, "warning_seconds": 60, "attempts": 3}
        return SlurmOptions.from_dict(least | values)

    return options


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What SLURM's commands print, by the object that they are asked about."""
    answers = {"partition": PARTITIONS, "-o": NODES}

    def asked(*command: str) -> str:
        return next((text for name, text in answers.items() if name in command), "")

    monkeypatch.setattr(login, "_asked", asked)
    monkeypatch.setattr(login.shutil, "which", lambda program: program)
    return answers


def named(findings: list[Finding]) -> dict[str, Finding]:
    """Findings that are not ok, by their check."""
    return {one.check: one for one in findings if one.verdict is not Verdict.OK}


def test_a_partition_that_fits_is_ok(answers: Mapping[str, str], options: Options) -> None:
    found = list(login.check_partition(options(partition="gpu", gpus_per_node=4, extra={"gpus_per_node": "h100:4"})))
    assert set(named(found)) == {"preemption"}
    assert [one.seen for one in found][::2] == [
        "gpu: UP, 2 nodes, at most 08:00:00",
        "up to 8 a node, of kind a100, h100",
    ]


@pytest.mark.parametrize(
    ("values", "check", "seen", "site"),
    [
        ({"partition": "nope"}, "partition", "nope: not among cpu, gpu, old", {"partition": "gpu"}),
        ({}, "GPUs of the partition", "cpu has none", {"partition": "gpu"}),
        (
            {"partition": "gpu", "time": "24:00:00"},
            "time limit",
            "gpu allows 08:00:00, jobs ask for 1440",
            {"time": 480},
        ),
        ({"partition": "gpu"}, "preemption", "gpu cancels jobs instead of requeueing them", {}),
        ({"partition": "gpu"}, "GPUs of the partition", "of kind a100, h100", {"extra": {"gpus_per_node": "a100:1"}}),
        ({"partition": "old"}, "partition", "old is DOWN", {}),
        ({"partition": "old", "gpus_per_node": 4}, "GPUs of the partition", "up to 2 a node", {"gpus_per_node": 2}),
    ],
)
def test_a_partition_that_does_not_fit_is_named(
    values: dict[str, object],
    check: str,
    seen: str,
    site: dict[str, object],
    answers: Mapping[str, str],
    options: Options,
) -> None:
    found = named(list(login.check_partition(options(**values))))[check]
    assert seen in found.seen
    assert dict(found.site) == site


def test_a_site_that_demands_workload_keys_is_named(answers: dict[str, str], options: Options) -> None:
    demands = {"AccountingStorageEnforce": "associations,limits,wckeys"}
    answers["wckey"] = "*mine\nother\n"
    assert login.check_wckey({}, options()).verdict is Verdict.OK
    assert login.check_wckey(demands, options(extra={"wckey": "x"})).verdict is Verdict.OK
    found = login.check_wckey(demands, options())
    assert (found.verdict, found.site) == (Verdict.PROBLEM, {"extra": {"wckey": "mine"}})


@pytest.mark.parametrize(
    ("association", "qos", "most"),
    [
        ("lab|4|||normal|normal", "normal|||", 4),
        ("lab||2||normal|normal", "normal|3||\nlong|1||", 3),
        ("lab|||9||a,b", "b|||", 9),
    ],
)
def test_a_limit_of_jobs_below_a_sweep_is_named(
    association: str, qos: str, most: int, answers: dict[str, str], options: Options
) -> None:
    answers |= {"assoc": association, "qos": qos}
    found = login.check_limits(options())
    assert (found.verdict, found.seen.partition(",")[0]) == (Verdict.PROBLEM, f"submitted: {most}")
    assert f"more than {most} jobs is refused: let {most} jobs train all runs" in found.remedy
    assert found.site == {"jobs": most}
    assert login.check_limits(options(jobs=most)).verdict is Verdict.OK
    assert login.check_limits(options(jobs=most + 1)).verdict is Verdict.PROBLEM
    answers["assoc"] = "lab|||||"
    answers["qos"] = ""
    assert login.check_limits(options()).verdict is Verdict.OK


@pytest.mark.parametrize(
    ("version", "plugin", "drops"),
    [
        ("22.05.8", "task/affinity", True),
        ("23.02.1", "task/cgroup,task/affinity", True),
        ("23.11.0", "task/affinity", False),
        ("22.05.8", "task/none", False),
    ],
)
def test_versions_whose_srun_drops_the_cpus_of_a_task_are_named(
    version: str, plugin: str, drops: bool, options: Options
) -> None:
    config = {"SLURM_VERSION": version, "TaskPlugin": plugin}
    found = named(list(login.check_slurm(config, options())))
    assert ("srun" in found) is drops
    remedy = OmegaConf.create(yaml.safe_load(site_lines(list(found.values()))) or {"setup": []})
    assert "srun" not in named(list(login.check_slurm(config, options(setup=list(remedy.setup)))))


def test_a_file_system_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert shared.check_flock(tmp_path / "runs").verdict is Verdict.OK

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(lock.fcntl, "flock", refuse)
    monkeypatch.setattr(lock, "_flock_by_device", {})
    found = shared.check_flock(tmp_path / "runs")
    assert (found.verdict, found.seen) == (Verdict.NOTE, f"{tmp_path} has none; lease files take its place")
    assert "-o flock" in found.remedy
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("ahead", "words"), [(300, "300 s ahead of"), (-300, "300 s behind")])
def test_a_clock_that_is_off_is_named(
    ahead: float, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert shared.check_clock(tmp_path).verdict is Verdict.OK
    now = shared.time.time
    monkeypatch.setattr(shared, "time", SimpleNamespace(time=lambda: now() + ahead))
    found = shared.check_clock(tmp_path)
    assert found.verdict is Verdict.NOTE
    assert found.seen.startswith(words)
    assert "(NTP)" in found.remedy


@pytest.mark.parametrize(
    ("free", "verdict"), [(1e9, Verdict.PROBLEM), (10e9, Verdict.NOTE), (1e12, Verdict.OK)], ids=["none", "few", "many"]
)
def test_a_disk_that_is_full_is_named(
    free: float, verdict: Verdict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    assert shared.check_space(tmp_path, 2e9).verdict is verdict


def test_a_quota_that_is_used_up_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: int) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(shared.os, "fsync", refuse)
    found = shared.check_write_speed(tmp_path, 1e6, warning_seconds=300)
    assert (found.verdict, found.seen) == (Verdict.PROBLEM, f"{tmp_path}: Disk quota exceeded")


def test_a_checkpoint_that_takes_longer_than_the_warning_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert shared.check_write_speed(tmp_path, 1e6, warning_seconds=300).verdict is Verdict.OK
    times = iter((0.0, 4.0))  # for the 4 MiB that are written
    monkeypatch.setattr(shared, "time", SimpleNamespace(monotonic=lambda: next(times)))
    monkeypatch.setattr(shared, "WRITE_BYTES", shared.WRITE_CHUNK)
    found = shared.check_write_speed(tmp_path, 300 * 2**20, warning_seconds=300)
    assert (found.verdict, dict(found.site)) == (Verdict.PROBLEM, {"warning_seconds": 900})


def test_a_server_that_cannot_be_reached_is_named() -> None:
    [found] = shared.check_network({"hub": "http://127.0.0.1:1"}, "node")
    assert (found.check, found.verdict) == ("hub from the node", Verdict.NOTE)
    assert found.remedy.startswith("prepare the data where there is a network")


def test_fewer_cores_than_were_asked_for_are_named() -> None:
    assert node.check_cpus(1).verdict is Verdict.OK
    found = node.check_cpus(len(os.sched_getaffinity(0)) + 1)
    assert (found.verdict, dict(found.site)) == (Verdict.PROBLEM, {"setup": [login.CPUS_LINE]})


def test_gpus_that_torch_cannot_use_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    [_, found] = node.check_torch(2)
    assert found.seen.startswith("2 given by SLURM, none usable by torch")
    [_, found] = node.check_torch(0)
    assert found.verdict is Verdict.SKIPPED


def test_an_old_env_is_seen_and_harmless_and_a_missing_scontrol_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "env").write_text("#!/bin/sh\nexit 125\n")
    (tmp_path / "env").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert node.check_env() == ok("env", "has no --block-signal (coreutils before 8.31); jobs do not need it")
    found = node.check_warning(TASK)
    assert (found.check, found.verdict) == ("requeue", Verdict.PROBLEM)
    assert found.seen.startswith("no scontrol on ")


def test_in_a_container_the_batch_script_is_relied_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image may have neither env nor the commands of SLURM."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv(REQUEUE_FILE, str(tmp_path / "asked"))
    assert node.check_env().verdict is Verdict.OK
    assert node.check_warning(TASK).verdict is Verdict.SKIPPED


def test_the_lines_for_a_site_are_put_together() -> None:
    findings = [
        problem("a", "", "", setup=["x"], extra={"wckey": "k"}),
        note("b", "", setup=["y", "x"], time=480),
        note("c", "", extra={"gpus_per_node": "h100:1"}),
        ok("d", ""),
    ]
    merged = {"setup": ["x", "y"], "extra": {"wckey": "k", "gpus_per_node": "h100:1"}, "time": 480}
    assert yaml.safe_load(site_lines(findings)) == merged
    assert site_lines([ok("d", "")]) == ""
    assert [Finding.from_dict(one.to_dict()) for one in findings] == findings
