"""`loopsweep verify`: cells of shipped records trained again on this machine, and compared."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from sweeper.config.checks import check_machine
from sweeper.config.recompose import recompose
from sweeper.config.resolve import ResolvedRun, data_spec, resolve
from sweeper.data import DataSpec
from sweeper.display.data_progress import prepare_in_view
from sweeper.display.sweep_progress import SweepView
from sweeper.errors import SweepIncomplete, UserError
from sweeper.execution.local import default_workers
from sweeper.execution.worker_pool import WorkerPool
from sweeper.files import read_json
from sweeper.records.axes import as_text
from sweeper.records.restore import CELLS, read_table
from sweeper.records.run_dir import RunDir
from sweeper.records.verify import TOLERANCE, contradictions, deviation, drawn, repeatable

_COLUMNS = ["sweep", "experiment", "preset", "panel", "rule", "n_layers", "ref_layers", "n_loops", "base_lr", "seed"]
_COLUMNS += ["run_id", "state", "step", "steps", "val_loss"]
_SHOWN = ("panel", "rule", "architecture", "n_layers", "n_loops", "base_lr", "seed")


@dataclass(frozen=True)
class _Repetition:
    """A recorded cell, the run that its configuration gives, and the data that it reads."""

    cell: Mapping[str, Any]
    run: ResolvedRun
    spec: DataSpec

    @property
    def run_id(self) -> str:
        """What this version names the run."""
        return self.run.config.run_id

    def __str__(self) -> str:
        """The cell's place in its sweep."""
        axes = {key: as_text(self.cell[key]) for key in _SHOWN if key in self.cell}
        return " ".join([str(self.cell["sweep"]), *(f"{k}={v}" for k, v in axes.items() if v != "null")])


def verify(records: Path, count: int, draw: int, data: Path, runs: Path | None) -> bool:
    """Check records against themselves, train `count` of their cells again, and say pass or FAIL for each.

    Args:
        records: directory of records.
        count: cells to train.
        draw: which cells. The same number gives the same cells.
        data: directory of prepared data. What is missing is prepared.
        runs: where to train, and to resume from. None for a directory that is removed at the end.

    Returns:
        Whether the records agree with themselves, and every cell with its repetition.

    Raises:
        UserError: if the records cannot be read or have no such cells, or if this machine cannot train one.
    """
    console = Console(highlight=False, soft_wrap=True, markup=False)
    cells = read_table(records / CELLS, _COLUMNS)
    curves = records / "curves.parquet"
    wrong = contradictions(cells, read_table(curves, ["run_id", "step"]) if curves.is_file() else pd.DataFrame())
    console.print(f"{records}: {cells['run_id'].nunique()} runs, {len(wrong)} of them contradict themselves")
    for run_id, reason in wrong.items():
        console.print(f"FAIL  {run_id}: {reason}")
    chosen = drawn(repeatable(cells), count, draw)
    if chosen.empty:
        raise UserError(f"{records} has no finished training; give records such as results/quick")
    described: dict[str, Any] = read_json(records / "provenance.json") or {}
    repetitions = [_repetition(dict(row), described) for row in chosen.to_dict("records")]
    if runs is not None:
        return _repeat(repetitions, data, runs, console) and not wrong
    with tempfile.TemporaryDirectory(prefix="loopsweep-verify-") as directory:
        return _repeat(repetitions, data, Path(directory), console) and not wrong


def _repetition(row: Mapping[Any, Any], described: Mapping[str, Any]) -> _Repetition:
    cell = {str(key): value for key, value in row.items()}
    config = recompose(cell, described.get(cell["sweep"], {}).get("values", {}))
    run = resolve(config, "unprepared")
    check_machine(run.config, run.execution)
    return _Repetition(cell, run, data_spec(config))


def _repeat(repetitions: list[_Repetition], data: Path, runs: Path, console: Console) -> bool:
    """Train the cells again in `runs`, and print how each ended. Returns whether all passed."""
    manifests = {spec: prepare_in_view(spec, data, console) for spec in dict.fromkeys(one.spec for one in repetitions)}
    repetitions = [replace(one, run=one.run.on_data(manifests[one.spec].hash)) for one in repetitions]
    same = {one.run_id: one.run for one in repetitions if one.run_id == one.cell["run_id"]}
    for run_id, run in same.items():
        RunDir(runs / run_id).write_config(run.config, run.execution, {})
    console.print(f"training {len(same)} cells again; tolerance {TOLERANCE:g} nats of the final validation loss")
    costs = {run_id: run.config.flops for run_id, run in same.items()}
    first = repetitions[0].run
    with SweepView(console, costs, 0) as view:
        pool = WorkerPool(
            runs,
            data,
            workers=default_workers(first),
            threads=first.execution.threads,
            gpus=first.execution.device == "cuda",
            view=view,
        )
        pool.run(sorted(same, key=lambda run_id: -costs[run_id]))
    if pool.received:
        raise SweepIncomplete("stopped before the cells were trained; with --runs DIR the same command resumes them")
    passed = [_judge(one, RunDir(runs / one.run_id), console) for one in repetitions]
    console.print(f"{sum(passed)} of {len(passed)} cells pass")
    return all(passed)


def _judge(one: _Repetition, rundir: RunDir, console: Console) -> bool:
    """Print whether the repetition of a cell passes, and why not."""
    recorded, known = float(one.cell["val_loss"]), one.cell["run_id"]
    if one.run_id != known:
        console.print(f"FAIL  {one}: this version makes {one.run_id} of it, and the records have {known}")
        return False
    result = rundir.result() or {"state": "not finished", **(rundir.failure() or {})}
    difference = deviation(recorded, result)
    if difference is None:
        console.print(f"FAIL  {one}: {result['state']} here {result.get('reason', '')}".rstrip())
        return False
    passes = difference <= TOLERANCE
    shown = f"recorded {recorded:.6f}, here {result['val_loss']:.6f}, difference {difference:.2g}"
    console.print(f"{'pass' if passes else 'FAIL'}  {one}: {shown}")
    return passes
