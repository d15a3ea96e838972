"""What a round may cost, and which claims it is spent on."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from analysis.refine.grid import Grid, Run
from analysis.refine.plan import Proposal
from sweeper.errors import UserError

UNITS = {"h": "hours of runs, as measured here", "gpuh": "H100-hours by FLOPs", "runs": "runs"}


@dataclass(frozen=True)
class Budget:
    """An amount of one of `UNITS`. Infinite if there is none."""

    amount: float = math.inf
    unit: str = "h"

    @classmethod
    def parse(cls, text: str) -> "Budget":
        """`2h`, `500gpuh` or `40runs`.

        Raises:
            UserError: for anything else.
        """
        found = re.fullmatch(r"(\d+(?:\.\d+)?)(h|gpuh|runs)", text)
        if found is None:
            raise UserError(f"--budget {text}: give an amount with its unit, such as 2h, 500gpuh or 40runs")
        return cls(float(found[1]), found[2])

    def without(self, spent: float) -> str:
        """What is left, as `parse` reads it."""
        return f"{max(self.amount - spent, 0.0):.6f}{self.unit}"

    def cost(self, grid: Grid, runs: Iterable[Run]) -> float:
        """Of distinct runs, in the unit. Runs that curves share count once.

        Raises:
            UserError: if the sweep's hours are not known.
        """
        distinct = unshared(grid, runs)
        if self.unit == "runs":
            return float(len(distinct))
        hours = math.fsum(grid.hours[key] for key, _, _ in distinct)
        if math.isnan(hours) and math.isfinite(self.amount):
            raise UserError(
                f"--budget {self.amount:g}{self.unit}: the records hold no times; give a number of runs, 40runs"
            )
        return hours


def unshared(grid: Grid, runs: Iterable[Run]) -> list[Run]:
    """The runs, each named by the first of the curves that share it."""
    return list(dict.fromkeys((grid.twins(key)[0], rate, seed) for key, rate, seed in runs))


def affordable(grid: Grid, proposals: Sequence[Proposal], budget: Budget) -> list[Proposal]:
    """The proposals with runs that fit the budget together, the cheapest first: each decides a claim."""
    chosen: list[Proposal] = []
    taken: list[Run] = []
    for proposal in sorted(proposals, key=lambda one: (budget.cost(grid, one.runs), len(one.runs))):
        fits = math.isinf(budget.amount) or budget.cost(grid, [*taken, *proposal.runs]) <= budget.amount
        if proposal.runs and fits:
            chosen.append(proposal)
            taken += proposal.runs
    return chosen
