"""Run directories out of shipped records (`results/NAME`): what the tables hold of a run, and where it comes from.

A restored run has its state, losses, read-outs and metrics as they were exported, so that figures and exports are the
same as those of the records. It has no configuration, no log and no weights, because records do not hold them. Its id
stands as it is in the records. It counts for a grid whose own configuration gives the same id.
"""

import json
import math
from collections.abc import Hashable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from sweeper.errors import UserError
from sweeper.files import read_json
from sweeper.records.axes import BASE_AXES, is_extra, same
from sweeper.records.export import READOUT_COLUMNS
from sweeper.records.foreign import RUN_ID, STATES, Refused, read_sweep
from sweeper.records.metrics import SCORES
from sweeper.records.run_dir import RECORDS
from sweeper.records.sweep_manifest import Sweep

CELLS = "cells.parquet"
_WHOLE = (
    "n_layers",
    "ref_layers",
    "n_loops",
    "d_model",
    "seed",
    "steps",
    "round",
)  # whole numbers, floats beside a null
# What provenance.json says of a sweep's runs, and what stands for it where it is missing.
_ORIGIN: dict[str, Any] = {"commit": [], "packages": {}, "python": "", "processor": [], "finished": 0}
_ORIGIN |= {"run_hours": 0.0, "core_hours": 0.0, "gpu_hours": 0.0}


class Records:
    """The tables of a directory of records.

    Args:
        directory: with cells.parquet, and curves.parquet, readouts.parquet and provenance.json as far as there are.

    Raises:
        UserError: if they cannot be read, or are no records.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._cells = read_table(
            directory / CELLS, ["sweep", "experiment", "preset", "run_id", "state", "val_loss", "step"]
        )
        self._described: dict[str, Any] = (
            read_json(directory / "provenance.json", "get it from where the records are from") or {}
        )
        curves, readouts = directory / "curves.parquet", directory / "readouts.parquet"
        self._rows = _groups(self._cells)
        self._curves = _groups(read_table(curves, ["run_id", "step"]) if curves.is_file() else pd.DataFrame())
        self._readouts = _groups(read_table(readouts, list(READOUT_COLUMNS)) if readouts.is_file() else pd.DataFrame())

    @property
    def run_ids(self) -> list[str]:
        """The finished runs."""
        return list(self._cells.loc[self._cells["state"].isin(STATES), "run_id"].unique())

    def sweeps(self) -> Iterator[Sweep]:
        """The sweeps, with every cell that the records have.

        Raises:
            Refused: if a sweep is malformed.
        """
        for name, cells in self._cells.groupby("sweep", sort=False):
            entry = self._described.get(str(name), {})
            base = entry.get("values", {})
            record = {
                "name": name,
                "experiment": cells["experiment"].iloc[0],
                "preset": entry.get("preset", cells["preset"].iloc[0]),
                "cells": [_cell(row, base) for row in _records(cells.dropna(axis="columns", how="all"))],
                "title": entry.get("title", ""),
                "base": base,
                "commands": [entry["command"]] if entry.get("command") else [],
            }
            yield read_sweep(str(name), json.dumps(record).encode())

    def files(self, run_id: str) -> dict[str, bytes]:
        """The files of the directory of a finished run, but for imported.json.

        Raises:
            Refused: if the records contradict themselves, or have values that no run has.
        """
        if not (isinstance(run_id, str) and RUN_ID.fullmatch(run_id)):
            raise Refused(f"{str(run_id)[:80]!r} is no run's id")
        try:
            return self._files(run_id)
        except (TypeError, KeyError, ValueError, AttributeError, OverflowError) as error:
            raise Refused(f"its records cannot be read ({' '.join(str(error).split())[:200]})") from error

    def _files(self, run_id: str) -> dict[str, bytes]:
        rows = _records(self._rows[run_id])
        values = [[row.get(name) for name in ("state", "val_loss", "step", "reason")] for row in rows]
        if any(not same(other, values[0]) for other in values):
            raise Refused("its cells have different results")
        files = {"result.json": _json(self._result(run_id, rows))}
        if run_id in self._curves:
            lines = _records(self._curves[run_id])
            files["metrics.jsonl"] = b"".join(json.dumps(_line(line)).encode() + b"\n" for line in lines)
        if run_id in self._readouts:
            files["readouts.json"] = _json(_readouts(self._readouts[run_id]))
        return files

    def _result(self, run_id: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
        row = rows[0]
        entries = {str(one["sweep"]): self._described.get(str(one["sweep"]), {}) for one in rows}
        measured = {key: row[key] for key in ("unigram_entropy", *SCORES) if row.get(key) is not None}
        numbers = [row["val_loss"], row["step"], row.get("step_seconds"), *measured.values()]
        if not all(isinstance(value, int | float | None) for value in numbers):
            raise ValueError("a number is none")
        if not str(row.get("reason") or "").isprintable():
            raise ValueError("the reason is not one line of plain text")
        origins = {
            name: {key: entry.get(key, empty) for key, empty in _ORIGIN.items()} for name, entry in entries.items()
        }
        for origin in origins.values():
            if not all(isinstance(origin[key], type(empty) | int) for key, empty in _ORIGIN.items()):
                raise ValueError("provenance.json has other types than an export writes")
        return {
            "run_id": run_id,
            "state": row["state"],
            "reason": row.get("reason") or "",
            "val_loss": row["val_loss"],
            "step": int(row["step"]),
            **measured,
            "seconds": {"step": row["step_seconds"]} if row.get("step_seconds") is not None else {},
            # Those of whole sweeps: records do not hold the origin of each run.
            "provenance": {**next(iter(origins.values())), "sweeps": origins},
        }


def origin(directory: Path, checksum: str) -> dict[str, str]:
    """imported.json of a restored run. `checksum`: sha256 of cells.parquet."""
    return {
        "kind": RECORDS,
        "from": directory.resolve().name,
        "sha256": checksum,
        "holds": "state, losses, read-outs and metrics as exported; no configuration, log or weights",
    }


def read_table(path: Path, needed: list[str]) -> pd.DataFrame:
    """A parquet file of records.

    Raises:
        UserError: if it cannot be read, or has not the columns `needed`.
    """
    try:
        table = pd.read_parquet(path)
    except (OSError, ValueError) as error:  # of pyarrow too
        raise UserError(
            f"{path} cannot be read ({' '.join(str(error).split())[:200]}); get these records anew"
        ) from error
    if missing := [name for name in needed if name not in table]:
        raise UserError(f"{path} has no column {missing[0]}; give a directory that `loopsweep export` has written")
    return table


def _groups(table: pd.DataFrame) -> dict[Hashable, pd.DataFrame]:
    return dict(iter(table.groupby("run_id", sort=False))) if len(table) else {}


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as plain values; None for a number that is not there."""
    rows = table.astype(object).to_dict("records")
    return [{str(key): _plain(value) for key, value in row.items()} for row in rows]


def _plain(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") else value
    return None if value is pd.NA or (isinstance(value, float) and math.isnan(value)) else value


def _cell(row: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    cell: dict[str, Any] = {axis: row.get(axis) for axis in BASE_AXES if axis != "architecture"}
    cell |= {key: row[key] for key in ("architecture", "run_id", "steps", "flops") if row.get(key) is not None}
    cell |= {"round": row["round"]} if row.get("round") else {}
    cell |= {key: int(cell[key]) for key in _WHOLE if cell.get(key) is not None}
    extra = {key: row[key] for key in row if is_extra(key)}
    values = {key: value for key, value in extra.items() if not same(value, base.get(key))}
    return {**cell, "values": values} if values else cell


def _line(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key != "run_id" and value is not None}


def _readouts(table: pd.DataFrame) -> dict[str, Any]:
    """The inverse of `sweeper.records.run_dir.readout_rows`."""
    found: dict[str, Any] = {}
    for name, rows in table.groupby("readout", sort=False):
        entry: dict[str, Any] = {"mean": [], "std": []}
        counts = list(dict.fromkeys(rows["i"].tolist()))
        for _, of_row in rows.groupby("i", sort=False):
            mean, std = ([_plain(value) for value in of_row[key].tolist()] for key in ("mean", "std"))
            vector = of_row["j"].tolist() == [-1]
            entry["mean"].append(mean[0] if vector else mean)
            entry["std"].append(std[0] if vector else std)
        found[str(name)] = entry if counts == list(range(len(counts))) else {**entry, "counts": counts}
    return found


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()
