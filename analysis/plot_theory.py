"""Theorems 1 and 3 as measurements: the paper's toy model, h ← h + ε·W·ReLU(h), at widths where a CPU takes seconds.

    python analysis/plot_theory.py [options: see --help]

(a) Energy of the summed branches against N, where the stream stays bounded: one matrix in all loops (ε = 1/N, theory:
N²) or one matrix per loop (ε = 1/√N, theory: N). (b) R against N under ε = N^(−α), one matrix. α bounds R if the
log-log slope over the last doubling of N is below 0.1. (c–e) R against N and L under 1/(N√L), and without either
factor. theory.csv has every draw, theory-exponents.csv the exponents of (a) and (b) fitted per draw.
"""

import argparse
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from analysis.plotting import marks, panels, rules, script, states, style
from analysis.records import cell_axes, sources
from analysis.stats.growth import estimate_text, fitted_growth
from analysis.stats.transfer import FINISHED

SCRIPT = script.Script("theory", __doc__, lays_out=("panel", "rule", "n_layers", "n_loops"))
BOUNDED_SLOPE = 0.1
ENERGY = {  # panel: name, theory's exponent, rule
    "shared": ("one $W$", 2, "linear"),
    "independent": ("$N$ matrices", 1, "sqrt"),
}
FACTORS = {
    "factored": r"$\varepsilon=1/(N\sqrt{L})$",
    "no_loop_factor": r"$\varepsilon=1/\sqrt{L}$, no loop factor",
    "no_depth_factor": r"$\varepsilon=1/N$, no depth factor",
}
FRAME = panels.Frame(right=0.7, between_columns=0.42, top=0.3)
R_SCALE = LogNorm(1.0, 100.0)
R_LIMITS = (0.5, 1e4)  # of panel (b); curves that grow further leave the panel
LABEL = r"$R=d^{-1/2}\,\Vert h\Vert_2$"


def main(argv: Sequence[str] | None = None) -> int:
    """Draw the figure, write its files, print the exponents. Exit status 0, or 2 on a `UserError`."""
    return script.run(SCRIPT, make, argv)


def make(args: argparse.Namespace, cells: pd.DataFrame) -> script.Drawing:
    """The figure of a sweep's cells, with its numbers."""
    for of_panels, laid_out in (
        (cells["panel"].isin(ENERGY), ("panel", "n_loops")),
        (cells["panel"] == "alpha", ("rule", "n_loops")),
        (cells["panel"].isin(FACTORS), ("panel", "n_layers", "n_loops")),
    ):
        cell_axes.refuse_beyond(cells[of_panels], laid_out)
    draws = all_draws(cells, sources.load_curves(args, cells))
    exponents = exponent_table(draws)
    figure = draw(cells, draws, exponents)
    tables = {"theory": draws, "theory-exponents": exponents}
    return script.Drawing(figure, tables, lambda console: print_results(draws, exponents, console))


def all_draws(cells: pd.DataFrame, curves: pd.DataFrame) -> pd.DataFrame:
    """A row per draw of a finished cell, one of NaN for any other cell. `alpha` is the exponent in panel (b)."""
    metrics = ["residual_rms", "branch_energy"]
    found = curves.rename(columns={"step": "draw"}).reindex(columns=["run_id", "draw", *metrics])
    found = found[found["run_id"].isin(cells.loc[cells["state"].isin(FINISHED), "run_id"])]
    columns = ["panel", "rule", "n_layers", "n_loops", *(["d_model"] if "d_model" in cells else []), "state", "run_id"]
    draws = cells[columns].merge(found, on="run_id", how="left")
    alpha = draws["rule"].map(lambda rule: rules.exponents(rule)[0])
    return draws.assign(alpha=alpha.where(draws["panel"] == "alpha")).astype({"draw": "Int64"})


def exponent_table(draws: pd.DataFrame) -> pd.DataFrame:
    """Log-log slopes against N, fitted per draw: mean and `_sem`, and `bounded` for the α of panel (b).

    Rows: the energy of each of `ENERGY` over all N, and R of each α over the last doubling of N.
    """
    rows = []
    for panel, (_, theory, _) in ENERGY.items():
        table = draws[draws["panel"] == panel]
        if len(table):
            ends = int(table["n_loops"].min()), int(table["n_loops"].max())
            rows.append(_row(table, "branch_energy", ends) | {"panel": panel, "theory": theory})
    for alpha, table in draws[draws["panel"] == "alpha"].groupby("alpha", sort=True):
        ends = tuple(sorted(set(table["n_loops"]))[-2:])
        if len(ends) == 2:
            row = _row(table, "residual_rms", (ends[0], ends[1]))
            rows.append(row | {"panel": "alpha", "alpha": alpha, "bounded": is_bounded(row["slope"])})
    columns = ["panel", "alpha", "quantity", "from", "to", "slope", "slope_sem", "draws", "theory", "bounded"]
    return pd.DataFrame(rows, columns=columns)


def _row(table: pd.DataFrame, quantity: str, ends: tuple[int, int]) -> dict[str, Any]:
    growth = fitted_growth(table.dropna(subset="draw"), "n_loops", quantity, "draw", ends)
    row: dict[str, Any] = {"quantity": quantity, "from": ends[0], "to": ends[1]}
    return row | {"slope": growth.slope, "slope_sem": growth.sem, "draws": growth.replicas}


def is_bounded(slope: float) -> bool | None:
    """The criterion of panel (b) for R's slope over the last doubling of N, None if the slope is unknown."""
    return None if math.isnan(slope) else slope < BOUNDED_SLOPE


def smallest_bounded(exponents: pd.DataFrame) -> float:
    """The smallest α from which on every α bounds R. NaN if there is none, or if some are unknown."""
    of_alpha = exponents[exponents["panel"] == "alpha"].sort_values("alpha", ascending=False)
    if of_alpha["bounded"].isna().any():
        return math.nan
    held = of_alpha["bounded"].astype(bool).cummin()
    return float(of_alpha.loc[held, "alpha"].min())


def draw(cells: pd.DataFrame, draws: pd.DataFrame, exponents: pd.DataFrame) -> Figure:
    """The figure: energies and exponents above, the factored rule and the rules without one factor below."""
    figure, grid = panels.panels(2, 3, 1.72, FRAME)
    _draw_energy(grid[0, 0], draws, exponents)
    _draw_alphas(grid[0, 1], grid[0, 2], draws, exponents)
    for axes, (panel, formula), letter in zip(grid[1], FACTORS.items(), "cde", strict=True):
        _draw_factors(axes, draws[draws["panel"] == panel])
        axes.set_title(f"({letter}) $R$ under {formula}", loc="left", fontsize=7.8)
        axes.set_xlabel("loops $N$")
    grid[1, 0].set_ylabel("layers $L$")
    scale = ScalarMappable(R_SCALE, style.LOOP_COLORMAP)
    bar = figure.colorbar(scale, cax=panels.side_axes(figure, grid[1, -1]), extend="max", label="$R$")
    bar.outline.set_visible(False)
    replicas = "no draws yet" if draws["draw"].isna().all() else f"mean over {draws['draw'].max()} draws"
    width = [f"$d={cells['d_model'].iloc[0]}$"] if "d_model" in cells else []
    style.add_footer(figure, script.footer(cells, replicas, width))
    return figure


def _draw_energy(axes: Axes, draws: pd.DataFrame, exponents: pd.DataFrame) -> None:
    axes.set_title(r"(a) energy $\Vert\Sigma\,r\Vert^2/d$", loc="left")
    axes.set_yscale("log")
    of_panel = draws[draws["panel"].isin(ENERGY)]
    for row in exponents[exponents["panel"].isin(ENERGY)].to_dict("records"):
        name, theory, rule = ENERGY[row["panel"]]
        formula = rules.loop_formula(rule, "N")
        mean = draws[draws["panel"] == row["panel"]].groupby("n_loops")["branch_energy"].mean().dropna()
        power = estimate_text(row["slope"], row["slope_sem"], ".3f").replace(" ± ", r"\pm ")
        drawn = axes.plot(mean, **style.RULE_LOOKS[rule], label=f"{name}, {formula}\n$N^p$, $p={power}$")
        of = pd.DataFrame({"panel": row["panel"], "n_loops": mean.index})
        marks.add(drawn, of, mean.index, mean, name="energy")
        if len(mean):
            line = float(mean.iloc[0]) * (mean.index.to_numpy() / mean.index[0]) ** theory
            axes.plot(mean.index, line, color=style.INK, linestyle=(0, (4, 3)), linewidth=0.8)
    if of_panel["branch_energy"].notna().any():
        low, high = axes.get_ylim()
        axes.set_ylim(low, high * (high / low) ** 0.55)  # room for the legend
        axes.legend(loc="upper left", fontsize=6.6, labelspacing=0.7)
    else:
        states.say(axes, of_panel["state"])
    if len(of_panel):
        panels.count_axis(axes, of_panel["n_loops"], "loops $N$")


def _draw_alphas(axes: Axes, beside: Axes, draws: pd.DataFrame, exponents: pd.DataFrame) -> None:
    """Draw panel (b) in `axes` and its legend, with the slopes, in the place of `beside`."""
    axes.set_title(r"(b) $R$ under $\varepsilon=N^{-\alpha}$", loc="left")
    axes.set_yscale("log")
    axes.set_ylim(*R_LIMITS)
    beside.set_axis_off()
    of_panel = draws[draws["panel"] == "alpha"]
    rows = exponents[exponents["panel"] == "alpha"].to_dict("records")
    colors = style.ordered_colors([row["alpha"] for row in rows])
    for row in rows:
        mean = of_panel[of_panel["alpha"] == row["alpha"]].groupby("n_loops")["residual_rms"].mean().dropna()
        verdict = ", bounded" if row["bounded"] is True else ""
        slope = estimate_text(row["slope"], row["slope_sem"], ".2f" if abs(row["slope"]) < 10 else ".0f")
        label = rf"$\alpha={row['alpha']:g}$: {slope}{verdict}"
        drawn = axes.plot(mean, color=colors[row["alpha"]], marker="o", markersize=2.6, label=label)
        of = of_panel.loc[of_panel["alpha"] == row["alpha"], ["panel", "rule", "n_loops"]].drop_duplicates()
        of = of.set_index("n_loops").loc[mean.index].reset_index()
        marks.add(drawn, of, mean.index, mean, name="R")
    if of_panel["residual_rms"].isna().all():
        states.say(axes, of_panel["state"])
        axes.set_yticks([])
    if rows:
        panels.count_axis(axes, of_panel["n_loops"], "loops $N$")
        title = f"log-log slope from $N={rows[0]['from']}$ to {rows[0]['to']},\nbounded: below {BOUNDED_SLOPE:g}"
        handles, labels = axes.get_legend_handles_labels()
        legend = beside.legend(handles, labels, loc="center left", title=title, bbox_to_anchor=(-0.08, 0.5))
        legend.get_title().set(fontsize=7.5)
        legend.set_alignment("left")


def _draw_factors(axes: Axes, of_panel: pd.DataFrame) -> None:
    """R against N and L, in numbers and colours."""
    if of_panel["residual_rms"].isna().all():
        states.say(axes, of_panel["state"])
        axes.set(xticks=[], yticks=[])
        return
    table = of_panel.groupby(["n_layers", "n_loops"])["residual_rms"].mean().unstack("n_loops")
    image = axes.imshow(table, cmap=style.LOOP_COLORMAP, norm=R_SCALE, origin="lower", aspect="auto")
    places = pd.DataFrame([(n_layers, n_loops) for n_layers in table.index for n_loops in table.columns])
    of = places.set_axis(["n_layers", "n_loops"], axis=1).assign(panel=of_panel["panel"].iloc[0])
    rows, columns = np.indices(table.shape).reshape(2, -1)
    marks.add([image], of, columns, rows, values=table.to_numpy().ravel(), name="R")
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set_xticks(range(table.shape[1]), table.columns)
    axes.set_yticks(range(table.shape[0]), table.index)
    for (row, column), value in np.ndenumerate(table.to_numpy()):
        color = style.INK if value < 6 else "white"
        axes.text(column, row, _short(value), ha="center", va="center", color=color, fontsize=6.8)


def _short(value: float) -> str:
    if math.isnan(value):
        return "?"
    return f"{value:.2f}" if value < 10 else f"{value:.0f}" if value < 1000 else f"{value:.0e}".replace("e+0", "e")


def print_results(draws: pd.DataFrame, exponents: pd.DataFrame, console: Console) -> None:
    """Print exponents with their errors, the smallest α that bounds R, and R's range under each of `FACTORS`."""
    shown = Table("quantity", "from N to", "log-log slope", "theory", "bounded")
    for row in exponents.to_dict("records"):
        name = f"R, alpha = {row['alpha']:g}" if row["panel"] == "alpha" else f"energy, {row['panel']}"
        theory = "" if pd.isna(row["theory"]) else f"{row['theory']:g}"
        bounded = {True: "yes", False: "no"}.get(row["bounded"], "")
        slope = estimate_text(row["slope"], row["slope_sem"], ".3f")
        shown.add_row(name, f"{row['from']}…{row['to']}", slope, theory, bounded)
    console.print("Mean ± SEM over draws")
    console.print(shown)
    smallest = smallest_bounded(exponents)
    console.print(f"smallest alpha that keeps R bounded: {'-' if math.isnan(smallest) else f'{smallest:g}'}")
    for panel in FACTORS:
        means = draws[draws["panel"] == panel].groupby(["n_layers", "n_loops"])["residual_rms"].mean()
        if means.notna().any():
            console.print(f"{panel}: R from {means.min():.3g} to {means.max():.3g} over N and L")


if __name__ == "__main__":
    script.leave(main())
