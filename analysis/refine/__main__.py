"""The next runs of a learning-rate sweep that are worth their cost, as a table and as a plan for `loopsweep refine`.

    python -m analysis.refine [--runs DIR | --results DIR] [--sweep NAME] [--budget 2h|500gpuh|40runs] [--plan FILE]

For every open claim of Figures 5 to 8: which runs would decide it, what they cost, and how wide its interval is now and
is expected to be. Writes nothing but the plan.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from analysis.records import cell_axes, sources
from analysis.records.result_sets import Records
from analysis.refine import readouts
from analysis.refine.budget import Budget, affordable, unshared
from analysis.refine.grid import Grid, Run, from_cells
from analysis.refine.plan import DECIDED, Action, Proposal, next_round, propose
from analysis.refine.questions import questions
from analysis.stats.looks import ROUNDS
from sweeper.errors import UserError

WIDTH = 150  # of the table, wherever it is printed


def main(argv: Sequence[str] | None = None) -> int:
    """Print the next round, and write it to `--plan`. Exit status 0, or 2 on a `UserError`."""
    parser = argparse.ArgumentParser(prog="python -m analysis.refine", description=(__doc__ or "").split("\n", 1)[0])
    sources.add_arguments(parser)
    parser.add_argument(
        "--budget", default="", metavar="AMOUNT", help="of this round: 2h, 500gpuh or 40runs (default: none)"
    )
    parser.add_argument("--plan", type=Path, metavar="FILE", help="write the plan as JSON")
    args = parser.parse_args(argv)
    try:
        width = max(Console().width, WIDTH)
        plan = refine(args, Console(highlight=False, soft_wrap=True, width=width))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    if args.plan is not None:
        args.plan.write_text(json.dumps(plan, indent=1) + "\n")
    return 0


def refine(args: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Print the next round of a sweep.

    Returns:
        The plan: number of the round, its reason, cells to submit, and the verdict of every claim.

    Raises:
        UserError: if there is no such sweep, or claims are not judged on it.
    """
    budget = Budget.parse(args.budget) if args.budget else Budget()
    cells = sources.load_cells(args, "lr_transfer", "make sweep-lr-transfer")
    if varied := [*cell_axes.varied_axes(cells), *cell_axes.context_key(cells)]:
        raise UserError(f"sweep {cells['sweep'].iloc[0]} varies {varied[0]}, and no claim is judged on such a sweep")
    try:
        tables = {"lr_transfer": sources.load_readouts(args, cells)}
    except UserError:  # an old results directory without such a table
        tables = {}
    records = Records(str(cells["preset"].iloc[0]), "", cells={"lr_transfer": cells}, readouts=tables)
    grid = from_cells(cells, by_flops=budget.unit == "gpuh")
    found = [propose(grid, question) for question in questions(grid)] + readouts.proposals(grid, records)
    if not grid.has_noise and any(action.structural for proposal in found for action in proposal.actions):
        # Before seeds, the optima: seeds are of use where the rates are.
        found = [one.only_structural() for one in found]
    over = next_round(grid) > ROUNDS
    if over:
        found = [Proposal(one.claim, one.verdict, (), reachable=one.verdict in DECIDED) for one in found]
    chosen = affordable(grid, found, budget)
    actions = [action for proposal in chosen for action in proposal.actions]
    if actions and (shared := readouts.shared_rates(grid)) is not None:
        actions.append(shared)
    runs = unshared(grid, (run for action in actions for run in action.runs))
    _print(grid, found, chosen, actions, budget, console)
    if over and any(one.verdict not in DECIDED for one in found):
        console.print(f"all {ROUNDS} rounds are over; more runs would not be judged at 95%")
    claims = sorted({proposal.claim for proposal in chosen})
    return {
        "sweep": str(cells["sweep"].iloc[0]),
        "round": next_round(grid),
        "reason": "for " + ", ".join(claims) if claims else "",
        "cells": _cells(grid, runs),
        "left": budget.without(budget.cost(grid, runs)) if args.budget else None,
        "verdicts": {proposal.claim: str(proposal.verdict) for proposal in found},
    }


def _cells(grid: Grid, runs: Sequence[Run]) -> list[dict[str, Any]]:
    """The cells of all panels that share the runs."""
    return [
        {"panel": panel, "n_loops": n_loops, "base_lr": rate, "seed": seed}
        for key, rate, seed in runs
        for panel, _, _, n_loops in grid.twins(key)
    ]


def _print(
    grid: Grid,
    found: Sequence[Proposal],
    chosen: Sequence[Proposal],
    actions: Sequence[Action],
    budget: Budget,
    console: Console,
) -> None:
    hours = Budget()
    table = Table(box=None, pad_edge=False)
    for heading in ("action", "runs", "hours", "interval now → expected", "claim"):
        table.add_column(heading, justify="right" if heading in ("runs", "hours") else "left", no_wrap=True)
    for action in actions:
        runs = unshared(grid, action.runs)
        table.add_row(action.what, str(len(runs)), _number(hours.cost(grid, runs)), _widths(action), action.claim)
    if actions:
        console.print(table)
    everything = unshared(grid, (run for action in actions for run in action.runs))
    console.print(
        f"round {next_round(grid)} of {ROUNDS}: {len(everything)} runs, {_number(hours.cost(grid, everything))} hours"
        if actions
        else "nothing to run",
    )
    for proposal in found:
        console.print(f"{proposal.claim}: {proposal.verdict}{_outlook(grid, proposal, chosen, budget)}")


def _outlook(grid: Grid, proposal: Proposal, chosen: Sequence[Proposal], budget: Budget) -> str:
    """What is expected of a claim that is open, with its price if this round does not decide it."""
    if proposal.verdict in DECIDED:
        return ""
    if not proposal.runs:
        return "; no run that is known would decide it"
    if proposal not in chosen:
        price = unshared(grid, proposal.runs)
        return f"; beyond the budget: {len(price)} runs, {_number(Budget().cost(grid, price))} hours"
    if proposal.reachable:
        return "; this round is expected to decide it, or to show what would"
    return f"; not by this round: some {proposal.needed} runs would" if proposal.needed else "; not by this round"


def _widths(action: Action) -> str:
    return f"{_width(action.now)} → {_width(action.then)} {action.unit}".rstrip()


def _width(value: float) -> str:
    if math.isnan(value):
        return "?"
    return "open" if math.isinf(value) else f"±{value:.2g}"


def _number(value: float) -> str:
    return "?" if math.isnan(value) else f"{value:,.3g}"


if __name__ == "__main__":
    sys.exit(main())
