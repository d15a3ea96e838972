"""Direct labels: text beside the end of a curve instead of a legend, moved apart where curves end close together."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.transforms import blended_transform_factory, offset_copy
from numpy.typing import NDArray

ABOVE, LEAD = 60.0, 7.0  # points


def spread(heights: Sequence[float], distance: float, low: float, high: float) -> NDArray[np.float64]:
    """Heights moved as little as needed to be `distance` apart, in the same order and within [low, high].

    Least squares: neighbours that are too close are put into one group around its mean. If there is no room for all,
    they stand closer.
    """
    wanted = np.asarray(heights, dtype=float)
    if len(wanted) == 0:
        return wanted
    distance = min(distance, (high - low) / max(len(wanted) - 1, 1))
    order = np.argsort(wanted, kind="stable")
    groups: list[list[float]] = []  # of heights less the room that those below take up
    for place, height in enumerate(wanted[order]):
        groups.append([height - place * distance])
        while len(groups) > 1 and np.mean(groups[-2]) >= np.mean(groups[-1]):
            groups[-2:] = [groups[-2] + groups[-1]]
    moved = np.concatenate([np.full(len(group), np.mean(group)) for group in groups])
    moved = np.clip(moved, low, high - (len(wanted) - 1) * distance)
    found = np.empty(len(wanted))
    found[order] = moved + np.arange(len(wanted)) * distance
    return found


def beside(
    axes: Axes, ends: Sequence[tuple[float, float]], texts: Sequence[str], colors: Sequence[str], size: float = 7.0
) -> None:
    """Right of the panel, a label for the curve that ends at each (x, y), in data coordinates of linear axes.

    A thin line leads from the end to the label. Labels may stand up to `ABOVE` points above the panel.
    """
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    figure = axes.get_figure(root=True)
    assert figure is not None
    width, height = axes.get_position().size * figure.get_size_inches() * 72  # in points
    one_point = (high - low) / height
    heights = spread([y for _, y in ends], 1.15 * size * one_point, low, high + ABOVE * one_point)
    beside_panel = blended_transform_factory(axes.transAxes, axes.transData)
    for (x, y), at, text, color in zip(ends, heights, texts, colors, strict=True):
        place = offset_copy(beside_panel, figure, x=LEAD + 2, units="points")
        axes.text(1.0, at, text, color=color, fontsize=size, va="center", transform=place)
        along = [(x - left) / (right - left), 1.0, 1.0 + LEAD / width]
        lead = Line2D(along, [y, y, at], transform=beside_panel, color=color, linewidth=0.5, alpha=0.6, zorder=1)
        lead.set_clip_on(False)
        axes.add_artist(lead)
