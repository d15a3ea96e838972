"""Options of the job of each run, follow-up jobs, and what sbatch says about their start."""

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sweeper.config.resolve import ResolvedRun
from sweeper.errors import UserError
from sweeper.execution.slurm.options import SlurmOptions
from sweeper.execution.slurm.resources import changes, fitted, gpu_hours, run_options, said_about_start
from sweeper.execution.slurm.submission import JobArray, Submission, new_submission, submit
from sweeper.grid.plan import Plan
from sweeper.records.status import RunStatus, State
from sweeper.records.sweep_manifest import Sweep

from .test_slurm_parts import LEAST

MOST = SlurmOptions.from_dict({**LEAST, "fit": True, "nodes": 2, "gpus_per_node": 4, "time": "24:00:00"})


class Times:
    """Of runs that GPUs share without loss."""

    def run_hours(self, run: Any, gpus: int = 1) -> float:
        return float(run.config.hours) / gpus


TIMES: Any = Times()


def run_of(hours: float, n_parallel: int = 64) -> ResolvedRun:
    """A run that would take some hours on one GPU."""
    config: Any = SimpleNamespace(hours=hours, n_parallel=n_parallel, flops=hours)
    execution: Any = SimpleNamespace(device="cuda")
    return ResolvedRun(config, execution, {})


@pytest.mark.parametrize(
    ("hours", "nodes", "gpus", "limit"),
    [
        (0.2, 1, 1, 1),  # 0.3 hours and half an hour to spare
        (0.5, 1, 1, 2),
        (8.1, 1, 1, 16),
        (15, 1, 1, 24),  # 23 hours: the limit's own time, not the next power of two
        (19.4, 1, 2, 16),
        (64.4, 2, 4, 16),  # 24.7 hours on 4 GPUs are too many
        (124.5, 2, 4, 24),
        (1000, 2, 4, 24),  # resumes in several jobs, with all it may have
    ],
)
def test_a_job_asks_for_the_fewest_gpus_and_the_time_that_its_run_needs(
    hours: float, nodes: int, gpus: int, limit: float
) -> None:
    own = fitted(MOST, run_of(hours), TIMES)
    assert (own.nodes, own.gpus_per_node, own.minutes / 60) == (nodes, gpus, limit)


def test_gpus_divide_the_batch() -> None:
    three = replace(MOST, nodes=1, gpus_per_node=6)
    assert fitted(three, run_of(20, n_parallel=9), TIMES).gpus_per_node == 3


def test_packed_runs_keep_their_gpus_and_a_run_of_unknown_cost_gets_all() -> None:
    packed = replace(MOST, nodes=1, pack=8)
    assert changes(packed, fitted(packed, run_of(1), TIMES)) == {"time": 240}
    for unknown in (0, math.nan):
        assert fitted(MOST, run_of(unknown), TIMES) == MOST
    assert fitted(MOST, run_of(1), None) == MOST


def test_all_gpus_of_a_job_are_charged_and_packed_runs_share_them() -> None:
    assert gpu_hours(replace(MOST, nodes=2, gpus_per_node=4), run_of(8), TIMES) == 8
    assert gpu_hours(replace(MOST, nodes=1, gpus_per_node=4, pack=8), run_of(8), TIMES) == 8
    assert gpu_hours(replace(MOST, gpus_per_node=0), run_of(8), TIMES) == 0


def plan(runs: dict[str, ResolvedRun], panels: dict[str, str]) -> Plan:
    cells = tuple({"run_id": run_id, "panel": panel} for run_id, panel in panels.items())
    status = {run_id: RunStatus(State.PENDING) for run_id in runs}
    return Plan(Sweep("s", "lr_transfer", "paper", cells), runs, status)


def test_the_options_of_a_panel_are_those_of_its_runs() -> None:
    options = SlurmOptions.from_dict({**LEAST, "panels": {"d": {"gpus_per_node": 4, "time": "2-00"}}})
    run = run_of(1)
    own = run_options(plan({"x": run, "y": run}, {"x": "a", "y": "d"}), options)
    assert own["x"] == options
    assert changes(options, own["y"]) == {"gpus_per_node": 4, "time": "2-00"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"panels": {"d": {"gpus": 8}}}, "hydra.launcher.gpus"),
        ({"panels": {"d": {"gpus_per_node": -1}}}, "hydra.launcher.gpus_per_node"),
        ({"panels": {"d": 8}}, "hydra.launcher.panels"),
        ({"jobs": 4, "fit": True}, "hydra.launcher.jobs=4 with fit"),
    ],
)
def test_a_wrong_option_of_a_panel_is_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run_options(plan({}, {}), SlurmOptions.from_dict({**LEAST, **values}))


def test_runs_with_the_same_options_are_in_the_same_arrays(tmp_path: Path) -> None:
    run_ids = [f"run{number}" for number in range(5)]
    other = {"run1": {"time": 120}, "run3": {"time": 120, "pack": 2}, "run4": {"time": 120, "pack": 2}}
    submission = new_submission(tmp_path, "s", run_ids, SlurmOptions.from_dict(LEAST), 100, other)
    assert [(array.elements, array.changes) for array in submission.arrays] == [
        ((("run0",), ("run2",)), {}),
        ((("run1",),), {"time": 120}),
        ((("run3", "run4"),), {"time": 120, "pack": 2}),
    ]
    assert Submission.load(submission.path) == submission


@pytest.mark.parametrize("jobs", [None, 2])
def test_follow_ups_claim_what_the_jobs_before_them_left(
    jobs: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = SlurmOptions.from_dict({**LEAST, "jobs": jobs, "follow_up": 2, "extra": {"dependency": "singleton"}})
    submission = new_submission(tmp_path, "s", ["x", "y", "z"], options, 2)
    numbers = [(array.turn, array.claiming, len(array.jobs)) for array in submission.arrays]
    if jobs:
        assert numbers == [(0, 2, 2), (1, 2, 2), (2, 2, 2)]
    else:
        assert numbers == [(0, 0, 2), (0, 0, 1), (1, 2, 2), (1, 1, 1), (2, 2, 2), (2, 1, 1)]
    dependencies = []

    class Executor:
        def __init__(self, **_: object) -> None: ...

        def update_parameters(self, **parameters: Any) -> None:
            dependencies.append(parameters["additional_parameters"]["dependency"])

        def map_array(self, function: object, slurm_jobs: list[object]) -> list[Any]:
            return [SimpleNamespace(job_id=f"{len(dependencies)}_0")]

    monkeypatch.setattr("submitit.SlurmExecutor", Executor)
    submit(submission, tmp_path, tmp_path, tmp_path)
    if jobs:
        assert dependencies == ["singleton", "afterany:1,singleton", "afterany:2,singleton"]
    else:
        later = ["afterany:1:2,singleton"] * 2 + ["afterany:3:4,singleton"] * 2
        assert dependencies == ["singleton", "singleton", *later]


def test_records_of_earlier_versions_have_plain_arrays(tmp_path: Path) -> None:
    submission = new_submission(tmp_path, "s", ["x"], SlurmOptions.from_dict(LEAST), 2)
    record = submission.path / "submission.json"
    text = record.read_text()
    for line in (',\n   "claiming": 0', ',\n   "turn": 0', ',\n   "changes": {}'):
        assert line in text
        text = text.replace(line, "")
    record.write_text(text)
    assert Submission.load(submission.path).arrays == (JobArray(f"{submission.name}-0", (("x",),)),)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            "sbatch: Job 7 to start at 2026-11-24T19:33:00 using 8 processors on nodes node1 in partition work",
            "2026-11-24 19:33:00",
        ),
        (
            "allocation failure: Requested node configuration is not available",
            "never as it is: Requested node configuration is not available",
        ),
        ("sbatch: error: invalid partition specified: x", "never as it is: invalid partition specified: x"),
        ("", None),
    ],
)
def test_what_sbatch_says_about_the_start(line: str, said: str | None) -> None:
    assert said_about_start([line]) == said
