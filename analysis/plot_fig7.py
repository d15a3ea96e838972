"""Figure 7: after training, does the residual stream end at the same norm whatever N?

    python analysis/plot_fig7.py [options: see --help]

L2 norm of the residual stream, mean over tokens, after loop step 0 (the embedding) … N under the linear rule, a panel
per depth and a line per N > 1, at the preset's base rate. The band is ± SEM over seeds. fig7.csv has the trajectory of
every run, fig7-final.csv the final norms.
"""

import argparse
from collections.abc import Sequence

import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from rich.console import Console

from analysis.plotting import marks, panels, script, states, style, trained
from analysis.records import sources
from analysis.stats.growth import fold_range

SCRIPT = script.Script("fig7", __doc__, lays_out=trained.LAYS_OUT)
FRAME = panels.Frame(top=0.56)
COLUMNS = ["panel", "n_layers", "depth_multiplier", "n_loops", "base_lr", "seed", "state", "run_id"]
SMALL: style.Look = {"ha": "right", "va": "bottom", "fontsize": 7.0, "color": style.MUTED}


def main(argv: Sequence[str] | None = None) -> int:
    """Draw the figure, write its files, print the final norms. Exit status 0, or 2 on a `UserError`."""
    return script.run(SCRIPT, make, argv, trained.add_rate_option)


def make(args: argparse.Namespace, cells: pd.DataFrame) -> script.Drawing:
    """The figure of a sweep's cells, with its numbers."""
    chosen = trained.at_rate(cells, args.rate)
    chosen = chosen[chosen["n_loops"] > 1]
    norms = trajectories(chosen, sources.load_readouts(args, chosen))
    final = final_norms(norms)
    figure = draw(chosen, norms)
    return script.Drawing(figure, {"fig7": norms, "fig7-final": final}, lambda console: print_final(final, console))


def trajectories(cells: pd.DataFrame, readouts: pd.DataFrame) -> pd.DataFrame:
    """A row per run and loop step: mean `norm` over tokens and its `norm_std`. One row of NaN for a run without any."""
    rows = readouts[readouts["readout"] == "residual_norm"].rename(
        columns={"i": "loop_step", "mean": "norm", "std": "norm_std"}
    )
    done = cells["run_id"].where(cells["state"] == "done")
    columns = ["run_id", "loop_step", "norm", "norm_std"]
    table = cells[COLUMNS].merge(rows.loc[rows["run_id"].isin(done), columns], on="run_id", how="left")
    return table.astype({"loop_step": "Int64"}).sort_values([*COLUMNS[:-2], "loop_step"], ignore_index=True)


def final_norms(norms: pd.DataFrame) -> pd.DataFrame:
    """A row per depth and N: the norm after loop step N, mean over seeds. `fold_range` is its max/min at that depth."""
    last = norms["norm"].where(norms["loop_step"] == norms["n_loops"])
    grouped = norms.assign(final_norm=last).groupby(["panel", "n_layers", "n_loops"])
    table = grouped["final_norm"].mean().reset_index()
    table["fold_range"] = table.groupby("n_layers")["final_norm"].transform(fold_range)
    return table


def draw(cells: pd.DataFrame, norms: pd.DataFrame) -> Figure:
    """The figure: a panel per depth, all with the same norm axis."""
    depths = sorted(set(cells["n_layers"]))
    colors = style.loop_colors(sorted(set(cells["n_loops"])))
    figure, grid = panels.panels(1, len(depths), 2.0, FRAME, sharey=True)
    finals = final_norms(norms)
    for axes, n_layers in zip(grid[0], depths, strict=True):
        at_depth = cells[cells["n_layers"] == n_layers]
        _draw_panel(axes, norms[norms["n_layers"] == n_layers], colors)
        ratio = finals.loc[finals["n_layers"] == n_layers, "fold_range"].iloc[0]
        ends = f"\nfinal norms within {ratio:.3g}×" if ratio == ratio else ""
        depth = panels.depth_text(n_layers, at_depth["depth_multiplier"].iloc[0])
        axes.set_title(f"{depth}{ends}", loc="left")
        axes.set_xlabel("loop step $n$")
        axes.set_xlim(-0.04 * max(colors), 1.04 * max(colors))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        missing = at_depth.loc[at_depth["state"] != "done", "state"]
        if norms.loc[norms["n_layers"] == n_layers, "norm"].isna().all():
            states.say(axes, missing, otherwise="no read-outs in these runs")
        elif len(missing):
            axes.text(0.97, 0.03, states.count_text(missing), transform=axes.transAxes, **SMALL)
    grid[0, 0].set_ylabel(r"$\Vert h_n\Vert_2$, mean over tokens")
    keys = [Line2D([], [], color=colors[n], marker=style.loop_marker(n), label=f"$N={n}$") for n in colors]
    figure.legend(handles=keys, loc="upper center", ncols=len(keys))
    style.add_footer(figure, script.footer(cells, notes=[trained.rate_text(cells)]))
    return figure


def _draw_panel(axes: Axes, norms: pd.DataFrame, colors: dict[int, str]) -> None:
    for n in sorted(set(norms["n_loops"]), reverse=True):
        curve = norms[norms["n_loops"] == n].dropna(subset="loop_step").groupby("loop_step")["norm"]
        mean, error = curve.mean(), curve.sem().fillna(0.0)
        steps = mean.index.to_numpy(dtype=float)
        drawn = list[Artist](axes.plot(steps, mean, color=colors[n], marker=style.loop_marker(n)))
        drawn.append(axes.fill_between(steps, mean - error, mean + error, color=colors[n], alpha=0.2, linewidth=0))
        of = norms.loc[norms["n_loops"] == n, ["panel", "n_layers", "n_loops", "base_lr"]]
        marks.add(drawn, of.iloc[[0] * len(steps)], steps, mean, name="norm after a loop step")


def print_final(final: pd.DataFrame, console: Console) -> None:
    """Print a line per depth."""
    for n_layers, table in final.groupby("n_layers"):
        norms = ", ".join(f"{row.final_norm:.3g} at N = {row.n_loops}" for row in table.itertuples())
        ratio = table["fold_range"].iloc[0]
        console.print(f"L = {n_layers}: final norm {norms}; max/min {ratio:.3g}".replace("nan", "-"))


if __name__ == "__main__":
    script.leave(main())
