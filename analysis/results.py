"""`analysis.load`: the records of a place as tidy tables, for notebooks and scripts of your own. Imports no torch."""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from analysis import figures
from analysis.claims.table import assess
from analysis.records import sources
from analysis.records.result_sets import find_records
from sweeper.errors import UserError

Read = Callable[[argparse.Namespace, pd.DataFrame], pd.DataFrame]
VERDICT_COLUMNS = ("preset", "source", "claim", "statement", "figure", "paper", "verdict", "measured", "why")


@dataclass(frozen=True)
class Results:
    """The records of one place.

    Attributes:
        cells: one row per cell of every sweep, finished or not. Columns: `sweep`, `experiment`, `preset`, the axes
            (`panel`, `rule`, `n_layers`, `ref_layers`, `depth_multiplier`, `n_loops`, `base_lr`, `seed`, `d_model`, and
            `architecture` or other configuration keys where they vary), `run_id`, `state`, `val_loss` (nats per token,
            NaN if there is none), `step`, `steps`, `reason`, and where recorded `flops` of the whole run,
            `step_seconds` and `unigram_entropy` (nats). Cells of several panels or sweeps may be one run.
        curves: one row per logged step of a run: `run_id`, `step`, and a column a metric, NaN where a row lacks it.
            `loss` and `val_loss` are in nats per token, `base_lr` is the scheduled rate.
        readouts: what was measured on finished models: `run_id`, `readout`, `i`, `j`, `mean`, `std`. j = −1 for a
            vector. i and j count loop steps from 0, but i is the loop count in `test_loss`.
        verdicts: one row per claim and preset: `preset`, `source`, `claim`, `statement`, `figure`, `paper`, `verdict`
            (holds, fails, inconclusive, not measured), `measured`, and `why` it is open.
    """

    cells: pd.DataFrame
    curves: pd.DataFrame
    readouts: pd.DataFrame
    verdicts: pd.DataFrame


def load(place: str | Path) -> Results:
    """Read all sweeps of a directory of records, such as `results/quick`, or of a directory of runs, such as `runs`.

    Args:
        place: a directory with cells.parquet, as `loopsweep export` writes it; or a directory of runs with its sweeps
            beside it, whose running and pending cells are in the tables too.

    Raises:
        UserError: if it is neither, or if a table is not what its columns promise.
    """
    directory = Path(place)
    stored = (directory / "cells.parquet").is_file()
    option = "--results" if stored else "--runs"
    sweeps = dict(_stored_sweeps(directory) if stored else _local_sweeps(directory))
    if not sweeps:
        raise UserError(f"{directory} has no cells.parquet and no runs of a sweep; give results/quick or runs")
    cells = pd.concat([_cells(option, directory, *sweep) for sweep in sweeps.items()], ignore_index=True)
    args = _options(option, directory)
    return Results(
        cells,
        _if_there("curves", sources.load_curves, args, cells),
        _if_there("readouts", sources.load_readouts, args, cells),
        _verdicts(directory, stored=stored),
    )


def _stored_sweeps(directory: Path) -> Iterator[tuple[str, str]]:
    cells = pd.read_parquet(directory / "cells.parquet", columns=["sweep", "experiment"]).drop_duplicates()
    yield from zip(cells["sweep"], cells["experiment"], strict=True)


def _local_sweeps(directory: Path) -> Iterator[tuple[str, str]]:
    if directory.is_dir():
        yield from ((sweep.name, sweep.experiment) for sweep in sources.local_sweeps(directory))


def _cells(option: str, directory: Path, sweep: str, experiment: str) -> pd.DataFrame:
    known = experiment if experiment in figures.EXPERIMENTS else "lr_transfer"  # whatever trains is read as Figure 5's
    return sources.load_cells(_options(option, directory, "--sweep", sweep), known, "loopsweep submit")


def _options(option: str, directory: Path, *more: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    sources.add_arguments(parser)
    return parser.parse_args([option, str(directory), *more])


def _if_there(name: str, read: Read, args: argparse.Namespace, cells: pd.DataFrame) -> pd.DataFrame:
    """A table of records; an empty one where an earlier version did not export it."""
    if args.results is not None and not (args.results / f"{name}.parquet").is_file():
        return pd.DataFrame({"run_id": []})
    return read(args, cells)


def _verdicts(directory: Path, *, stored: bool) -> pd.DataFrame:
    found = find_records(None, directory) if stored else find_records(directory, directory)
    rows = [
        (
            records.preset,
            claim.source.title,
            claim.id,
            claim.statement,
            claim.figure,
            claim.paper,
            str(finding.verdict),
            finding.measured,
            finding.why,
        )
        for records in found
        for claim, finding in assess(records)
    ]
    return pd.DataFrame(rows, columns=list(VERDICT_COLUMNS))
