"""Records read from wandb, as the tables that `loopsweep export` makes from run directories."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sweeper.errors import UserError
from sweeper.records.status import RunStatus, State, finished_status, sweep_rows
from sweeper.records.sweep_manifest import Sweep, meant
from sweeper.run.execution import Tracking
from sweeper.tracking.mirrored_run import STEP, MirroredRun, sweep_of

if TYPE_CHECKING:
    import pandas as pd

READOUT = "readouts/"  # prefix of a read-out's name


@dataclass(frozen=True)
class MirroredSweep:
    """A sweep and its mirrored runs by id."""

    sweep: Sweep
    runs: dict[str, MirroredRun]

    def cells(self) -> "pd.DataFrame":
        """One row per cell of the grid, as `sweeper.records.status.sweep_table` has them.

        A run without a result is running if the server says so, otherwise pending. Only its directory has the reason
        for an end.
        """
        import pandas as pd

        return pd.DataFrame(sweep_rows(self.sweep, {run_id: self._status(run_id) for run_id in self.sweep.run_ids}))

    def curves(self) -> "pd.DataFrame":
        """Metrics by run and step, see `sweeper.records.export.curves`."""
        from sweeper.records.export import curves

        return curves({run_id: run.lines() for run_id, run in self._in_order()})

    def readouts(self) -> "pd.DataFrame":
        """Read-outs as one long table, see `sweeper.records.export.readouts_table`."""
        from sweeper.records.export import readouts_frame

        return readouts_frame(
            (run_id, key.removeprefix(READOUT), *row)
            for run_id, run in self._in_order()
            for key, value in sorted(run.summary.items())
            if key.startswith(READOUT)
            for row in json.loads(run.read_file(value["path"]))["data"]
        )

    def export(self, out: Path, command: str | None) -> None:
        """Write the tables, see `sweeper.cli.commands.SweepCommands.export`."""
        from sweeper.records.export import write_tables

        cells = self.cells()
        if out.suffix == ".parquet":
            out.parent.mkdir(parents=True, exist_ok=True)
            cells.to_parquet(out, index=False)
            return
        results = [run.summary["result"] for _, run in self._in_order() if "result" in run.summary]
        tables = {"cells": cells, "curves": self.curves(), "readouts": self.readouts()}
        write_tables(self.sweep, tables, results, out, command)

    def _in_order(self) -> Iterator[tuple[str, MirroredRun]]:
        """Runs in the order of the grid."""
        return ((run_id, self.runs[run_id]) for run_id in self.sweep.run_ids if run_id in self.runs)

    def _status(self, run_id: str) -> RunStatus:
        run = self.runs.get(run_id)
        if run is None:
            return RunStatus(State.PENDING)
        if "result" in run.summary:
            return finished_status(run.summary["result"])
        return RunStatus(State.RUNNING if run.running else State.PENDING, step=run.summary.get(STEP, 0))


def from_server(path: str, sweep: str | None = None, experiment: str | None = None) -> MirroredSweep:
    """A sweep on the server of `tracking.base_url` or WANDB_BASE_URL.

    Args:
        path: "entity/project", or "entity/project:group".
        sweep: name of the sweep, the beginning of the name, or its id; None for the newest.
        experiment: experiment of the sweep; None for any.

    Raises:
        UserError: if the server cannot be read or there is no such sweep.
    """
    from sweeper.tracking.wandb_api import Project

    project_path, _, group = path.partition(":")
    project = Project(project_path, default_base_url())
    chosen = _choose(project.sweeps(group or None), sweep, experiment, f"--wandb {path}")
    return MirroredSweep(chosen, {run.id: run for run in project.runs(chosen.run_ids)})


def from_files(directory: Path, sweep: str | None = None, experiment: str | None = None) -> MirroredSweep:
    """A sweep in offline files below `directory`; see `from_server`."""
    from sweeper.tracking.offline import read_directory

    found = read_directory(directory)
    chosen = _choose([run for run in found if run.job_type == "sweep"], sweep, experiment, f"--wandb-dir {directory}")
    return MirroredSweep(chosen, {run.id: run for run in found if run.id in chosen.run_ids})


def from_place(
    server: str | None, directory: Path | None, sweep: str | None = None, experiment: str | None = None
) -> MirroredSweep | None:
    """A sweep from `--wandb` or `--wandb-dir`, whichever is given; None if neither is."""
    if server is not None:
        return from_server(server, sweep, experiment)
    return None if directory is None else from_files(directory, sweep, experiment)


def default_base_url() -> str:
    """The default server: WANDB_BASE_URL, or the one in `Tracking`, which conf/config.yaml also has."""
    return os.environ.get("WANDB_BASE_URL", Tracking.base_url)


def _choose(found: Sequence[MirroredRun], name: str | None, experiment: str | None, option: str) -> Sweep:
    """The sweep with that name, of any experiment. Without a name, the newest sweep of the experiment."""
    sweeps = [sweep_of(run.config["sweep"]) for run in found if "sweep" in run.config]
    if name is not None:
        by_id = {sweep.id: sweep.name for sweep in sweeps if sweep.id}
        kinds = {sweep.name: sweep.experiment for sweep in sweeps}
        name = meant(by_id.get(name, name), kinds, experiment, f"in {option}")
        return [sweep for sweep in sweeps if sweep.name == name][-1]
    fitting = [sweep for sweep in sweeps if experiment in (None, sweep.experiment)]
    if not fitting:
        known = ", ".join(s.name for s in sweeps) or "none"
        raise UserError(f"{option}: no {f'{experiment} ' if experiment else ''}sweep in it; known sweeps: {known}")
    return fitting[-1]
