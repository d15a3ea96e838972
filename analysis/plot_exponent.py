"""Beyond the paper: at which exponent α of ε = N^(−α) does the optimum of the learning rate stop moving with N?

    python analysis/plot_exponent.py [options: see --help]

(a) Optimum against N, a line per α. (b) Its shift in octaves per doubling of N against α, in theory zero at α = 1.
(c) The loss at the optimum (grid). exponent.csv has every cell, exponent-optima.csv the optimum of every α and
N, exponent-shift.csv the shifts.
"""

import argparse
import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from rich.console import Console
from rich.table import Table

from analysis.plotting import marks, panels, script, states, style
from analysis.records import sources
from analysis.stats import transfer
from sweeper.errors import UserError

SCRIPT = script.Script("exponent", __doc__, lays_out=("rule", "n_loops", "base_lr", "seed"))
FRAME = panels.Frame(top=0.56, between_columns=0.62, left=0.58)
KINDS = {"fitted": ("fitted_lr", "o", "-"), "grid": ("optimum_lr", "s", ":")}
SMALL: style.Look = {"fontsize": 7.0, "color": style.MUTED}


def main(argv: Sequence[str] | None = None) -> int:
    """Draw the figure, write its files, print where the shift is zero. Exit status 0, or 2 on a `UserError`."""
    return script.run(SCRIPT, make, argv)


def make(_: argparse.Namespace, cells: pd.DataFrame) -> script.Drawing:
    """The figure of a sweep's cells, with its numbers."""
    cells = cells.assign(panel=cells["rule"], alpha=exponents(cells["rule"]))
    table = optimum_table(cells)
    shifts = shift_table(table)
    plotted = cells.drop(columns=["reason", *sources.MEASURED_COLUMNS], errors="ignore")
    tables = {"exponent": plotted, "exponent-optima": table, "exponent-shift": shifts}
    return script.Drawing(draw(cells, table, shifts), tables, lambda console: print_shifts(shifts, console))


def exponents(rules: "pd.Series[str]") -> "pd.Series[float]":
    """α of rules such as "alpha=0.25". Raises `UserError` for a rule without."""
    alpha = rules.str.extract(r"\balpha=(\S+)")[0].astype(float)
    if alpha.isna().any():
        raise UserError(
            f"--sweep: its rule {rules[alpha.isna()].iloc[0]!r} has no exponent alpha; choose another sweep"
        )
    return alpha


def optimum_table(cells: pd.DataFrame) -> pd.DataFrame:
    """`transfer.transfer_table` of cells whose panel is their rule, with the column alpha, ascending."""
    points = transfer.average_seeds(cells)
    table = transfer.transfer_table(points, transfer.pooled_noise(cells, points))
    table.insert(0, "alpha", exponents(table["rule"]))
    return table.sort_values(["alpha", "n_loops"], ignore_index=True)


def shift_table(table: pd.DataFrame) -> pd.DataFrame:
    """A row per α: octaves that the optimum moves per doubling of N, by least squares over all N.

    `grid_shift` is of the optima (grid), `fitted_shift` of the optima (fitted), with `fitted_shift_low` and `_high` at
    95% where there are several seeds; `grid_loops`, `fitted_loops` count the
    N that have one, of `loops`. An optimum (fitted) is missing at the edge of the grid, so that a shift may lack its
    largest N. NaN with fewer than two.
    """
    rows = []
    for alpha, of_alpha in table.groupby("alpha", sort=True):
        row: dict[str, float] = {"alpha": float(str(alpha)), "loops": len(of_alpha)}
        for kind, (column, _, _) in KINDS.items():
            known = of_alpha[of_alpha[column].notna()]
            row[f"{kind}_shift"] = math.nan
            if len(known) > 1:
                slope = np.polyfit(np.log2(known["n_loops"]), np.log2(known[column]), 1)[0]
                row[f"{kind}_shift"] = round(float(slope), 12)  # a shift of 1e-17 is none
            row[f"{kind}_loops"] = len(known)
        fitted = of_alpha[of_alpha["fitted_lr"].notna()]
        row["fitted_shift_low"], row["fitted_shift_high"] = shift_interval(fitted, row["fitted_shift"])
        rows.append(row)
    return pd.DataFrame(rows)


def shift_interval(fitted: pd.DataFrame, shift: float) -> tuple[float, float]:
    """The 95% interval of a least-squares `shift` from those of the optima that it is fitted to, NaN without noise.

    Each optimum adds the arm of its interval that moves the slope that way, as in `Estimate.minus`.
    """
    if math.isnan(shift):
        return math.nan, math.nan
    doublings = np.log2(fitted["n_loops"].to_numpy(dtype=float))
    weights = (doublings - doublings.mean()) / (len(doublings) * doublings.var())
    fitted, weights = fitted[weights != 0], weights[weights != 0]
    with np.errstate(divide="ignore"):  # an open arm ends at a rate of zero
        middle, low, high = (np.log2(fitted[f"fitted_lr{end}"].to_numpy(dtype=float)) for end in ("", "_low", "_high"))
    below = np.where(weights > 0, middle - low, high - middle)
    above = np.where(weights > 0, high - middle, middle - low)
    return shift - float(np.hypot.reduce(weights * below)), shift + float(np.hypot.reduce(weights * above))


def zero_crossings(alphas: Iterable[float], shifts: Iterable[float]) -> list[float]:
    """The α at which the shift, drawn as straight lines between its known points, is zero, ascending."""
    known = [(a, s) for a, s in zip(alphas, shifts, strict=True) if not math.isnan(s)]
    found = {a for a, s in known if s == 0}
    found |= {a + (b - a) * s / (s - t) for (a, s), (b, t) in pairwise(known) if s * t < 0}
    return sorted(found)


def draw(cells: pd.DataFrame, table: pd.DataFrame, shifts: pd.DataFrame) -> Figure:
    """The figure: optima, their shifts, and the losses there."""
    colors = style.ordered_colors(list(shifts["alpha"]))
    figure, grid = panels.panels(1, 3, 2.1, FRAME)
    optima, moves, losses = grid[0]
    _draw_optima(optima, cells, table, colors)
    _draw_shifts(moves, shifts)
    _draw_losses(losses, table)
    if table["optimum_lr"].isna().all():
        for axes in grid[0]:
            states.say(axes, cells["state"])
            axes.set(xticks=[], yticks=[])
    keys = [Line2D([], [], color=color, marker="o", label=rf"$\alpha={alpha:g}$") for alpha, color in colors.items()]
    figure.legend(handles=keys, loc="upper center", ncols=len(keys))
    style.add_footer(figure, script.footer(cells, notes=[f"$L={cells['n_layers'].iloc[0]}$"]))
    return figure


def _draw_optima(axes: Axes, cells: pd.DataFrame, table: pd.DataFrame, colors: dict[float, str]) -> None:
    """Optima (fitted) as dots. Where there is none, at an edge or beside a gap, optima (grid) as open squares."""
    axes.set_yscale("log")
    for alpha, curve in table.groupby("alpha", sort=True):
        color = colors[float(str(alpha))]
        shown = curve["fitted_lr"].fillna(curve["optimum_lr"])
        drawn = axes.plot(curve["n_loops"], shown, color=color, linewidth=1.0)
        drawn += axes.plot(curve["n_loops"], curve["fitted_lr"], color=color, marker="o", linestyle="none")
        at_edge = curve["optimum_lr"].where(curve["fitted_lr"].isna())
        drawn += axes.plot(
            curve["n_loops"], at_edge, color=color, marker="s", linestyle="none", markerfacecolor="white"
        )
        low, high = curve["fitted_lr_low"], curve["fitted_lr_high"]
        marks.add(drawn, _at_optimum(curve), curve["n_loops"], shown, low=low, high=high, name="optimum")
    axes.set_ylim(cells["base_lr"].min() / 1.2, cells["base_lr"].max() * 1.2)
    panels.count_axis(axes, table["n_loops"], "loop count $N$")
    panels.log_ticks(axes, has_data=True)
    axes.set_ylabel(r"optimum, base rate $\eta_0$")
    title = "open: optimum (grid), no fit" if table["fitted_lr"].isna().any() else "optimum (fitted)"
    axes.set_title(f"(a) {title}", loc="left")
    if missing := states.count_text(cells["state"]):
        axes.text(0.5, 0.02, missing, transform=axes.transAxes, ha="center", wrap=True, **SMALL)


def _at_optimum(curve: pd.DataFrame) -> pd.DataFrame:
    """What tells the cells at each optimum (grid)."""
    return curve[["rule", "n_loops"]].assign(base_lr=curve["optimum_lr"])


def _draw_shifts(axes: Axes, shifts: pd.DataFrame) -> None:
    """Both shifts against α. Open: some N have no optimum (fitted), and the grid's edge may cut off the other shift."""
    axes.axhline(0.0, color=style.MUTED, linewidth=0.8)
    axes.axvline(1.0, color=style.GUIDE, linestyle=(0, (4, 3)), zorder=0.5)
    for kind, color in zip(KINDS, (style.GREEN, style.BLUE), strict=True):
        _, marker, linestyle = KINDS[kind]
        values = shifts[f"{kind}_shift"]
        axes.plot(shifts["alpha"], values, color=color, linestyle=linestyle, marker=marker, label=kind)
        if kind == "fitted":
            ends = shifts[["fitted_shift_low", "fitted_shift_high"]]
            bars = np.clip(ends.to_numpy(), *axes.get_ylim())  # an open interval ends with the panel
            axes.vlines(shifts["alpha"], *bars.T, color=color, linewidth=1.0)
        partial = values.where(shifts["fitted_loops"] < shifts["loops"])
        axes.plot(shifts["alpha"], partial, linestyle="none", color=color, marker=marker, markerfacecolor="white")
    axes.set_xticks(list(shifts["alpha"]))
    axes.set_xlabel(r"exponent $\alpha$")
    axes.set_ylabel("octaves per doubling of $N$")
    crossings = ", ".join(f"{alpha:.2f}" for alpha in zero_crossings(shifts["alpha"], shifts["fitted_shift"]))
    axes.set_title(f"(b) its shift{f', zero at {crossings}' if crossings else ''}", loc="left")
    axes.legend(loc="best")


def _draw_losses(axes: Axes, table: pd.DataFrame) -> None:
    """Loss at the optimum (grid) against α, a line per N > 1 (at N = 1 every α is one model)."""
    deeper = table[table["n_loops"] > transfer.REFERENCE_LOOPS]
    colors = style.loop_colors(sorted(set(table["n_loops"])))
    for n, curve in deeper.groupby("n_loops", sort=True):
        loops = int(str(n))
        look: style.Look = {"color": colors[loops], "marker": style.loop_marker(loops)}
        drawn = axes.plot(curve["alpha"], curve["optimum_loss"], label=f"$N={loops}$", **look)
        at_edge = curve["optimum_loss"].where(curve["fitted_lr"].isna())
        drawn += axes.plot(curve["alpha"], at_edge, linestyle="none", markerfacecolor="white", **look)
        marks.add(drawn, _at_optimum(curve), curve["alpha"], curve["optimum_loss"], name="loss")
    axes.set_xticks(sorted(set(table["alpha"])))
    axes.set_xlabel(r"exponent $\alpha$")
    axes.set_ylabel("validation loss (nats/token)")
    axes.set_title("(c) loss at the optimum (grid)", loc="left")
    axes.legend(loc="best")


def print_shifts(shifts: pd.DataFrame, console: Console) -> None:
    """Print a row per α, and where each kind of shift crosses zero."""
    shown = Table("alpha", "shift (fitted)", "over N", "shift (grid)", "over N")
    for row in shifts.to_dict("records"):
        parts = []
        for kind in KINDS:
            value = row[f"{kind}_shift"]
            interval = f" ({row['fitted_shift_low']:+.2f}…{row['fitted_shift_high']:+.2f})" if kind == "fitted" else ""
            parts += [
                "-" if math.isnan(value) else f"{value:+.2f}{'' if 'nan' in interval else interval}",
                f"{row[f'{kind}_loops']} of {row['loops']}",
            ]
        shown.add_row(f"{row['alpha']:g}", *parts)
    console.print("Shift of the optimum, octaves per doubling of N")
    console.print(shown)
    for kind in KINDS:
        found = ", ".join(f"{alpha:.2f}" for alpha in zero_crossings(shifts["alpha"], shifts[f"{kind}_shift"]))
        console.print(f"{kind}: zero at alpha = {found or '-'} (theory: 1)")


if __name__ == "__main__":
    script.leave(main())
