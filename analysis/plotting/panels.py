"""The frame of a figure: panels placed in inches, titles, an axis of counts that double, a colour bar of steps."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.textpath import TextPath
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator, ScalarFormatter

from analysis.plotting import style


@dataclass(frozen=True)
class Frame:
    """Inches around and between the panels of a figure that is as wide as a page."""

    left: float = 0.6
    right: float = 0.1
    top: float = 0.36
    bottom: float = 0.64
    between_columns: float = 0.12
    between_rows: float = 0.72


def panels(
    n_rows: int,
    n_columns: int,
    height: float,
    frame: Frame,
    *,
    sharey: bool | Literal["row"] = False,
    unfinished: bool = False,
) -> tuple[Figure, Any]:
    """A figure and its (n_rows, n_columns) axes, each panel `height` inches high.

    `unfinished` leaves room at the foot for the legend of `analysis.plotting.states`.
    """
    bottom = frame.bottom + (0.2 if unfinished else 0.0)
    whole = frame.top + n_rows * height + (n_rows - 1) * frame.between_rows + bottom
    width = (style.TEXT_WIDTH - frame.left - frame.right - (n_columns - 1) * frame.between_columns) / n_columns
    figure = Figure(figsize=(style.TEXT_WIDTH, whole))
    grid = figure.subplots(n_rows, n_columns, sharey=sharey, squeeze=False)
    figure.subplots_adjust(
        frame.left / style.TEXT_WIDTH,
        bottom / whole,
        1 - frame.right / style.TEXT_WIDTH,
        1 - frame.top / whole,
        frame.between_columns / width,
        frame.between_rows / height,
    )
    return figure, grid


@dataclass(frozen=True)
class Place:
    """Where a panel is on the page: inches from the left and from the top, and its size."""

    left: float
    top: float
    width: float
    height: float


def placed(figure: Figure, place: Place, sharex: Axes | None = None, sharey: Axes | None = None) -> Axes:
    """Axes at a place of a figure."""
    wide, high = figure.get_size_inches()
    bottom = high - place.top - place.height
    fractions = (place.left / wide, bottom / high, place.width / wide, place.height / high)
    return figure.add_axes(fractions, sharex=sharex, sharey=sharey)


def across(count: int, left: float, right: float, gap: float) -> list[tuple[float, float]]:
    """Left edges and widths in inches of `count` panels side by side between two margins of the page."""
    width = (style.TEXT_WIDTH - left - right - (count - 1) * gap) / count
    return [(left + number * (width + gap), width) for number in range(count)]


def letter(panel: str) -> str:
    """A panel as titles name it: "(e)" for "fig2e", else its whole name in brackets."""
    named = re.fullmatch(r"fig\d+([a-z])", panel)
    return f"({named[1] if named else panel})"


def title(axes: Axes, text: str, pad: float, **look: Any) -> None:
    """`text` above the left end of a panel, `pad` points away, in smaller type where the panel is too narrow for it."""
    shown = axes.set_title(text, loc="left", pad=pad, **look)
    size = shown.get_fontproperties().get_size_in_points()
    width = TextPath((0, 0), text, size=size).get_extents().width / 72
    shown.set_fontsize(size * min(1.0, axes.bbox.width / axes.figure.dpi / width))  # both in inches


def depth_text(n_layers: int, depth_multiplier: float) -> str:
    """A depth beside the preset's reference: "L = 24 = 2 L_ref"."""
    multiple = "" if depth_multiplier == 1 else f"{depth_multiplier:g}\\,"
    return rf"$L={n_layers}={multiple}L_{{\mathrm{{ref}}}}$"


def count_axis(axes: Axes, counts: Iterable[int], label: str) -> None:
    """A log-2 x axis with a tick at each of the counts."""
    ticks = sorted(set(counts))
    axes.set_xscale("log", base=2)
    axes.set_xlim(ticks[0] / 1.15, ticks[-1] * 1.15)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(label)


def log_ticks(axes: Axes, *, has_data: bool) -> None:
    """Ticks for a log-10 y axis with its current limits: decades, or 1, 2, 5, 10 … if it spans only a few."""
    low, high = axes.get_ylim()
    if not has_data:  # the default limits would look like measured ones
        axes.tick_params(which="both", left=False, labelleft=False)
    elif high / low < 300:
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())


def side_axes(figure: Figure, panel: Axes, bottom_panel: Axes | None = None) -> Axes:
    """Axes for a colour bar to the right of `panel`, down to the foot of `bottom_panel` if given."""
    box, foot = panel.get_position(), (bottom_panel or panel).get_position()
    inch = 1 / figure.get_figwidth()
    return figure.add_axes((box.x1 + 0.1 * inch, foot.y0, 0.11 * inch, box.y1 - foot.y0))


def step_bar(figure: Figure, colors: Mapping[float, str], axes: Axes) -> None:
    """Draw a colour bar of optimizer steps in `axes`."""
    steps = list(colors)
    edges = [steps[0] - 0.5, *(step + 0.5 for step in steps)]
    scale = ScalarMappable(BoundaryNorm(edges, len(steps)), ListedColormap(list(colors.values())))
    bar = figure.colorbar(scale, cax=axes, ticks=steps, label="optimizer step $t$")
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0)
    bar.ax.minorticks_off()
