"""The level of intervals in a sweep that was refined: looking several times at growing data must not add up errors.

A sweep is refined in rounds (`analysis.refine`), and each chooses its runs by the intervals of the round before. The
column `round` of a cell has the number of the round that added it, 0 for a grid that was planned as a whole. There are
`ROUNDS` looks at intervals. Intervals of data up to round r miss with probability `SPENT[r]`. This is Pocock's rule for
two looks (Biometrika 64, 1977): the two intervals of a number are right together with 95% if the second round doubles
the data, and with 94.1% at the least (Bonferroni), however the runs were chosen. They are repeated confidence intervals
(Jennison and Turnbull, JRSS B 51, 1989).
"""

import pandas as pd

from analysis.stats.intervals import ALPHA

SPENT = (ALPHA, 0.0294, 0.0294)  # by round; round 0 alone is a fixed grid, with one look at its own 5%
ROUNDS = len(SPENT) - 1


def last_round(cells: pd.DataFrame) -> int:
    """The last round that added one of these cells, 0 if the sweep was not refined."""
    return int(cells["round"].max()) if "round" in cells and len(cells) else 0


def alpha(cells: pd.DataFrame) -> float:
    """The probability that an interval from these cells misses."""
    return SPENT[min(last_round(cells), ROUNDS)]
