"""Figure 3: do the increments of a looped stack point the same way, and those of independent copies not?

    python analysis/plot_fig3.py [options: see --help]

Cosine similarity of the increments of the residual stream, one increment each time the stack is applied, without
residual scaling, after ten AdamW steps. (a) 64 independent copies of a stack of 12 layers. (b) One stack looped 64
times. fig3.csv has the matrices, means over tokens and seeds. fig3-range.csv has the range of each off the diagonal.
"""

import argparse
from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.figure import Figure
from rich.console import Console

from analysis.plotting import cosines, panels, script, states, style
from analysis.records import sources

SCRIPT = script.Script("fig3", __doc__, lays_out=("panel", "seed"))
PANELS = ("fig3a", "fig3b")
FRAME = panels.Frame(left=0.5, right=0.8, top=0.48, bottom=0.62, between_columns=0.62)

Matrices = Mapping[str, cosines.Matrix | None]


def main(argv: Sequence[str] | None = None) -> int:
    """Draw the figure, write its files, print the ranges. Exit status 0, or 2 on a `UserError`."""
    return script.run(SCRIPT, make, argv)


def make(args: argparse.Namespace, cells: pd.DataFrame) -> script.Drawing:
    """The figure of a sweep's cells, with its numbers."""
    cells = cells[cells["panel"].isin(PANELS)]
    readouts = sources.load_readouts(args, cells)
    matrices = {panel: cosines.mean_matrix(readouts, cells[cells["panel"] == panel]) for panel in PANELS}
    ranges = range_table(cells, matrices)
    long = [cosines.long_table(matrix).assign(panel=panel) for panel, matrix in matrices.items()]
    tables = {"fig3": pd.concat(long, ignore_index=True), "fig3-range": ranges}
    return script.Drawing(draw(cells, matrices, ranges), tables, lambda console: print_ranges(ranges, console))


def range_table(cells: pd.DataFrame, matrices: Matrices) -> pd.DataFrame:
    """A row per panel: its model, and low, high and mean of the cosines off the diagonal."""
    rows = []
    for panel, of_panel in cells.groupby("panel", sort=True):
        first, matrix = of_panel.iloc[0], matrices[str(panel)]
        shape = {name: int(first[name]) for name in ("n_layers", "n_loops", "d_model") if name in first}
        found = cosines.off_diagonal(matrix)
        row = {"panel": panel, "state": first["state"], "increments": 0 if matrix is None else len(matrix)}
        rows.append(row | shape | {"low": found.low, "high": found.high, "mean": found.mean})
    return pd.DataFrame(rows)


def draw(cells: pd.DataFrame, matrices: Matrices, ranges: pd.DataFrame) -> Figure:
    """The figure: independent copies beside the loop, on one colour scale."""
    figure, grid = panels.panels(1, 2, 2.54, FRAME)
    for axes, panel in zip(grid[0], PANELS, strict=True):
        matrix = matrices[panel]
        if matrix is None:
            states.say(axes, cells.loc[cells["panel"] == panel, "state"])
            axes.set(xticks=[], yticks=[])
        else:
            cosines.draw_matrix(axes, matrix, pd.DataFrame({"panel": [panel]}))
        axes.set_title(f"({panel[-1]}) {title(ranges[ranges['panel'] == panel])}", loc="left")
        axes.set_xlabel("increment $j$")
        axes.set_ylabel("increment $i$")
    cosines.add_bar(figure, panels.side_axes(figure, grid[0, -1]))
    style.add_footer(figure, script.footer(cells, notes=[note] if (note := width_note(ranges)) else []))
    return figure


def title(of_panel: pd.DataFrame) -> str:
    """The model and its width, and on a second line the range off the diagonal."""
    if of_panel.empty:
        return "not in this sweep"
    row = of_panel.iloc[0]
    width = f", $d={row['d_model']}$" if "d_model" in row else ""
    if row["n_loops"] > 1:
        what = f"$L={row['n_layers']}$ looped $N={row['n_loops']}$ times{width}"
    elif row["increments"]:
        what = f"{row['increments']} copies of $L={row['n_layers'] // row['increments']}$ layers{width}"
    else:
        what = f"independent copies, {row['n_layers']} layers in all{width}"
    return f"{what}\n{range_text(row)}" if row["increments"] else what


def range_text(row: "pd.Series[float]") -> str:
    """The range and mean of the cosines off the diagonal."""
    low, high, mean = (f"{round(row[name], 3) + 0.0:.3f}".replace("-", "−") for name in ("low", "high", "mean"))
    return f"off-diagonal {low} … {high}, mean {mean}"


def width_note(ranges: pd.DataFrame) -> str:
    """A note for panels that differ in width. Those of the paper do not."""
    if "d_model" not in ranges or ranges["d_model"].nunique() < 2:
        return ""
    widths = " and ".join(f"$d={row['d_model']}$ in ({row['panel'][-1]})" for row in ranges.to_dict("records"))
    return f"widths differ: {widths}"


def print_ranges(ranges: pd.DataFrame, console: Console) -> None:
    """Print a line per panel."""
    for row in ranges.to_dict("records"):
        found = range_text(pd.Series(row)) if row["increments"] else f"no cosines yet ({row['state']})"
        shape = f"L = {row['n_layers']}, N = {row['n_loops']}, d = {row.get('d_model', '?')}"
        console.print(f"{row['panel']} ({shape}): {found}")


if __name__ == "__main__":
    script.leave(main())
