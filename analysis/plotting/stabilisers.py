"""What the figures of stabilisers share: which are drawn, in which order, under which names, and at which rates."""

import argparse
import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

from analysis.plotting import script
from analysis.plotting.trained import preset_rate
from analysis.stats.stabilisers import at_rates
from model.scaling import RULES
from sweeper.errors import UserError

Stabiliser = tuple[str, str]  # architecture and rule
# The second paper's, the plain model under the first paper's rules, and the product of both.
CORE: tuple[Stabiliser, ...] = (
    ("plain", "none"),
    ("plain", "linear"),
    ("LT", "none"),
    ("LT_i", "none"),
    ("LT_ia", "none"),
    ("FLT_res", "none"),
    ("FLT", "none"),
    ("FLT", "linear"),
)


def add_options(parser: argparse.ArgumentParser, default: str) -> None:
    """`--stabilisers all|core|ARCHITECTURE/RULE,…`."""
    core = " ".join(f"{architecture}/{rule}" for architecture, rule in CORE)
    text = f"which to draw: all, core ({core}), or a list such as FLT/none,plain/linear (default: {default})"
    parser.add_argument("--stabilisers", default=default, metavar="LIST", help=text)


def add_rate_option(parser: argparse.ArgumentParser) -> None:
    """`--rate best|base|VALUE`."""
    text = (
        "base rate of the runs: the best of each stabiliser and N (best, the default), the preset's (base), or a number"
    )
    parser.add_argument("--rate", default="best", metavar="best|base|VALUE", help=text)


def present(cells: pd.DataFrame) -> list[Stabiliser]:
    """Those of a table: the core in its order, then the others by name, their rules as in `RULES`."""
    names = set(zip(cells["architecture"], cells["rule"], strict=True))
    rules = list(RULES)
    others = sorted(
        names - set(CORE), key=lambda one: (one[0], rules.index(one[1]) if one[1] in rules else len(rules), one[1])
    )
    return [one for one in CORE if one in names] + others


def select(cells: pd.DataFrame, option: str) -> pd.DataFrame:
    """The cells of the stabilisers that option `--stabilisers` names, in order. A sweep without the core: all.

    Raises:
        UserError: for a stabiliser that is not in the sweep.
    """
    there = present(cells)
    if option == "core":
        wanted = [one for one in there if one in CORE] or there
    elif option == "all":
        wanted = there
    else:
        wanted = []
        for text in option.split(","):
            architecture, _, rule = text.strip().partition("/")
            if (architecture, rule) not in there:
                known = ", ".join(f"{architecture}/{rule}" for architecture, rule in there)
                raise UserError(f"--stabilisers {text.strip()!r} is not in this sweep; choose of {known}, all, core")
            wanted.append((architecture, rule))
    place = {one: number for number, one in enumerate(wanted)}
    places = [place.get(one, -1) for one in zip(cells["architecture"], cells["rule"], strict=True)]
    kept = cells.assign(place=places).query("place >= 0").sort_values(["place", "n_loops"], kind="stable")
    return kept.drop(columns="place").reset_index(drop=True)


def at_rate(cells: pd.DataFrame, table: pd.DataFrame, rate: str) -> pd.DataFrame:
    """The cells at the base rate of option `--rate`. `table` is that of `best_table`.

    Raises:
        UserError: for a rate that is not in the grid.
    """
    if rate == "best":
        return at_rates(cells, table)
    value = preset_rate(cells) if rate == "base" else _number(rate)
    chosen = cells[np.isclose(cells["base_lr"], value, rtol=1e-6)].reset_index(drop=True)
    if chosen.empty:
        known = ", ".join(f"{known:g}" for known in sorted(set(cells["base_lr"])))
        raise UserError(f"--rate {rate}: {value:g} is not in this sweep's grid; choose best or one of {known}")
    return chosen


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise UserError(f"--rate: {text!r} is not best, base or a number") from error


def name(one: Stabiliser) -> str:
    """ "FLT, linear"."""
    return ", ".join(one)


def footer(cells: pd.DataFrame, notes: Sequence[str] = (), replicas: str | None = None) -> str:
    """The records behind a figure, see `script.footer`. The seeds are those of all stabilisers together."""
    whole = cells.assign(panel="all")
    return script.footer(whole, replicas, [rf"$L={cells['n_layers'].iloc[0]}$", *notes])


def loop_axis(axes: Axes, counts: Sequence[int], label: str) -> None:
    """An x axis with a tick at each loop count: even in N, or in log N where the counts span more than four octaves."""
    ticks = sorted(set(counts))
    if math.log2(ticks[-1] / ticks[0]) > 4:
        axes.set_xscale("log", base=2)
        axes.set_xlim(ticks[0] / 1.2, ticks[-1] * 1.2)
    else:
        room = 0.06 * (ticks[-1] - ticks[0]) or 0.5
        axes.set_xlim(ticks[0] - room, ticks[-1] + room)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(label)
