"""Cosines between the increments of a residual stream, δ_n = h_n − h_{n−1}: Figures 3, 6 and 8."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from analysis.plotting import marks, style

Matrix = NDArray[np.float64]
SCALE = Normalize(-1.0, 1.0)
ANNOTATED = 16  # with more increments, values in the cells would be too small to read


def mean_matrix(readouts: pd.DataFrame, cells: pd.DataFrame) -> Matrix | None:
    """(N, N) cosines: mean over the finished cells of each one's mean over tokens. None if none has finished."""
    done = cells.loc[cells["state"] == "done", "run_id"]
    rows = readouts[(readouts["readout"] == "increment_cosine") & readouts["run_id"].isin(done)]
    if rows.empty:
        return None
    return rows.groupby(["i", "j"])["mean"].mean().unstack("j").to_numpy(dtype=float)


@dataclass(frozen=True)
class OffDiagonal:
    """Range and mean of the cosines off the diagonal, NaN if there are none."""

    low: float
    high: float
    mean: float


def off_diagonal(matrix: Matrix | None) -> OffDiagonal:
    """Range and mean of `matrix` off its diagonal."""
    if matrix is None or len(matrix) < 2:
        return OffDiagonal(*[float("nan")] * 3)
    values = matrix[~np.eye(len(matrix), dtype=bool)]
    return OffDiagonal(float(values.min()), float(values.max()), float(values.mean()))


def long_table(matrix: Matrix | None) -> pd.DataFrame:
    """Columns i, j (numbers of the increments, from 1) and cosine."""
    if matrix is None:
        return pd.DataFrame({"i": [], "j": [], "cosine": []}).astype({"i": "int64", "j": "int64", "cosine": "float64"})
    i, j = np.indices(matrix.shape)
    return pd.DataFrame({"i": i.ravel() + 1, "j": j.ravel() + 1, "cosine": matrix.ravel()})


def draw_matrix(axes: Axes, matrix: Matrix, of: pd.DataFrame) -> None:
    """A square heat map with the first increment at the lower left, values in the cells if these are large enough.

    `of` has one row, which tells its runs, see `marks.add`.
    """
    count = len(matrix)
    edges = (0.5, count + 0.5, 0.5, count + 0.5)
    image = axes.imshow(matrix, cmap=style.SIGNED_COLORMAP, norm=SCALE, origin="lower", extent=edges)
    i, j = (np.indices(matrix.shape) + 1).reshape(2, -1)
    if count > ANNOTATED:  # too small to point at: the middle stands for all
        i = j = np.array([(count + 1) / 2])
    values = matrix.ravel() if count <= ANNOTATED else [off_diagonal(matrix).mean]
    name = "cosine" if count <= ANNOTATED else "mean cosine off the diagonal"
    marks.add([image], of.iloc[[0] * len(i)], j, i, values=values, name=name)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    ticks = range(1, count + 1) if count <= ANNOTATED else [1, *range(count // 4, count + 1, count // 4)]
    axes.set(xticks=ticks, yticks=ticks)
    if count <= ANNOTATED:
        for (i, j), value in np.ndenumerate(matrix):
            color = "white" if abs(value) > 0.65 else style.INK
            text = f"{round(value, 2) + 0.0:.2f}".replace("-", "−")
            if count > 6:  # less room
                text = "1" if text == "1.00" else text.replace("0.", ".")
            axes.text(j + 1, i + 1, text, ha="center", va="center", color=color, fontsize=min(6.5, 42 / count))


def add_bar(figure: Figure, axes: Axes) -> None:
    """The colour bar of all heat maps, in `axes`."""
    scale = ScalarMappable(SCALE, style.SIGNED_COLORMAP)
    bar = figure.colorbar(scale, cax=axes, ticks=[-1, -0.5, 0, 0.5, 1], label="cosine similarity")
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0)
