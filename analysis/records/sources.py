"""The sources of a figure's numbers: run directories of this machine, the parquet of a stored result, or wandb.

All give the same tidy table, one row per cell of the grid (panel x N x base rate x seed), finished or not.
"""

import argparse
import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from analysis import figures
from analysis.records import cell_axes
from analysis.records.several import together
from sweeper.errors import UserError
from sweeper.records.axes import PLAIN, as_text
from sweeper.run.spec import kind_of

if TYPE_CHECKING:
    from sweeper.records.sweep_manifest import Sweep
    from sweeper.tracking.tables import MirroredSweep

STATES = ("pending", "running", "done", "diverged", "failed", "timeout", "preempted", "held", "lost")
FORMATS = ("pdf", "png")  # by default; the report asks for SVG and for JSON
ALL_FORMATS = (*FORMATS, "svg", "json")
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
OPTIONAL_TYPES = {"d_model": "int64", "round": "int64"}  # older sweeps have no width, and few sweeps are refined
# Beside the loss: operations of the whole run, seconds of its steps, nats per token, shares of a task's answers. NaN
# where not recorded.
MEASURED_COLUMNS = ("flops", "step_seconds", "unigram_entropy", "val_accuracy", "val_exact_match")


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
    sweep_help = (
        "which sweep: its name, the beginning of it or its id (default: the newest of this figure's experiment)"
    )
    add("--sweep", action="append", metavar="NAME", help=f"{sweep_help}; several times: those sweeps in one figure")
    add("--panels", metavar="a,b", help="draw only these panels of the sweep: short for --where panel=a,b")
    where_help = "draw only the cells with these values: --where panel=b optimizer.weight_decay=0,0.1"
    add("--where", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help=where_help)
    add("--out", type=Path, default=Path("figures"), metavar="DIR", help="where to write (default: figures)")
    log_help = "log the figure to its sweep on a wandb server; without a name to offline files in wandb/"
    add("--log-wandb", nargs="?", const="", metavar="ENTITY/PROJECT", help=log_help)
    formats_help = (
        "comma list of pdf, png, svg, json (default: pdf,png); the CSV is always written. json: where in the SVG each "
        "point is, and which runs it shows"
    )
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
    """Read the cells of one sweep of `experiment` that `--where` selects, ordered by panel, N, base rate, seed.

    `args` holds the options of `add_arguments`; `make_command` is in the error for a missing sweep.
    Columns and their types are `COLUMN_TYPES`, those of `MEASURED_COLUMNS` that are recorded, then the sweep's extra
    axes (`sweeper.records.axes`). In these, null is a text. `val_loss` is in nats per token, NaN if there is none.
    Raises `UserError` where the sweep is missing or its table is not what the columns promise.
    """
    names = list(dict.fromkeys(args.sweep or [None]))
    if len(names) > 1 and (args.wandb or args.wandb_dir):
        raise UserError("--sweep: one sweep at a time can be read from wandb; give one")
    loaded = [_load_one(args, name, experiment, make_command, tell=True) for name in names]
    tables = [validated(cells, experiment, named=args.sweep is not None) for cells, _ in loaded]
    cells = tables[0]
    if len(tables) > 1:
        if args.log_wandb is not None:
            raise UserError("--log-wandb: a figure of several sweeps belongs to none of them; leave it out")
        cells = validated(together(tables, [values for _, values in loaded]), experiment, named=True)
    panels = [] if args.panels is None else [f"panel={args.panels}"]
    return cell_axes.where(cells, [*args.where, *panels])


def shared_values(args: argparse.Namespace, experiment: str, make_command: str) -> dict[str, Any]:
    """The configuration values that all cells of the (first) sweep share, by key; empty if they are not recorded."""
    return _load_one(args, (args.sweep or [None])[0], experiment, make_command)[1]


def _load_one(
    args: argparse.Namespace, name: str | None, experiment: str, make_command: str, *, tell: bool = False
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The cells of a sweep, as they are recorded, and the configuration values that they share, if these are.

    `tell` says in a line if there are other sweeps of the experiment, of which none was named.
    """
    if args.results is not None:
        cells = _stored_cells(args.results, name, experiment, tell=tell)
        described = _parent(args.results) / "provenance.json"
        origins = json.loads(described.read_text()) if described.is_file() else {}
        sweep = str(cells["sweep"].iloc[0]) if len(cells) and "sweep" in cells else ""
        return cells, origins.get(sweep, {}).get("values", {})
    if (mirrored := _mirrored(args, name, experiment)) is not None:
        return mirrored.cells(), mirrored.sweep.base
    return _local_cells(args, name, experiment, make_command)


def _parent(results: Path) -> Path:
    return results.parent if results.is_file() else results


def _local_cells(
    args: argparse.Namespace, name: str | None, experiment: str, make_command: str
) -> tuple[pd.DataFrame, dict[str, Any]]:
    # Imported here, so that stored results are drawn without the rest of the sweeper.
    from sweeper.records.status import latest_sweep, sweep_table
    from sweeper.records.sweep_manifest import Sweep, find, sweeps_beside

    sweeps = args.sweeps if args.sweeps is not None else sweeps_beside(args.runs)
    if name is not None:
        manifest: Path | None = find(sweeps, name, experiment)
    else:
        manifest = latest_sweep(sweeps, experiment) if sweeps.is_dir() else None
    if manifest is None:
        raise UserError(f"no {experiment} sweep in {sweeps}: start one with `{make_command}`")
    cells = sweep_table(manifest, args.runs)
    if not _has_any(args.runs, cells["run_id"]):
        raise UserError(f"--runs {args.runs}: none of the runs of sweep {manifest.stem} is there; give their directory")
    return cells, Sweep.load(manifest).base


def _has_any(runs: Path, run_ids: Iterable[str]) -> bool:
    return any((runs / run_id).is_dir() for run_id in run_ids)


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
    directory = _parent(results)
    file = directory / f"{name}.parquet"
    if not file.is_file():
        raise UserError(f"--results: no {file}; `loopsweep export SWEEP --out {directory}` writes it")
    table = pd.read_parquet(file)
    return table[table["run_id"].isin(cells["run_id"])].reset_index(drop=True)


@dataclass(frozen=True)
class LocalSweep:
    """A sweep of this machine.

    Attributes:
        name, experiment, preset: of its manifest.
        axes: that not every sweep has, see `Sweep.columns`.
        run_ids: of its runs.
        provenance: as in a results directory's provenance.json.
    """

    name: str
    experiment: str
    preset: str
    axes: tuple[str, ...]
    run_ids: tuple[str, ...]
    provenance: dict[str, Any]


def local_sweeps(runs: Path) -> list[LocalSweep]:
    """The sweeps beside directory `runs`, in order of submission. Those of which no run is in `runs` are left out."""
    from sweeper.records.sweep_manifest import Sweep, manifests, sweeps_beside

    found = map(Sweep.load, manifests(sweeps_beside(runs)))
    return [_described(sweep, runs) for sweep in found if _has_any(runs, sweep.run_ids)]


def local_sweep(runs: Path, sweeps: Path | None, name: str) -> LocalSweep:
    """The sweep of this machine that `name` names. Raises `UserError` if there is none."""
    from sweeper.records.sweep_manifest import Sweep, find, sweeps_beside

    return _described(Sweep.load(find(sweeps_beside(runs) if sweeps is None else sweeps, name)), runs)


def _described(sweep: "Sweep", runs: Path) -> LocalSweep:
    from sweeper.records.export import describe, finished_results

    provenance = describe(sweep, finished_results(sweep, runs))
    axes, run_ids = tuple(sweep.columns), tuple(sweep.run_ids)
    return LocalSweep(sweep.name, sweep.experiment, sweep.preset, axes, run_ids, provenance)


def _stored_cells(results: Path, name: str | None, experiment: str, *, tell: bool) -> pd.DataFrame:
    """The cells of the sweep `name` in `results`, a parquet file or a directory with one.

    Without a name they are those of the experiment. With several sweeps of it, they are those of the default one.
    """
    file = results if results.is_file() else results / "cells.parquet"
    if not file.is_file():
        known = ", ".join(sorted(str(found.parent) for found in results.glob("*/cells.parquet"))) or "none"
        raise UserError(f"--results: no {file}; give a cells.parquet or its directory (known: {known})")
    try:
        cells = pd.read_parquet(file)
    except (ValueError, OSError) as error:
        raise UserError(f"--results: cannot read {file} as parquet ({_first_line(error)})") from error
    if name is not None and {"sweep", "experiment"} <= set(cells):
        from sweeper.records.sweep_manifest import meant

        kinds = dict(zip(cells["sweep"], cells["experiment"], strict=True))
        return cells[cells["sweep"] == meant(name, kinds, experiment, f"in {file}")]
    if "experiment" in cells:
        cells = cells[cells["experiment"] == experiment]
        if cells.empty:
            raise UserError(f"--results: no experiment {experiment!r} in {file}; choose another file or --sweep")
        if (default := default_sweep(cells)) is not None:
            others = ", ".join(sorted(set(cells["sweep"]) - {default}))
            if others and tell:
                print(f"{file} also has {others}; --sweep NAME draws it instead of {default}", file=sys.stderr)
            cells = cells[cells["sweep"] == default]
    return cells


def default_sweep(cells: pd.DataFrame) -> str | None:
    """The one sweep of `cells` with no title and no value that was typed beside the grid, if there is one.

    `cells` have columns sweep, experiment and preset.
    """
    plain = cells["sweep"] == cells["experiment"] + "-" + cells["preset"]
    found = cells.loc[plain, "sweep"].unique()
    return str(found[0]) if len(found) == 1 else None


def validated(cells: pd.DataFrame, experiment: str, *, named: bool = False) -> pd.DataFrame:
    """Check and order a cell table: columns, types, one sweep of `experiment`, known states, no cell twice.

    A sweep that was `named` may be of any experiment if its runs are trainings and those of `experiment` are.

    Raises `UserError` naming the first thing that is wrong.
    """
    if absent := [name for name in COLUMN_TYPES if name not in cells]:
        raise UserError(f"cell table: missing column {', '.join(absent)}; expected {', '.join(COLUMN_TYPES)}")
    if cells.empty:
        raise UserError(f"cell table: no cell of a {experiment} sweep in it")
    try:
        known = {name: kind for name, kind in OPTIONAL_TYPES.items() if name in cells and cells[name].notna().all()}
        known |= {name: "float64" for name in MEASURED_COLUMNS if name in cells and cells[name].notna().any()}
        types = COLUMN_TYPES | known
        extras = _extra_columns(cells)
        cells = cells[list(types)].astype(types).assign(**extras)
    except (ValueError, TypeError) as error:
        raise UserError(f"cell table: a column has the wrong type ({_first_line(error)})") from error
    measured = cells["run_id"].map(lambda run_id: kind_of(run_id).has_val_loss)
    any_trained = named and measured.all() and figures.EXPERIMENTS[experiment].group != "init"
    if (other := sorted(set(cells["experiment"]) - {experiment})) and not any_trained:
        raise UserError(f"--sweep: a sweep of {other[0]}, but this figure draws {experiment}; choose another")
    if len(sweeps := sorted(set(cells["sweep"]))) > 1:
        raise UserError(f"cell table: several sweeps ({', '.join(sweeps)}); choose one with --sweep NAME")
    if unknown := sorted(set(cells["state"]) - set(STATES)):
        raise UserError(f"cell table: state {', '.join(unknown)} is not one of {', '.join(STATES)}")
    if not (cells["base_lr"] > 0).all():
        raise UserError("cell table: a base_lr is not positive; rates are drawn on a log axis")
    key = cell_axes.cell_key(cells)
    _refuse_rows(cells, cells.duplicated(key), "appears twice; each cell stands once")
    _refuse_rows(cells, measured & (cells["state"] == "done") & cells["val_loss"].isna(), "is done but has no val_loss")
    return cells.sort_values(key, ignore_index=True)


def _extra_columns(cells: pd.DataFrame) -> "dict[str, pd.Series[Any]]":
    """The extra axes as they are grouped by: numbers, or texts if some value is none. Without those of other sweeps."""
    columns: dict[str, pd.Series[Any]] = {}
    for name in cell_axes.extra_axes(cells):
        column = cells[name]
        if name == "architecture":
            column = column.fillna(PLAIN)
            if (column == PLAIN).all():
                continue
        if column.isna().all():  # of another sweep in the same file
            continue
        numbers = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
        columns[name] = column if numbers and column.notna().all() else column.map(as_text).astype("str")
    return columns


def _refuse_rows(cells: pd.DataFrame, wrong: "pd.Series[bool]", why: str) -> None:
    if wrong.any():
        first = cells.loc[wrong].iloc[0]
        cell = f"panel {first['panel']}, {first['rule']}, L = {first['n_layers']}, N = {first['n_loops']}, "
        more = cell_axes.shown({name: first[name] for name in cell_axes.extra_axes(cells)})
        cell += f"base_lr = {first['base_lr']:g}, seed {first['seed']}" + (f", {more}" if more else "")
        raise UserError(f"cell table: {cell} {why}")


def _first_line(error: BaseException) -> str:
    return str(error).split("\n", 1)[0]
