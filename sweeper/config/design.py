"""Which rates of a grid a sweep of learning rates starts with."""

import math
from collections.abc import Sequence

FULL, COARSE = "full", "coarse"
DESIGNS = (FULL, COARSE)
COARSE_OCTAVES = (-1.0, -0.5, 0.0, 0.5, 1.0)  # from the rate that is expected to be best


def designed(design: str, rates: Sequence[float], middle: float) -> list[float]:
    """The rates of a design, in the order of the grid.

    `coarse` has those nearest to `middle` and to half an octave and an octave on either side: at most five. They are
    rates of the full grid, so both designs share their runs.
    """
    if design != COARSE or not all(isinstance(rate, int | float) and rate > 0 for rate in [*rates, middle]):
        return list(rates)  # a rate that is none is refused when the grid is checked
    chosen = {min(rates, key=lambda rate: abs(math.log2(rate / middle) - octaves)) for octaves in COARSE_OCTAVES}
    return [rate for rate in rates if rate in chosen]
