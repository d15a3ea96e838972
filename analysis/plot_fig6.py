"""Figure 6: after training, do the increments of the loop still point the same way (N = 8)?

    python analysis/plot_fig6.py [options: see --help]

Cosine similarity of the increments δ_n of trained models under the linear rule, a panel per depth, at the preset's base
rate. fig6.csv has the matrices (means over tokens and seeds), fig6-range.csv the range of each.
"""

import argparse
from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.figure import Figure
from rich.console import Console

from analysis.plotting import cosines, panels, script, states, style, trained
from analysis.records import sources
from sweeper.errors import UserError

SCRIPT = script.Script("fig6", __doc__, lays_out=trained.LAYS_OUT)
N_LOOPS = 8
FRAME = panels.Frame(left=0.5, right=0.8, top=0.48, bottom=0.62, between_columns=0.26)


def main(argv: Sequence[str] | None = None) -> int:
    """Draw the figure, write its files, print the ranges. Exit status 0, or 2 on a `UserError`."""
    return script.run(SCRIPT, make, argv, trained.add_rate_option)


def make(args: argparse.Namespace, cells: pd.DataFrame) -> script.Drawing:
    """The figure of a sweep's cells, with its numbers."""
    return make_for(args, cells, "fig6", N_LOOPS)


def make_for(args: argparse.Namespace, cells: pd.DataFrame, name: str, n_loops: int) -> script.Drawing:
    """The figure and its numbers at `n_loops` loops, as files called `name`."""
    chosen = trained.at_rate(cells, args.rate)
    if n_loops not in set(chosen["n_loops"]):
        known = ", ".join(map(str, sorted(set(chosen["n_loops"]))))
        raise UserError(f"no run with N = {n_loops} in sweep {cells['sweep'].iloc[0]}, which has N = {known}")
    chosen = chosen[chosen["n_loops"] == n_loops].sort_values(["n_layers", "seed"])
    readouts = sources.load_readouts(args, chosen)
    matrices = {
        int(str(n_layers)): cosines.mean_matrix(readouts, at_depth) for n_layers, at_depth in chosen.groupby("n_layers")
    }
    long = [cosines.long_table(matrix).assign(n_layers=n_layers) for n_layers, matrix in matrices.items()]
    ranges = range_table(chosen, matrices)
    tables = {name: pd.concat(long, ignore_index=True), f"{name}-range": ranges}
    return script.Drawing(draw(chosen, matrices), tables, lambda console: print_ranges(ranges, console))


def range_table(cells: pd.DataFrame, matrices: Mapping[int, cosines.Matrix | None]) -> pd.DataFrame:
    """A row per depth: low, high and mean off the diagonal, for all increments and for all but the last."""
    rows = []
    for n_layers, matrix in matrices.items():
        first = cells[cells["n_layers"] == n_layers].iloc[0]
        row = {name: first[name] for name in ("panel", "n_layers", "n_loops", "base_lr", "state")}
        for end, part in (("", matrix), ("_before_last", None if matrix is None else matrix[:-1, :-1])):
            found = cosines.off_diagonal(part)
            row |= {f"low{end}": found.low, f"high{end}": found.high, f"mean{end}": found.mean}
        rows.append(row)
    return pd.DataFrame(rows)


def draw(cells: pd.DataFrame, matrices: Mapping[int, cosines.Matrix | None]) -> Figure:
    """The figure: a heat map per depth, on one colour scale."""
    size = (style.TEXT_WIDTH - FRAME.left - FRAME.right - (len(matrices) - 1) * FRAME.between_columns) / len(matrices)
    figure, grid = panels.panels(1, len(matrices), min(size, 2.6), FRAME)
    for axes, (n_layers, matrix) in zip(grid[0], matrices.items(), strict=True):
        at_depth = cells[cells["n_layers"] == n_layers]
        if matrix is None:
            states.say(axes, at_depth["state"], otherwise="no read-outs in these runs")
            axes.set(xticks=[], yticks=[])
        else:
            cosines.draw_matrix(axes, matrix, at_depth[["panel", "n_layers", "n_loops", "base_lr"]])
        first = at_depth.iloc[0]
        depth = panels.depth_text(first["n_layers"], first["depth_multiplier"])
        axes.set_title(f"{depth}\n$N={first['n_loops']}$, {trained.rate_text(at_depth)}", loc="left")
        axes.set_xlabel("increment $j$")
    grid[0, 0].set_ylabel("increment $i$")
    cosines.add_bar(figure, panels.side_axes(figure, grid[0, -1]))
    style.add_footer(figure, script.footer(cells))
    return figure


def print_ranges(ranges: pd.DataFrame, console: Console) -> None:
    """Print a line per depth."""
    for row in ranges.to_dict("records"):
        whole, before = (
            f"{row[f'low{end}']:.3f} … {row[f'high{end}']:.3f}, mean {row[f'mean{end}']:.3f}"
            for end in ("", "_before_last")
        )
        known = row["mean"] == row["mean"]
        found = f"off-diagonal {whole}; without the last increment {before}" if known else f"none ({row['state']})"
        console.print(f"L = {row['n_layers']}, N = {row['n_loops']}, η0 = {row['base_lr']:g}: {found}")


if __name__ == "__main__":
    script.leave(main())
