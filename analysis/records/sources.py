"""The sources of a figure's numbers: run directories of this machine, the parquet of a stored result, or wandb.

All give the same tidy table, one row per cell of the grid (panel x N x base rate x seed), finished or not.
This is the only module of `analysis` that touches `sweeper`.
"""

import argparse
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from sweeper.errors import UserError
from sweeper.run.spec import kind_of

if TYPE_CHECKING:
    from sweeper.tracking.tables import MirroredSweep

STATES = ("pending", "running", "done", "diverged", "failed", "timeout", "preempted", "lost")
FORMATS = ("pdf", "png")  # by default; the report also asks for SVG
ALL_FORMATS = (*FORMATS, "svg")
CELL_KEY = ["panel", "rule", "n_layers", "n_loops", "base_lr", "seed"]
COLUMN_TYPES = {
    "sweep": "str",
    "experiment": "str",
    "preset": "str",
    "panel": "str",
    "rule": "str",
    "n_layers": "int64",
    "ref_layers": "int64",
    "depth_multiplier": "float64",
    "n_loops": "int64",
    "base_lr": "float64",
    "seed": "int64",
    "run_id": "str",
    "state": "str",
    "val_loss": "float64",
    "step": "int64",
    "steps": "int64",
    "reason": "str",
}
OPTIONAL_TYPES = {"d_model": "int64"}  # older sweeps have none


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options every figure shares: what to read, where to write, in which formats."""
    add = parser.add_mutually_exclusive_group().add_argument
    add("--runs", type=Path, default=Path("runs"), metavar="DIR", help="run directories (default: runs)")
    add(
        "--results",
        type=Path,
        metavar="DIR|FILE",
        help="stored results: results/<name>, or its cells.parquet",
    )
    add("--wandb", metavar="ENTITY/PROJECT[:GROUP]", help="a wandb server")
    add("--wandb-dir", type=Path, metavar="DIR", help="wandb's offline files, such as wandb/")
    add = parser.add_argument
    add("--sweeps", type=Path, metavar="DIR", help="sweep manifests (default: sweeps/ beside --runs)")
    add("--sweep", metavar="NAME", help="which sweep (default: the newest of this figure's experiment)")
    add("--out", type=Path, default=Path("figures"), metavar="DIR", help="where to write (default: figures)")
    log_help = "log the figure to its sweep on a wandb server; without a name to offline files in wandb/"
    add("--log-wandb", nargs="?", const="", metavar="ENTITY/PROJECT", help=log_help)
    formats_help = "comma list of pdf, png, svg (default: pdf,png); the CSV is always written"
    add("--format", type=parse_formats, default=FORMATS, metavar="LIST", dest="formats", help=formats_help)


def reads_runs(args: argparse.Namespace) -> bool:
    """True if the numbers come from run directories, so that this machine can continue the sweep."""
    return args.results is None and args.wandb is None and args.wandb_dir is None


def log_figure(args: argparse.Namespace, cells: pd.DataFrame, files: Iterable[Path]) -> None:
    """With `--log-wandb`, log the figure to wandb. `files` are those that were written."""
    if args.log_wandb is None:
        return
    images = {file.stem: file for file in files if file.suffix == ".png"}
    if not images:
        raise UserError("--log-wandb: wandb shows PNG; leave png in --format")
    from sweeper.tracking.figures import log_figures

    def warn(message: str) -> None:
        print(f"warning: {message}", file=sys.stderr)

    log_figures(str(cells["sweep"].iloc[0]), args.log_wandb, images, args.runs.parent, warn)


def parse_formats(text: str) -> tuple[str, ...]:
    """`"png,pdf"` → `("pdf", "png")`. Raises `UserError` for any other format."""
    asked = {part.strip() for part in text.split(",")}
    if unknown := sorted(asked - set(ALL_FORMATS)):
        raise UserError(f"--format: {unknown[0]!r} is not one of {', '.join(ALL_FORMATS)}")
    return tuple(name for name in ALL_FORMATS if name in asked)


def load_cells(args: argparse.Namespace, experiment: str, make_command: str) -> pd.DataFrame:
    """Read the cells of one sweep of `experiment`, ordered by panel, N, base rate, seed.

    `args` holds the options of `add_arguments`; `make_command` is in the error for a missing sweep.
    Columns and their types are `COLUMN_TYPES`; `val_loss` is in nats per token, NaN where there is none.
    Raises `UserError` where the sweep is missing or its table is not what the columns promise.
    """
    if args.results is not None:
        return validated(_stored_cells(args.results, args.sweep, experiment), experiment)
    if (mirrored := _mirrored(args, args.sweep, experiment)) is not None:
        return validated(mirrored.cells(), experiment)
    sweeps = args.sweeps if args.sweeps is not None else args.runs.parent / "sweeps"
    # Imported here, so that stored results are drawn without the rest of the sweeper.
    from sweeper.records.status import latest_sweep, sweep_table

    if args.sweep is not None:
        manifest = sweeps / f"{args.sweep}.json"
        if not manifest.is_file():
            known = ", ".join(sorted(path.stem for path in sweeps.glob("*.json"))) or f"none; `{make_command}`"
            raise UserError(f"--sweep: no sweep {args.sweep!r} in {sweeps}; known: {known}")
    else:
        manifest = latest_sweep(sweeps, experiment) if sweeps.is_dir() else None
        if manifest is None:
            raise UserError(f"no {experiment} sweep in {sweeps}: start one with `{make_command}`")
    return validated(sweep_table(manifest, args.runs), experiment)


def load_curves(args: argparse.Namespace, cells: pd.DataFrame) -> pd.DataFrame:
    """Metrics of the cells' runs: run_id, step, and a column a metric (`sweeper.records.export`)."""
    if args.results is not None:
        return _stored_table(args.results, "curves", cells)
    if (mirrored := _mirrored(args, str(cells["sweep"].iloc[0]))) is not None:
        return mirrored.curves()
    from sweeper.records.export import curves_table

    return curves_table(args.runs, list(cells["run_id"].unique()))


def load_readouts(args: argparse.Namespace, cells: pd.DataFrame) -> pd.DataFrame:
    """Read-outs of the cells' runs: run_id, readout, i, j, mean, std (`sweeper.records.export`)."""
    if args.results is not None:
        return _stored_table(args.results, "readouts", cells)
    if (mirrored := _mirrored(args, str(cells["sweep"].iloc[0]))) is not None:
        return mirrored.readouts()
    from sweeper.records.export import readouts_table

    return readouts_table(args.runs, list(cells["run_id"].unique()))


def _mirrored(args: argparse.Namespace, sweep: str | None, experiment: str | None = None) -> "MirroredSweep | None":
    """The sweep in wandb, or None with options that read from elsewhere."""
    if args.wandb is None and args.wandb_dir is None:
        return None
    from sweeper.tracking.tables import from_place

    return from_place(args.wandb, args.wandb_dir, sweep, experiment)


def _stored_table(results: Path, name: str, cells: pd.DataFrame) -> pd.DataFrame:
    directory = results.parent if results.is_file() else results
    file = directory / f"{name}.parquet"
    if not file.is_file():
        raise UserError(f"--results: no {file}; `loopsweep export SWEEP --out {directory}` writes it")
    table = pd.read_parquet(file)
    return table[table["run_id"].isin(cells["run_id"])].reset_index(drop=True)


@dataclass(frozen=True)
class LocalSweep:
    """A sweep of this machine, with `provenance` as in a results directory's provenance.json."""

    name: str
    experiment: str
    preset: str
    provenance: dict[str, Any]


def local_sweeps(runs: Path) -> list[LocalSweep]:
    """The sweeps beside directory `runs`, in order of submission."""
    from sweeper.records.export import describe, finished_results
    from sweeper.records.sweep_manifest import Sweep, manifests

    found = []
    for sweep in map(Sweep.load, manifests(runs.parent / "sweeps")):
        provenance = describe(sweep, finished_results(sweep, runs), sweep.command)
        found.append(LocalSweep(sweep.name, sweep.experiment, sweep.preset, provenance))
    return found


def _stored_cells(results: Path, name: str | None, experiment: str) -> pd.DataFrame:
    """The cells in `results`, a parquet file or a directory with one. With `name`, only those of that sweep."""
    file = results if results.is_file() else results / "cells.parquet"
    if not file.is_file():
        known = ", ".join(sorted(str(found.parent) for found in results.glob("*/cells.parquet"))) or "none"
        raise UserError(f"--results: no {file}; give a cells.parquet or its directory (known: {known})")
    try:
        cells = pd.read_parquet(file)
    except (ValueError, OSError) as error:
        raise UserError(f"--results: cannot read {file} as parquet ({_first_line(error)})") from error
    column, wanted = ("experiment", experiment) if name is None else ("sweep", name)
    if column in cells:
        cells = cells[cells[column] == wanted]
        if cells.empty:
            raise UserError(f"--results: no {column} {wanted!r} in {file}; choose another file or --sweep")
    return cells


def validated(cells: pd.DataFrame, experiment: str) -> pd.DataFrame:
    """Check and order a cell table: columns, types, one sweep of `experiment`, known states, no cell twice.

    Raises `UserError` naming the first thing that is wrong.
    """
    if absent := [name for name in COLUMN_TYPES if name not in cells]:
        raise UserError(f"cell table: missing column {', '.join(absent)}; expected {', '.join(COLUMN_TYPES)}")
    if cells.empty:
        raise UserError(f"cell table: no cell of a {experiment} sweep in it")
    try:
        known = {name: kind for name, kind in OPTIONAL_TYPES.items() if name in cells and cells[name].notna().all()}
        types = COLUMN_TYPES | known
        cells = cells[list(types)].astype(types)
    except (ValueError, TypeError) as error:
        raise UserError(f"cell table: a column has the wrong type ({_first_line(error)})") from error
    if other := sorted(set(cells["experiment"]) - {experiment}):
        raise UserError(f"--sweep: a sweep of {other[0]}, but this figure draws {experiment}; choose another")
    if len(sweeps := sorted(set(cells["sweep"]))) > 1:
        raise UserError(f"cell table: several sweeps ({', '.join(sweeps)}); choose one with --sweep NAME")
    if unknown := sorted(set(cells["state"]) - set(STATES)):
        raise UserError(f"cell table: state {', '.join(unknown)} is not one of {', '.join(STATES)}")
    if not (cells["base_lr"] > 0).all():
        raise UserError("cell table: a base_lr is not positive; rates are drawn on a log axis")
    _refuse_rows(cells, cells.duplicated(CELL_KEY), "appears twice; each cell stands once")
    measured = cells["run_id"].map(lambda run_id: kind_of(run_id).has_val_loss)
    _refuse_rows(cells, measured & (cells["state"] == "done") & cells["val_loss"].isna(), "is done but has no val_loss")
    return cells.sort_values(CELL_KEY, ignore_index=True)


def _refuse_rows(cells: pd.DataFrame, wrong: "pd.Series[bool]", why: str) -> None:
    if wrong.any():
        panel, rule, n_layers, n_loops, rate, seed = cells.loc[wrong, CELL_KEY].iloc[0]
        cell = f"panel {panel}, {rule}, L = {n_layers}, N = {n_loops}, base_lr = {rate:g}, seed {seed}"
        raise UserError(f"cell table: {cell} {why}")


def _first_line(error: BaseException) -> str:
    return str(error).split("\n", 1)[0]
