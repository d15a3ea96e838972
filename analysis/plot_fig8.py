"""Figure 8: after training, do the increments of the loop still point the same way (N = 4)?

    python analysis/plot_fig8.py [options: see --help]

Figure 6 at N = 4: fig8.csv and fig8-range.csv.
"""

import argparse
from collections.abc import Sequence

import pandas as pd

from analysis import plot_fig6
from analysis.plotting import script, trained

SCRIPT = script.Script("fig8", __doc__, lays_out=trained.LAYS_OUT)
N_LOOPS = 4
draw = plot_fig6.draw


def main(argv: Sequence[str] | None = None) -> int:
    """Draw the figure, write its files, print the ranges. Exit status 0, or 2 on a `UserError`."""
    return script.run(SCRIPT, make, argv, trained.add_rate_option)


def make(args: argparse.Namespace, cells: pd.DataFrame) -> script.Drawing:
    """The figure of a sweep's cells, with its numbers."""
    return plot_fig6.make_for(args, cells, "fig8", N_LOOPS)


if __name__ == "__main__":
    script.leave(main())
