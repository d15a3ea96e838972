"""The course of any runs of a sweep: loss, gradient norm, rate and norms over steps, tokens or FLOPs.

    python analysis/plot_curves.py [--y loss,val_loss,grad_norm,base_lr,norm] [--x step|tokens|flops] [--color AXIS]
                                   [--sweep NAME] [--where n_loops=8 …] [--panels a,b] [options: see --help]

A row per quantity, a column per panel of the sweep, a line per run. Runs that are still going are drawn as far as they
are. `norm` is the stream's norm after the last loop step, which runs with diagnostics record. curves.csv has the lines.
"""

import argparse
import math
import sys
from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.plotting import marks, panels, script, style, trained
from analysis.records import sources
from sweeper.errors import UserError
from sweeper.files import check_writable
from sweeper.records.axes import as_text, ordered

EXPERIMENT = "lr_transfer"  # the newest sweep of it is drawn unless one is named
QUANTITIES = {
    "loss": "training loss\n(nats/token)",
    "val_loss": "validation loss\n(nats/token)",
    "grad_norm": "gradient norm",
    "base_lr": "base rate",
    "norm": "stream norm,\nlast loop",
    "residual_rms": "$R$",
    "update_rms": "change in a step",
}
DEFAULT = ("loss", "grad_norm", "base_lr")
LOGARITHMIC = ("grad_norm", "norm", "residual_rms", "update_rms")
X = {"step": "optimizer step", "tokens": "tokens", "flops": "FLOPs"}
COLORS = ("base_lr", "n_loops", "seed")  # the first that varies is coloured, unless --color says otherwise
MAX_COLUMNS, MAX_COLORS = 4, 12
POINTED = 20  # points of a line that can be pointed at in the report
LINE: style.Look = {"linewidth": 0.9, "alpha": 0.85}


def main(argv: Sequence[str] | None = None) -> int:
    """Draw the curves and write their files. Exit status 0, or 2 on a `UserError`."""
    parser = argparse.ArgumentParser(prog="plot_curves.py", description=(__doc__ or "").split("\n", 1)[0])
    sources.add_arguments(parser)
    quantities = ", ".join(QUANTITIES)
    parser.add_argument("--y", metavar="LIST", help=f"of {quantities} (default: loss, grad_norm, base_lr)")
    parser.add_argument("--x", choices=list(X), default="step", help="along the x axis (default: step)")
    parser.add_argument("--color", metavar="AXIS", help="which axis the colours show, such as n_loops")
    parser.add_argument("--run", metavar="TEXT", help="only runs with this in their id")
    try:
        args = parser.parse_args(argv)
        check_writable(f"--out {args.out}", args.out)
        cells = sources.load_cells(args, EXPERIMENT, "make sweep-lr-transfer")
        cells = _chosen(cells, args.run)
        lines = course(args, cells)
        shown = _quantities(lines, args.y)
        with style.context():
            figure = draw(cells, lines, shown, args.x, _axis(cells, args.color))
            recorded = marks.record(figure, cells)
            files = style.save(figure, args.out, "curves", [one for one in args.formats if one != "json"])
        files += [style.save_json(recorded, args.out, "curves")] if "json" in args.formats else []
        files.append(style.save_csv(lines, args.out, "curves"))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    going = int((cells.drop_duplicates("run_id")["state"] == "running").sum())
    print(f"{lines['run_id'].nunique()} runs, {going} of them running; wrote {', '.join(map(str, files))}")
    return 0


def _chosen(cells: pd.DataFrame, run: str | None) -> pd.DataFrame:
    found = cells if run is None else cells[cells["run_id"].str.contains(run, regex=False)]
    if found.empty:
        raise UserError(
            f"--run {run}: no run of {cells['sweep'].iloc[0]} has that in its id; `loopsweep status` lists them"
        )
    return found


def course(args: argparse.Namespace, cells: pd.DataFrame) -> pd.DataFrame:
    """A row per run and recorded step: its cell's axes, `step`, `tokens`, `flops` (both so far), and every quantity.

    NaN where a quantity was not recorded at a step. Raises `UserError` if no run has recorded anything.
    """
    curves = sources.load_curves(args, cells)
    if curves.empty:
        raise UserError(f"no run of {cells['sweep'].iloc[0]} has recorded a step yet; draw it a little later")
    axes = [name for name in cells if name not in ("val_loss", "step", "reason", *sources.MEASURED_COLUMNS)]
    flops: pd.Series[float] | float = cells.get("flops", math.nan)
    per_step = cells[axes].assign(flops_a_step=flops / cells["steps"])
    per_step = per_step.rename(columns={"base_lr": "peak_lr"}).drop_duplicates(["run_id", "panel"])
    lines = per_step.merge(curves, on="run_id", how="inner")
    norms = pd.Series(math.nan, index=lines.index)
    for n in set(lines["n_loops"]):
        if f"stream_norm_{n}" in lines:
            norms = norms.mask(lines["n_loops"] == n, lines[f"stream_norm_{n}"])
    values = sources.shared_values(args, EXPERIMENT, "make sweep-lr-transfer")
    tokens = trained.tokens_a_step(str(cells["preset"].iloc[0]), values)
    lines = lines.assign(norm=norms, tokens=lines["step"] * tokens, flops=lines["step"] * lines["flops_a_step"])
    kept = [name for name in lines if not str(name).startswith(("stream_", "flops_a"))]
    return lines[kept].sort_values(["run_id", "step"], ignore_index=True)


def _quantities(lines: pd.DataFrame, option: str | None) -> list[str]:
    recorded = [name for name in QUANTITIES if name in lines and lines[name].notna().any()]
    if option is None:
        return [name for name in recorded if name in DEFAULT] or recorded
    wanted = [name.strip() for name in option.split(",")]
    if absent := [name for name in wanted if name not in recorded]:
        raise UserError(f"--y {absent[0]}: these runs have not recorded it; they have {', '.join(recorded)}")
    return wanted


def _axis(cells: pd.DataFrame, option: str | None) -> str:
    """The axis that the colours show."""
    if option is not None and option not in cells:
        raise UserError(f"--color {option}: no axis of these cells; try {', '.join(COLORS)}")
    return option or next((name for name in COLORS if cells[name].nunique() > 1), COLORS[0])


def draw(cells: pd.DataFrame, lines: pd.DataFrame, shown: Sequence[str], x: str, color: str) -> Figure:
    """The figure: a row per quantity, a column per panel of the sweep."""
    if lines[x].isna().all():
        raise UserError(f"--x {x}: not known for these runs; use --x step")
    names = ordered(cells["panel"])
    if len(names) > MAX_COLUMNS:
        raise UserError(f"{len(names)} panels, at most {MAX_COLUMNS} fit; choose with --panels {names[0]},{names[1]}")
    values = ordered(cells[color])
    if len(values) > MAX_COLORS:
        raise UserError(f"{len(values)} values of {color}, at most {MAX_COLORS} can be told apart; choose with --where")
    colors = dict(zip(map(as_text, values), style.ordered_colors(range(len(values))).values(), strict=True))
    frame = panels.Frame(left=0.72, top=0.56, between_rows=0.18)
    figure, grid = panels.panels(len(shown), len(names), 1.5, frame, sharey="row")
    key = "peak_lr" if color == "base_lr" else color
    for row, quantity in zip(grid, shown, strict=True):
        for axes, panel in zip(row, names, strict=True):
            _draw_panel(axes, lines[lines["panel"] == panel], quantity, x, key, colors)
        row[0].set_ylabel(QUANTITIES[quantity])
        if quantity in LOGARITHMIC:
            row[0].set_yscale("log")
            panels.log_ticks(row[0], has_data=bool(lines[quantity].notna().any()))
    for axes, panel in zip(grid[0], names, strict=True):
        first = cells[cells["panel"] == panel].iloc[0]
        axes.set_title(f"({panel}) {first['rule']}, $L={first['n_layers']}$", loc="left")
    for number, row in enumerate(grid, start=1):
        for axes in row:
            axes.tick_params(labelbottom=number == len(grid))
    for axes in grid[-1]:
        axes.set_xlabel(X[x])
    name = marks.NAMES.get(color, color)
    keys = [Line2D([], [], color=tone, label=f"{name} = {value}") for value, tone in colors.items()]
    figure.legend(handles=keys, loc="upper center", ncols=min(len(keys), 6))
    style.add_footer(figure, script.footer(cells))
    return figure


def _draw_panel(axes: Axes, lines: pd.DataFrame, quantity: str, x: str, key: str, colors: dict[str, str]) -> None:
    known = lines[lines[quantity].notna()]
    for _, line in known.groupby("run_id", sort=False):
        marker = "o" if len(line) < 3 else None  # validations are few
        color = colors[as_text(line[key].iloc[0])]
        drawn = axes.plot(line[x], line[quantity], color=color, marker=marker, markersize=2.5, **LINE)
        line = line.iloc[:: max(1, len(line) // POINTED)]
        marks.add(
            drawn,
            line.rename(columns={"peak_lr": "base_lr", "base_lr": "rate"}),
            line[x],
            line[quantity],
            name=quantity,
        )
    if known.empty:
        axes.text(0.5, 0.5, "nothing yet", transform=axes.transAxes, ha="center", color=style.MUTED)


if __name__ == "__main__":
    script.leave(main())
