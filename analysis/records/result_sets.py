"""The records that are judged and shown: the newest sweep of each experiment, per place and preset."""

import argparse
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import figures
from analysis.records import cell_axes, sources
from sweeper.errors import UserError

ARCHITECTURES = "architectures"
NO_DECAY = "lr_transfer without weight decay"  # the control of Figure 5, beside the sweep of the paper
LADDER = ("paper", "gpu", "laptop", "quick", "smoke")  # presets, the largest first


@dataclass(frozen=True)
class Records:
    """All records of one preset in one place.

    The tables are per experiment. `NO_DECAY` is one of its own.

    Attributes:
        preset: scale of the runs.
        place: where they were read, "this machine" or the results directory.
        arguments: per experiment, the options with which a figure script reads the same sweep.
        cells: per experiment, see `sources.load_cells`.
        curves: per experiment of which a figure reads curves, see `sources.load_curves`.
        readouts: per experiment of which a figure reads read-outs, see `sources.load_readouts`.
        provenance: per experiment, see `sweeper.records.export.describe`.
    """

    preset: str
    place: str
    arguments: Mapping[str, list[str]] = field(default_factory=dict)
    cells: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    curves: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    readouts: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    provenance: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def find_records(runs: Path | None, results: Path) -> list[Records]:
    """The records of every preset in `runs`, if any (with the sweeps beside it), and in the directories of `results`.

    The largest preset comes first.

    Raises:
        UserError: if a table is broken.
    """
    found = [one for file in sorted(results.glob("**/cells.parquet")) for one in _stored(file.parent)]
    if runs is not None:
        found += _local(runs)
    return sorted(found, key=lambda one: LADDER.index(one.preset) if one.preset in LADDER else len(LADDER))


def _stored(directory: Path) -> Iterator[Records]:
    cells = pd.read_parquet(directory / "cells.parquet")
    described = json.loads(text) if (text := _text(directory / "provenance.json")) else {}
    kinds = {
        sweep: _judged_as(of_sweep["experiment"].iloc[0], cell_axes.varied_axes(of_sweep), described.get(sweep, {}))
        for sweep, of_sweep in cells.groupby("sweep")
    }
    sweeps = cells[["sweep", "preset"]].assign(kind=cells["sweep"].map(kinds)).dropna()
    for preset, of_preset in sweeps.groupby("preset"):
        # With several sweeps of one experiment, the one that a figure draws by default, or that with the most points.
        sizes = of_preset.groupby(["kind", "sweep"]).size().sort_values(kind="stable")
        chosen = dict(sizes.index)
        chosen |= {kind: name for kind in chosen if (kind, (name := f"{kind}-{preset}")) in sizes.index}
        options = {experiment: ["--results", str(directory), "--sweep", sweep] for experiment, sweep in chosen.items()}
        provenance = {experiment: described.get(sweep, {}) for experiment, sweep in chosen.items()}
        yield _load(str(preset), str(directory), options, provenance)


def _local(runs: Path) -> Iterator[Records]:
    options: dict[str, dict[str, list[str]]] = {}
    provenance: dict[str, dict[str, Any]] = {}
    for sweep in sources.local_sweeps(runs):  # oldest first: the newest stays
        if kind := _judged_as(sweep.experiment, sweep.axes, sweep.provenance):
            options.setdefault(sweep.preset, {})[kind] = ["--runs", str(runs), "--sweep", sweep.name]
            provenance.setdefault(sweep.preset, {})[kind] = sweep.provenance
    for preset, of_preset in options.items():
        yield _load(preset, "this machine", of_preset, provenance[preset])


def one_sweep(runs: Path, sweeps: Path | None, name: str) -> Records:
    """The records of one sweep of this machine, whatever it varies. Any trained sweep is drawn like Figure 5's.

    Raises:
        UserError: if there is no such sweep.
    """
    sweep = sources.local_sweep(runs, sweeps, name)
    kind = sweep.experiment if sweep.experiment in figures.EXPERIMENTS else "lr_transfer"
    options = ["--runs", str(runs), "--sweep", sweep.name, *(["--sweeps", str(sweeps)] if sweeps is not None else [])]
    return _load(sweep.preset, "this machine", {kind: options}, {kind: sweep.provenance})


def _judged_as(experiment: str, axes: Iterable[str], provenance: Mapping[str, Any]) -> str | None:
    """The key of a sweep in `Records`. None for a sweep that varies more than the claims about it do."""
    if set(axes) - ({"architecture"} if experiment == ARCHITECTURES else set()):
        return None
    without_decay = provenance.get("values", {}).get("optimizer.weight_decay") == 0
    return NO_DECAY if experiment == "lr_transfer" and without_decay else experiment


def _load(preset: str, place: str, options: Mapping[str, list[str]], provenance: Mapping[str, Any]) -> Records:
    parser = argparse.ArgumentParser()
    sources.add_arguments(parser)
    arguments = {experiment: parser.parse_args(of_sweep) for experiment, of_sweep in options.items()}
    cells = {
        kind: sources.load_cells(args, "lr_transfer" if kind == NO_DECAY else kind, "make")
        for kind, args in arguments.items()
    }
    tables: dict[str, dict[str, pd.DataFrame]] = {"curves": {}, "readouts": {}}
    for name, load in (("curves", sources.load_curves), ("readouts", sources.load_readouts)):
        for experiment in set(figures.experiments_with(name)) & set(cells):
            try:
                tables[name][experiment] = load(arguments[experiment], cells[experiment])
            except UserError:  # an old results directory without such tables
                continue
    return Records(preset, place, options, cells, tables["curves"], tables["readouts"], provenance)


def _text(file: Path) -> str:
    return file.read_text() if file.is_file() else ""
