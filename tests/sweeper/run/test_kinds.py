"""A kind of run is a row of `KINDS`: a fourth one goes from the configuration to the tables without another change."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, ClassVar

import pandas as pd
import pytest
import yaml
from hydra.core.global_hydra import GlobalHydra
from rich.console import Console

import sweeper.train
from analysis.records.sources import validated
from sweeper.errors import UserError
from sweeper.execution.execute_run import execute_run
from sweeper.grid.build import Grid, compose_grid, saved_plan
from sweeper.grid.plan import print_plan
from sweeper.records.export import export_sweep
from sweeper.records.metrics import MetricsFile
from sweeper.records.run_dir import RunDir
from sweeper.records.status import State, run_status, sweep_table
from sweeper.records.sweep_manifest import Sweep
from sweeper.run.base import Run
from sweeper.run.outcome import Outcome
from sweeper.run.progress import Progress
from sweeper.run.spec import KINDS, RunKind, run_from_dict
from sweeper.run.stop import StopFlag
from sweeper.training.attempt import Attempt
from sweeper.training.measures import Stopwatch, outcome


@dataclass(frozen=True)
class SumRun(Run):
    """The first `steps` terms of Σ εⁿ."""

    KIND: ClassVar[str] = "sum"

    d_model: int
    steps: int
    residual_scale: float
    seed: int

    @property
    def name(self) -> str:
        return f"e{self.residual_scale:g}"

    @property
    def applications(self) -> int:
        return 1

    @property
    def flops(self) -> float:
        return 2.0 * self.steps


def resolve_sum(tree: Any, manifest_hash: str) -> SumRun:
    if tree.model.n_loops < 2:
        raise ValueError(f"model.n_loops={tree.model.n_loops}: a sum needs at least 2")
    return SumRun(1, tree.schedule.steps, 1 / tree.model.n_loops, tree.seed)


def run_sum(attempt: Attempt[SumRun]) -> dict[str, Any] | None:
    stopwatch, config, total = Stopwatch(), attempt.config, 0.0
    attempt.rundir.truncate_metrics(-1)
    with MetricsFile(attempt.rundir.metrics) as metrics:
        for step in range(1, config.steps + 1):
            if attempt.stop.is_set():
                return None
            total += config.residual_scale**step
            metrics.write({"step": step, "total": total})
            attempt.report(Progress(step, config.steps, total, 0.0, 0.0))
    attempt.rundir.write_readouts({"total": {"mean": [total], "std": [0.0]}})
    return outcome("done", "", config.steps, config.steps, stopwatch.seconds())


@pytest.fixture
def sum_kind(monkeypatch: pytest.MonkeyPatch) -> RunKind:
    """The row of the fourth kind, for one test."""
    row = RunKind(SumRun, resolver=f"{__name__}:resolve_sum", runner=f"{__name__}:run_sum")
    monkeypatch.setitem(KINDS, row.name, row)
    return row


@pytest.fixture
def sums(sum_kind: RunKind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Grid]:
    """`sums(*overrides)`: a composed grid of the fourth kind; no data is prepared."""
    grids: list[Grid] = []

    def launch(context: Any, config: Any, jobs: Any, **_: Any) -> None:
        grids.append(compose_grid(context, config, jobs, Console(), prepare=True, here=True))

    def compose(*overrides: str) -> Grid:
        paths = [f"paths.{name}={tmp_path / name}" for name in ("runs", "sweeps", "data")]
        plain = ["kind=sum", "preset=smoke", "experiment=sums", "schedule.steps=5", *paths, *overrides]
        GlobalHydra.instance().clear()
        monkeypatch.setattr("sweeper.execution.local.launch_local", launch)
        monkeypatch.setattr(sys, "argv", ["sweeper.train", "--multirun", *plain])
        sweeper.train.main()
        return grids.pop()

    return compose


def execute(rundir: Path, data: Path, stop: StopFlag | None = None) -> tuple[Outcome, str]:
    return execute_run(rundir, data, stop or StopFlag(), lambda progress: None)


def test_a_fourth_kind_goes_from_the_configuration_to_the_tables(sums, tmp_path, capsys) -> None:
    grid = sums("model.n_loops=2,4", "seed=0,1")
    assert grid.plan.to_run == list(grid.plan.runs)
    assert not (tmp_path / "data").exists()
    print_plan(grid.plan, None, 1, Console())
    assert "4 points, 4 distinct runs" in capsys.readouterr().out
    grid.write()

    for run_id, resolved in grid.plan.runs.items():
        assert run_id.startswith("sum-e0.")
        rundir = RunDir(tmp_path / "runs" / run_id)
        assert rundir.load() == (resolved.config, resolved.execution)
        assert run_status(rundir.path).state is State.PENDING
        assert execute(rundir.path, grid.roots.data) == (Outcome.DONE, "")
        assert run_status(rundir.path).state is State.DONE
        assert execute(rundir.path, grid.roots.data) == (Outcome.DONE, "")

    sweep = Sweep.load(grid.roots.sweeps / f"{grid.plan.sweep.name}.json")
    cells = sweep_table(grid.roots.sweeps / f"{sweep.name}.json", grid.roots.runs)
    assert set(validated(cells, "runs")["state"]) == {"done"}  # although there is no validation loss
    export_sweep(sweep, cells, grid.roots.runs, tmp_path / "out", "make sums")
    curves = pd.read_parquet(tmp_path / "out" / "curves.parquet")
    last = curves[curves["step"] == 5].set_index("run_id")["total"]
    assert [last[run_id] for run_id in sweep.run_ids] == pytest.approx([0.96875, 0.96875, 0.333, 0.333], abs=1e-3)
    readouts = pd.read_parquet(tmp_path / "out" / "readouts.parquet")
    assert sorted(readouts["mean"]) == pytest.approx(sorted(last))


def test_a_fourth_kind_is_stopped_and_resumed(sums, tmp_path) -> None:
    grid = sums("model.n_loops=2", "seed=0")
    grid.write()
    [run_id] = grid.plan.runs
    stop = StopFlag()
    stop.set()
    assert execute(tmp_path / "runs" / run_id, grid.roots.data, stop)[0] is Outcome.STOPPED
    again = saved_plan(grid.plan.sweep, [run_id], grid.roots.runs)
    assert again.runs[run_id].config == grid.plan.runs[run_id].config
    assert execute(tmp_path / "runs" / run_id, grid.roots.data)[0] is Outcome.DONE


def test_what_a_resolver_refuses_is_an_error_of_the_user(sums, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        sums("model.n_loops=1")
    assert ended.value.code == UserError.exit_status
    assert "model.n_loops=1: a sum needs at least 2" in capsys.readouterr().err


def test_a_kind_that_is_gone_leaves_records_of_another_version(sums, tmp_path, monkeypatch) -> None:
    grid = sums("model.n_loops=2", "seed=0")
    grid.write()
    monkeypatch.delitem(KINDS, "sum")
    [run_id] = grid.plan.runs
    with pytest.raises(UserError, match=r"another version of loopsweep .*kind 'sum', this version knows training, "):
        RunDir(tmp_path / "runs" / run_id).load()


def test_every_row_names_functions_that_exist() -> None:
    for row in KINDS.values():
        for path in filter(None, (row.resolver, row.runner, row.step_timer)):
            assert callable(resolve_name(path)), path


def test_to_plan_and_to_read_records_imports_no_torch(repository, runs, literal_run) -> None:
    config = runs.write_config(literal_run).config
    code = (
        "import sys; from pkgutil import resolve_name\n"
        "import sweeper.execution.local, sweeper.cli.commands\n"
        "from sweeper.run.spec import KINDS\n"
        "[resolve_name(row.resolver) for row in KINDS.values()]\n"
        "from sweeper.records.run_dir import RunDir; from pathlib import Path\n"
        f"RunDir(Path({str(config.parent)!r})).load()\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_a_record_without_a_kind_is_a_training(literal_run) -> None:
    record = yaml.safe_load(yaml.safe_dump(literal_run.to_dict()))
    del record["kind"]
    assert run_from_dict(record) == literal_run
