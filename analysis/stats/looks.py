"""The level of intervals in a sweep that was refined: looking several times at growing data must not add up errors.

A sweep is refined in rounds (`analysis.refine`), and each chooses its runs by the intervals of the round before. The
column `round` of a cell has the round that added it, 0 for a grid that was planned as a whole. Intervals of data up to
round r miss with probability `SPENT[r]`. In rounds 1 to `ROUNDS` these add up to no more than 5%. So by Bonferroni's
inequality all intervals of one number that the rounds show are right together with 95%, however the runs were chosen
and whenever one stops. They are repeated confidence intervals (Jennison and Turnbull, JRSS B 51, 1989).
"""

import pandas as pd

from analysis.stats.intervals import ALPHA

SPENT = (ALPHA, 0.02, 0.03)  # by round; round 0 alone is a fixed grid, with one look at its own 5%
ROUNDS = len(SPENT) - 1


def last_round(cells: pd.DataFrame) -> int:
    """The last round that added one of these cells, 0 if the sweep was not refined."""
    return int(cells["round"].max()) if "round" in cells and len(cells) else 0


def alpha(cells: pd.DataFrame) -> float:
    """The probability that an interval from these cells misses."""
    return SPENT[min(last_round(cells), ROUNDS)]
