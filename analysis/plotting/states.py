"""Points without a result are shown, not dropped: as marks above a panel, or as words in an empty one."""

from collections import Counter
from collections.abc import Iterable

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import offset_copy

from analysis.plotting import marks, style

STATE_MARKERS = {
    "diverged": "x",
    "collapsed": "x",  # which includes the diverged; a figure shows one or the other
    "failed": "s",
    "timeout": "v",
    "lost": "D",
    "held": "p",
    "preempted": "<",
    "running": ">",
    "pending": "o",
}
LANE_POINTS = 5.5  # height of one lane of state marks above a panel
LEAD = "above a panel, points without a result of every seed:"
MARK: style.Look = {"markersize": 3.4, "markeredgewidth": 0.9, "linestyle": "none", "fillstyle": "none"}


def any_left(states: "pd.Series[str]") -> bool:
    """True if a point is to be marked."""
    return bool(states.isin(list(STATE_MARKERS)).any())


def draw_lane(
    axes: Axes,
    positions: "pd.Series[float]",
    states: "pd.Series[str]",
    color: str,
    lane: int = 0,
    points: float = LANE_POINTS,
    of: pd.DataFrame | None = None,
) -> None:
    """A mark above the panel at each x position whose state is not `done`. Lanes count upwards, `points` apart.

    `of` says what they are the states of, as in `marks.add`.
    """
    height = 5 + points * lane
    above = offset_copy(axes.get_xaxis_transform(), axes.figure.figure, y=height, units="points")
    for state, marker in STATE_MARKERS.items():
        at = positions[states == state]
        drawn = Line2D(at, [1.0] * len(at), **MARK, marker=marker, color=color, transform=above)
        drawn.set_clip_on(False)
        axes.add_artist(drawn)  # unlike add_line, does not change the limits of the axes
        if of is not None and len(at):
            marks.add([drawn], of[(states == state).to_numpy()], at, [1.0] * len(at))


def add_legend(figure: Figure, states: "pd.Series[str]", lead: str) -> None:
    """Above the footer, the meaning and the number of each mark in the figure. Nothing if every point is done."""
    counts = states.value_counts()
    if not any_left(states):
        return
    keys = [Line2D([], [], linestyle="none", label=lead)]
    keys += [
        Line2D([], [], **MARK, marker=marker, color=style.INK, label=f"{state} ({counts[state]})")
        for state, marker in STATE_MARKERS.items()
        if state in counts
    ]
    above_footer = (0.5, 0.2 / figure.get_figheight())
    figure.legend(handles=keys, loc="lower center", bbox_to_anchor=above_footer, ncols=len(keys))


def count_text(states: Iterable[str]) -> str:
    """ "1 running, 2 pending"; empty if all are done."""
    counts = Counter(states)
    return ", ".join(f"{counts[state]} {state}" for state in STATE_MARKERS if state in counts)


def say(axes: Axes, states: Iterable[str], otherwise: str = "") -> None:
    """In a panel without data, write why: the states of its runs, or `otherwise` if all are done."""
    missing = count_text(states)
    text = f"no result: {missing}" if missing else otherwise
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=style.MUTED, wrap=True)
