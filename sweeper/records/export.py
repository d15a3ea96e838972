"""A sweep as tables: what figures need of its runs, in a few files that can travel.

cells.parquet      one row per grid point, see `sweeper.records.status.sweep_table`
curves.parquet     the runs' metrics: run_id, step, one column a metric
readouts.parquet   the runs' read-outs: run_id, readout, i, j, mean, std (j = −1 for vectors; in test_loss i is N)
provenance.json    per sweep: commits, packages, processors, core-hours, how it was made

One directory may hold several sweeps.
"""

import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from sweeper.files import read_json, write_json
from sweeper.records.metrics import STREAM_NORM, WHOLE_STEPS
from sweeper.records.run_dir import RunDir, readout_rows
from sweeper.records.sweep_manifest import Sweep

CURVE_POINTS = 200  # kept of a run's metrics at most, beside its validations
READOUT_COLUMNS = ("run_id", "readout", "i", "j", "mean", "std")


def export_sweep(sweep: Sweep, cells: pd.DataFrame, runs: Path, out: Path, command: str | None) -> None:
    """Write the tables of one sweep into directory `out`, beside those of other sweeps that are there.

    Args:
        sweep: which.
        cells: its grid points, see `sweeper.records.status.sweep_table`.
        runs: directory of run directories.
        out: made if missing; what it holds of the same sweep is replaced.
        command: the command that made the sweep; None for the commands in its manifest.
    """
    tables = {
        "cells": cells,
        "curves": curves_table(runs, sweep.run_ids),
        "readouts": readouts_table(runs, sweep.run_ids),
    }
    write_tables(sweep, tables, finished_results(sweep, runs), out, command)


def finished_results(sweep: Sweep, runs: Path) -> list[dict[str, Any]]:
    """result.json of every finished run."""
    return [result for run_id in sweep.run_ids if (result := RunDir(runs / run_id).result()) is not None]


def write_tables(
    sweep: Sweep,
    tables: Mapping[str, pd.DataFrame],
    results: Sequence[Mapping[str, Any]],
    out: Path,
    command: str | None,
) -> None:
    """Write `cells`, `curves` and `readouts` of a sweep, wherever they are from, see `export_sweep`.

    Args:
        sweep: which.
        tables: by name.
        results: result.json of its finished runs.
        out: directory.
        command: as of `export_sweep`.
    """
    out.mkdir(parents=True, exist_ok=True)
    others = _read(out / "cells.parquet")
    kept = others[others["sweep"] != sweep.name] if len(others) else others
    alive = set(kept["run_id"]) if len(kept) else set()
    for name, new in tables.items():
        old = kept if name == "cells" else _of(_read(out / f"{name}.parquet"), alive)
        key = ["sweep", "run_id"] if name == "cells" else ["run_id"]
        table = pd.concat([part for part in (old, new) if len(part)] or [new], ignore_index=True)
        if name != "cells":
            table = table.drop_duplicates([*key, *(("step",) if name == "curves" else ("readout", "i", "j"))])
        table.to_parquet(out / f"{name}.parquet", index=False, compression="zstd")
    described = read_json(out / "provenance.json") or {}
    write_json(out / "provenance.json", {**described, sweep.name: describe(sweep, results, command)})


def curves_table(runs: Path, run_ids: Sequence[str]) -> pd.DataFrame:
    """The metrics of runs, see `curves`."""
    rundirs = {run_id: RunDir(runs / run_id) for run_id in run_ids}
    restored = {run_id for run_id, rundir in rundirs.items() if rundir.is_restored}
    return curves({run_id: rundir.read_metrics() for run_id, rundir in rundirs.items()}, restored)


def curves(lines_by_run: Mapping[str, list[dict[str, Any]]], thinned: Collection[str] = ()) -> pd.DataFrame:
    """Metrics of runs, thinned to `CURVE_POINTS` a run and every validation; NaN where a line lacks a metric.

    A training with diagnostics keeps all lines of its first `WHOLE_STEPS` steps beside those points. The runs `thinned`
    were restored from such a table and keep all that they have.
    """
    kept = {run_id: lines if run_id in thinned else _thinned(lines) for run_id, lines in lines_by_run.items()}
    lines = [{"run_id": run_id, **line} for run_id, of_run in kept.items() for line in of_run]
    table = pd.DataFrame(lines, columns=None if lines else ["run_id", "step"])
    # The last line and the validation of one step are two lines of the file, and one row here.
    table = table.groupby(["run_id", "step"], sort=False, as_index=False).first()
    metrics = [name for name in table if name not in ("run_id", "step")]
    return table.astype({"step": "int64"} | dict.fromkeys(metrics, "float64"))


def readouts_table(runs: Path, run_ids: Sequence[str]) -> pd.DataFrame:
    """The read-outs of runs as one long table, see `sweeper.records.run_dir.readout_rows`."""
    return readouts_frame(
        (run_id, name, *row)
        for run_id in run_ids
        for name, values in RunDir(runs / run_id).readouts().items()
        for row in readout_rows(**values)
    )


def readouts_frame(rows: Iterable[tuple[Any, ...]]) -> pd.DataFrame:
    """Rows of `READOUT_COLUMNS` as a table."""
    types = {"i": "int32", "j": "int32", "mean": "float64", "std": "float64"}  # also where there are no rows
    return pd.DataFrame(list(rows), columns=READOUT_COLUMNS).astype(types)


def describe(sweep: Sweep, results: Sequence[Mapping[str, Any]], command: str | None = None) -> dict[str, Any]:
    """Where the results of a sweep come from, and what they cost. The order of the results does not matter.

    `command` is the one given, or those in the manifest. Without either it is left out. `values` has the configuration
    values that all cells share (`Sweep.base`), which tell sweeps of one experiment apart.
    """
    command = command or "; ".join(sweep.commands)
    origins = [_origin(result["provenance"], sweep.name) for result in results]
    packages = sorted({name for origin in origins for name in origin["packages"]})
    here = [result for result in results if "sweeps" not in result["provenance"]]  # not restored from records
    hours = [math.fsum(value for key, value in result["seconds"].items() if key != "cpu") / 3600 for result in here]
    gpus = [result["provenance"].get("gpus", 0) for result in here]
    return {
        "experiment": sweep.experiment,
        "preset": sweep.preset,
        **({"title": sweep.title} if sweep.title else {}),
        **({"command": command} if command else {}),
        **({"values": sweep.base} if sweep.base else {}),
        "runs": len(sweep.run_ids),
        "finished": len(results),
        "commit": sorted({str(commit) for origin in origins for commit in _each(origin["commit"])}),
        "packages": {name: _versions(o["packages"].get(name) for o in origins) for name in packages},
        "python": _versions(o["python"] for o in origins),
        "processor": sorted({name for origin in origins for name in _each(origin.get("gpu", origin["processor"]))}),
        "run_hours": math.fsum([*hours, *_restored(origins, "run_hours")]),
        "core_hours": math.fsum(
            [
                math.fsum(result["seconds"].get("cpu", 0.0) for result in here) / 3600,
                *_restored(origins, "core_hours"),
            ]
        ),
        "gpu_hours": math.fsum(
            [
                *(wall * count for wall, count in zip(hours, gpus, strict=True)),
                *_restored(origins, "gpu_hours"),
            ]
        ),
    }


def _origin(noted: Mapping[str, Any], sweep: str) -> Mapping[str, Any]:
    """The origin of one run. That of a run restored from records is the origin of the recorded sweep's runs."""
    of_sweep: Mapping[str, Any] = noted.get("sweeps", {}).get(sweep, noted)
    return of_sweep


def _restored(origins: Iterable[Mapping[str, Any]], key: str) -> list[float]:
    """Hours of the runs that were restored from records: those of each recorded sweep, by the share of its runs."""
    noted = [json.dumps(origin, sort_keys=True) for origin in origins if origin.get("finished")]
    totals = {text: json.loads(text) for text in sorted(set(noted))}
    return [total[key] * (noted.count(text) / total["finished"]) for text, total in totals.items()]


def _each(noted: Any) -> list[Any]:
    """The origin of one run, or those of all runs of the sweep whose records it was restored from."""
    return noted if isinstance(noted, list) else [noted]


def _versions(names: Iterable[str | None]) -> str:
    return " and ".join(sorted({one for name in names if name for one in name.split(" and ")}))


def _thinned(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    whole = WHOLE_STEPS if any(f"{STREAM_NORM}1" in line for line in lines) else -1
    first = sum(line["step"] <= whole for line in lines)
    stride = -(-(len(lines) - first) // CURVE_POINTS)
    return [
        line
        for number, line in enumerate(lines, start=1)
        if number <= first or "val_loss" in line or number == len(lines) or (number - first - 1) % stride == 0
    ]


def _read(path: Path) -> pd.DataFrame:
    return pd.read_parquet(path) if path.is_file() else pd.DataFrame()


def _of(table: pd.DataFrame, run_ids: set[str]) -> pd.DataFrame:
    return table[table["run_id"].isin(run_ids)] if len(table) else table
