"""Which runs each plotted point shows, and where on the page it is: what the report's page needs to answer a pointer.

A script calls `add` for what it has drawn. `record` turns that into plain values, in points of the SVG file.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from sweeper.records.axes import PLAIN, as_text

POINTS_AN_INCH = 72  # of an SVG file
MARK = "mark"  # with which the names of artists begin
NAMES = {"n_loops": "N", "n_layers": "L", "base_lr": "η0"}  # of columns, where the figures have another


@dataclass(frozen=True)
class _Series:
    artists: list[Artist]
    of: pd.DataFrame  # a row per point; the columns that cells have too tell which runs it shows
    x: Any
    y: Any
    low: Any
    high: Any
    values: Any
    name: str  # of the values


_DRAWN: "WeakKeyDictionary[Figure, list[_Series]]" = WeakKeyDictionary()


def add(
    artists: Iterable[Artist],
    of: pd.DataFrame,
    x: ArrayLike = (),
    y: ArrayLike = (),
    *,
    low: ArrayLike | None = None,
    high: ArrayLike | None = None,
    values: ArrayLike | None = None,
    name: str = "",
) -> None:
    """Say what a curve, or a part of it, shows.

    Args:
        artists: they are shown and hidden together. Points are in the coordinates of the first.
        of: a row per point, or the one row that all artists belong to. Its columns select the point's cells.
        x, y: of the points; points that are not finite, or that the panel does not show, are left out.
        low, high: interval at 95% of the values.
        values: of the points, if y is not their value.
        name: of what the values are; empty for marks that stand for a state.
    """
    drawn = list(artists)
    if drawn and (figure := drawn[0].get_figure(root=True)) is not None:
        _DRAWN.setdefault(figure, []).append(_Series(drawn, of, x, y, low, high, y if values is None else values, name))


def record(figure: Figure, cells: pd.DataFrame) -> dict[str, Any]:
    """Everything that was added to a figure, and names for its artists in the SVG file (`gid`).

    `cells` are those of the figure. Lengths are points from the upper left corner.
    Keys: `size` of the page; `runs`, ids; `curves`. A curve has `ids` of its artists, `labels` by name, `value` (the
    name of y), `points` (x, y, value, low, high, numbers of its runs, more labels), and where the axis is linear `line`
    (a, b), by which a value v stands at the height a + b · v, and `box`, the top and the bottom of the panel.
    """
    cells = cells.assign(depth=cells["n_layers"] * cells["n_loops"])
    if "architecture" not in cells:
        cells = cells.assign(architecture=PLAIN)
    for axes in figure.axes:
        axes.get_xlim(), axes.get_ylim()  # limits that are still to be found are found now
    width, height = figure.get_size_inches() * POINTS_AN_INCH
    runs = {run_id: number for number, run_id in enumerate(cells["run_id"].unique())}
    curves = [
        {"ids": _named(series.artists, number), **_curve(series, figure, cells, runs)}
        for number, series in enumerate(_DRAWN.get(figure, []))
    ]
    return {"size": [float(width), float(height)], "runs": list(runs), "curves": curves}


def _named(artists: Sequence[Artist], number: int) -> list[str]:
    names = [f"{MARK}{number}-{place}" for place in range(len(artists))]
    for artist, name in zip(artists, names, strict=True):
        artist.set_gid(name)
    return names


def _curve(series: _Series, figure: Figure, cells: pd.DataFrame, runs: dict[str, int]) -> dict[str, Any]:
    key = [name for name in map(str, series.of) if name in cells and name not in _NOT_KEYS]
    constant = [name for name in key if series.of[name].nunique() == 1]
    said = [name for name in key if name not in _UNSAID and (name not in _SETTINGS or cells[name].nunique() > 1)]
    labels = {NAMES.get(name, name): as_text(_plain(series.of[name].iloc[0])) for name in said if name in constant}
    found: dict[str, Any] = {"labels": labels, "value": series.name, "points": []}
    x, y = np.asarray(series.x, dtype=float), np.asarray(series.y, dtype=float)
    if not len(x):
        return found
    scale = POINTS_AN_INCH / figure.dpi
    transform = series.artists[0].get_transform()
    at = transform.transform(np.column_stack([x, y])) * scale
    height = figure.get_figheight() * POINTS_AN_INCH
    first, axes = series.artists[0], series.artists[0].axes
    outside = axes.bbox.intervaly * scale if axes is not None and first.get_clip_on() else None
    members = _members(series.of, cells, key)
    values = np.asarray(series.values, dtype=float)
    low, high = (
        np.full(len(x), math.nan) if end is None else np.asarray(end, dtype=float) for end in (series.low, series.high)
    )
    for place, (px, py) in enumerate(at):
        if not (math.isfinite(px) and math.isfinite(py)) or not len(members[place]):
            continue
        if outside is not None and not outside[0] - 1 <= py <= outside[1] + 1:
            continue
        row = tuple(series.of[name].iloc[place] for name in key)
        value = [_short(values[place]), _short(low[place]), _short(high[place])] if series.name else [None] * 3
        numbers = [runs[run_id] for run_id in members[place]]
        varying = {
            NAMES.get(n, n): as_text(_plain(v))
            for n, v in zip(key, row, strict=True)
            if n in said and n not in constant
        }
        found["points"].append([round(float(px), 2), round(height - float(py), 2), *value, numbers, varying])
    if series.values is series.y and series.name and axes is not None and axes.get_yscale() == "linear":
        bottom, top = transform.transform([(x[0], 0.0), (x[0], 1.0)])[:, 1] * scale
        found["line"] = [round(float(height - bottom), 4), round(float(bottom - top), 4)]
        found["box"] = [round(float(height - end), 2) for end in reversed(axes.bbox.intervaly * scale)]
    return found


def _members(of: pd.DataFrame, cells: pd.DataFrame, key: list[str]) -> list[Sequence[str]]:
    """The runs of each point."""
    if "run_id" in of:
        return [[run_id] for run_id in of["run_id"]]
    groups = cells.groupby(key)["run_id"].unique()
    rows = of[key].itertuples(index=False, name=None)
    return [list(groups.get(row if len(row) > 1 else row[0], ())) for row in rows]


_SETTINGS = ("experiment", "preset", "ref_layers", "d_model")  # said only where they differ
_UNSAID = ("depth_multiplier",)  # L says it
_NOT_KEYS = ("val_loss", "state", "step", "steps", "seed", "run_id", "sweep", "reason", "flops", "step_seconds")


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


def _short(value: float) -> float | None:
    return float(f"{value:.7g}") if math.isfinite(value) else None
