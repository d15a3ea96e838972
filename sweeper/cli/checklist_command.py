"""`loopsweep checklist`: what conferences ask about searches and compute, as a block of Markdown to paste."""

from pathlib import Path
from typing import Any

from sweeper.files import read_json
from sweeper.records.checklist import checklist
from sweeper.records.export import describe, finished_results
from sweeper.records.restore import CELLS, read_table
from sweeper.records.status import sweep_table
from sweeper.records.sweep_manifest import Sweep, find, manifests

_COLUMNS = ["sweep", "experiment", "preset", "run_id", "state", "val_loss", "step", "seed", "n_layers", "n_loops"]


def checklist_command(sweep: str | None, records: Path | None, runs: Path, sweeps: Path) -> None:
    """Print the block, for one sweep or all.

    Args:
        sweep: name of a sweep of this machine, the beginning of it, or its id. None for all.
        records: directory of records, whose sweeps are described instead.
        runs: directory of run directories.
        sweeps: directory of manifests.

    Raises:
        UserError: if there is no such sweep, or the records cannot be read.
    """
    if records is not None:
        cells = read_table(records / CELLS, _COLUMNS)
        described: dict[str, Any] = read_json(records / "provenance.json") or {}
        for name, of_sweep in cells.groupby("sweep", sort=False):
            shown = of_sweep.dropna(axis="columns", how="all").assign(val_loss=of_sweep["val_loss"])
            print("\n".join(checklist(str(name), shown, described.get(str(name), {}))))
        return
    for path in [find(sweeps, sweep)] if sweep is not None else manifests(sweeps):
        found = Sweep.load(path)
        print("\n".join(checklist(found.name, sweep_table(path, runs), describe(found, finished_results(found, runs)))))
