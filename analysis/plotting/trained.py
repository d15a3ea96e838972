"""The trained runs in Figures 6, 7 and 8: those under the linear rule, at one base rate."""

import argparse
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import yaml

from analysis.stats import transfer
from sweeper.errors import UserError
from sweeper.records.presets import PRESETS, name_today

RULE = "linear"
LAYS_OUT = ("rule", "n_layers", "n_loops", "base_lr", "seed")


def add_rate_option(parser: argparse.ArgumentParser) -> None:
    """`--rate base|best|VALUE`."""
    text = "base rate of the runs: the preset's (base, the default), each curve's optimum (grid) (best), or a number"
    parser.add_argument("--rate", default="base", metavar="base|best|VALUE", help=text)


def at_rate(cells: pd.DataFrame, rate: str) -> pd.DataFrame:
    """The cells under the linear rule at the base rate of option `--rate`: one rate per panel and N.

    Raises `UserError` where there is no such rule or rate in the grid.
    """
    linear = cells[cells["rule"] == RULE]
    if linear.empty:
        raise UserError(f"no {RULE} rule in sweep {cells['sweep'].iloc[0]}; this figure shows no other")
    if rate == "best":
        table = transfer.transfer_table(transfer.average_seeds(linear))
        best = table[["panel", "n_loops", "optimum_lr"]]
        chosen = linear.merge(best, on=["panel", "n_loops"], how="left")
        # A curve without any loss has no optimum. Its cells at the lowest rate are then shown as missing.
        chosen["optimum_lr"] = chosen["optimum_lr"].fillna(chosen["base_lr"].min())
        return chosen[chosen["base_lr"] == chosen["optimum_lr"]].drop(columns="optimum_lr")
    value = preset_rate(linear) if rate == "base" else _number(rate)
    chosen = linear[np.isclose(linear["base_lr"], value, rtol=1e-6)]
    if chosen.empty:
        known = ", ".join(f"{known:g}" for known in sorted(set(linear["base_lr"])))
        raise UserError(f"--rate {rate}: {value:g} is not in this sweep's grid; choose best or one of {known}")
    return chosen


def preset_rate(cells: pd.DataFrame) -> float:
    """The base rate η0 of the cells' preset without a sweep over rates, from its file: it is not in the records."""
    first = cells.iloc[0]
    file = PRESETS / f"{name_today(first['preset'], int(first['steps']))}.yaml"
    try:
        return float(yaml.safe_load(file.read_text())["optimizer"]["base_lr"])
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"--rate base: no optimizer.base_lr in {file}; give --rate best or a number") from error


def tokens_a_step(preset: str, values: Mapping[str, Any]) -> float:
    """Tokens in an optimizer step of a training, from the sweep's values or, in older records, from its preset."""
    try:
        batch = yaml.safe_load((PRESETS / f"{preset}.yaml").read_text())["batch"]
    except (OSError, KeyError, TypeError, ValueError):
        batch = {}
    sizes = [values.get(f"batch.{name}", batch.get(name, math.nan)) for name in ("sequences", "seq_len")]
    return float(sizes[0]) * float(sizes[1])


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise UserError(f"--rate: {text!r} is not base, best or a number") from error


def rate_text(cells: pd.DataFrame) -> str:
    """ "η0 = 0.004", or a range if the cells differ."""
    rates = sorted(set(cells["base_lr"]))
    return rf"$\eta_0={rates[0]:g}$" if len(rates) == 1 else rf"$\eta_0={rates[0]:g}$…${rates[-1]:g}$"
