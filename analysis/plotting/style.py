"""How every figure looks and is written: one place for colours, markers, sizes and reproducible files.

The same input gives the same bytes: fonts are those that matplotlib ships, and no file has a date in it.
"""

import json
import math
import multiprocessing
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any, cast

import matplotlib as mpl
import pandas as pd
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.textpath import TextPath

from model.scaling import RULES
from sweeper.errors import UserError

Look = dict[str, Any]  # keyword arguments of a Line2D
TEXT_WIDTH = 7.2  # inches: two columns of a paper
FOOTER_SIZE = 7.0  # points
INK = "#222222"
MUTED = "#6b6b6b"
GUIDE = "#b5b5b5"
Y_MARGIN = 0.08  # of the height of a panel, for the marks of the optima
# Perceptually uniform and safe for the colour-blind. Its light end is too faint for lines on white.
LOOP_COLORMAP = "viridis_r"
LOOP_COLORMAP_RANGE = (0.2, 1.0)
# Okabe and Ito's colours, for things without an order.
VERMILION, BLUE, GREEN = "#D55E00", "#0072B2", "#009E73"
RULE_LOOKS: dict[str, Look] = {  # of the paper's rules; any other takes the next of `FREE_COLORS` and `FREE_MARKERS`
    "none": {"color": VERMILION, "marker": "s"},
    "sqrt": {"color": BLUE, "marker": "^"},
    "linear": {"color": GREEN, "marker": "o"},
}
FREE_COLORS = ("#E69F00", "#CC79A7", "#56B4E9", "#000000")  # without yellow, which is too faint on white
FREE_MARKERS = ("D", "v", "P", "X", "p")
# Of architectures. The second paper's and plain are in Okabe and Ito's colours, their kin in darker ones of Paul Tol's.
ARCHITECTURE_LOOKS: dict[str, Look] = {
    "plain": {"color": INK, "marker": "o"},
    "LT": {"color": VERMILION, "marker": "s"},
    "LT_i": {"color": "#E69F00", "marker": "^"},
    "LT_ia": {"color": "#CC79A7", "marker": "v"},
    "FLT": {"color": BLUE, "marker": "D"},
    "FLT_res": {"color": "#56B4E9", "marker": "P"},
    "add": {"color": "#117733", "marker": "<"},
    "parcae": {"color": "#882255", "marker": ">"},
    "boundary": {"color": GREEN, "marker": "h"},
    "post_norm": {"color": "#332288", "marker": "X"},
    "deepnorm": {"color": "#AA4499", "marker": "d"},
    "deeploop": {"color": "#44AA99", "marker": "p"},
    "sandwich": {"color": "#999933", "marker": "*"},
    "rezero": {"color": "#661100", "marker": "8"},
}
OTHER_COLORS = ("#8c510a", "#7f7f7f", "#5e4fa2", "#b3589a")  # of any other architecture
# The rule of a stabiliser. Its colour and marker are those of its architecture.
RULE_LINES: dict[str, Any] = {"none": "-", "sqrt": (0, (1, 1.2)), "linear": (0, (4, 1.6))}
OTHER_RULE_LINE = (0, (5, 1.2, 1, 1.2))
SIGNED_COLORMAP = "RdBu_r"  # for values below and above zero
UNDATED: dict[str, dict[str, str | None]] = {  # metadata to leave out, by format
    "pdf": {"CreationDate": None},
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
}
LOOP_MARKERS = {1: "o", 2: "s", 4: "^", 8: "D", 16: "v", 32: "P", 64: "X", 3: "<", 6: "p", 9: ">", 12: "d"}

_RC: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "mathtext.fontset": "dejavusans",
    "font.size": 8.0,
    "axes.titlesize": 8.5,
    "axes.titley": 1.0,  # without it every draw lays out all ticks once more to place the title
    "axes.labelsize": 8.5,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "legend.fontsize": 7.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.ymargin": Y_MARGIN,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.4,
    "lines.markersize": 4.0,
    "legend.frameon": False,
    "legend.handlelength": 1.8,
    "legend.handletextpad": 0.5,
    "legend.columnspacing": 1.3,
    "legend.borderaxespad": 0.3,
    "figure.dpi": 200,
    "savefig.dpi": 200,
    "pdf.fonttype": 42,  # text stays text that can be searched and edited
    "svg.hashsalt": "loopsweep",  # the same ids every time
}


@contextmanager
def context() -> Iterator[None]:
    """The style, whatever the user's matplotlibrc has. Make and save a figure inside one `with` block."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(cast(Any, _RC))
        yield


def loop_colors(loop_counts: Sequence[int]) -> dict[int, str]:
    """A hex colour per loop count N, light to dark, even in log2 N from 1 to the largest."""
    octaves = math.log2(max(loop_counts)) or 1.0
    return {n: _shade(math.log2(n) / octaves) for n in loop_counts}


def ordered_colors(values: Sequence[float]) -> dict[float, str]:
    """A hex colour per value of an ascending sequence, light to dark, in even steps."""
    last = max(len(values) - 1, 1)
    return {value: _shade(place / last) for place, value in enumerate(values)}


def _shade(darkness: float) -> str:
    low, high = LOOP_COLORMAP_RANGE
    return to_hex(mpl.colormaps[LOOP_COLORMAP](low + (high - low) * darkness))


def loop_marker(n_loops: int) -> str:
    """The marker of a loop count. With its colour it tells N twice, for print without colour."""
    return LOOP_MARKERS.get(n_loops, "h")


def rule_looks(rules: Iterable[str]) -> dict[str, Look]:
    """Colour and marker of each rule; no two are alike.

    The rows of `RULES` look the same in every figure. Rules given by their exponents come after them, in order.

    Raises:
        UserError: if there are more rules than looks.
    """
    shown = set(rules)
    others = [rule for rule in [*RULES, *sorted(shown - set(RULES))] if rule not in RULE_LOOKS]
    if len(others) > (most := math.lcm(len(FREE_COLORS), len(FREE_MARKERS))):
        raise UserError(
            f"rule {others[most]!r}: a figure tells {most + len(RULE_LOOKS)} rules apart at most; draw fewer"
        )
    free = zip(others, cycle(FREE_COLORS), cycle(FREE_MARKERS), strict=False)
    looks = RULE_LOOKS | {rule: {"color": color, "marker": marker} for rule, color, marker in free}
    return {rule: look for rule, look in looks.items() if rule in shown}


def stabiliser_looks(stabilisers: Iterable[tuple[str, str]]) -> dict[tuple[str, str], Look]:
    """Colour, marker and line style of each (architecture, rule).

    An architecture looks the same in every figure. One that is not in `ARCHITECTURE_LOOKS` gets a look by its place
    among the others.
    """
    shown = list(dict.fromkeys(stabilisers))
    others = sorted({architecture for architecture, _ in shown} - set(ARCHITECTURE_LOOKS))
    free = zip(others, cycle(OTHER_COLORS), cycle(FREE_MARKERS), strict=False)
    looks = ARCHITECTURE_LOOKS | {name: {"color": color, "marker": marker} for name, color, marker in free}
    return {one: {**looks[one[0]], "linestyle": RULE_LINES.get(one[1], OTHER_RULE_LINE)} for one in shown}


def add_footer(figure: Figure, text: str) -> None:
    """A small line at the foot: preset, seeds, and how many of the expected points are in the figure.

    It is smaller still where the name of the sweep is so long that it would leave the page.
    """
    width = TextPath((0, 0), text, size=FOOTER_SIZE).get_extents().width / 72
    size = FOOTER_SIZE * min(1.0, 0.97 * figure.get_figwidth() / width)
    figure.text(0.5, 0.07 / figure.get_figheight(), text, ha="center", va="bottom", fontsize=size, color=MUTED)


def save(figure: Figure, out: Path, stem: str, formats: Sequence[str]) -> list[Path]:
    """Write `out/stem.<format>` for each of `formats`, which are of `pdf`, `png`, `svg`; return the files.

    Raises:
        UserError: if `out` cannot be written to.
    """
    files = [out / f"{stem}.{name}" for name in formats]
    with writing_to(out):
        _draw_side_by_side(figure, files)
    return files


def _draw_side_by_side(figure: Figure, files: Sequence[Path]) -> None:
    """Draw the first file here and each other one in a fork of this process. One drawing takes a core a second or two.

    A file that a fork could not draw is drawn here again, so that its error is raised.
    """
    if sys.platform != "linux":  # on other systems a fork may not use every library that its parent has loaded
        for file in files:
            _draw(figure, file)
        return
    fork = multiprocessing.get_context("fork")
    others = [(file, fork.Process(target=_draw_or_exit, args=(figure, file))) for file in files[1:]]
    for _, process in others:
        process.start()
    try:
        _draw(figure, files[0])
    finally:
        for _, process in others:
            process.join()
    for file, process in others:
        if process.exitcode != 0:
            _draw(figure, file)


def _draw(figure: Figure, file: Path) -> None:
    figure.savefig(file, format=file.suffix[1:], metadata=UNDATED[file.suffix[1:]])


def _draw_or_exit(figure: Figure, file: Path) -> None:
    try:
        _draw(figure, file)
    except Exception:
        sys.exit(1)


def save_csv(table: pd.DataFrame, out: Path, stem: str) -> Path:
    """Write `out/stem.csv` in full precision, NaN as an empty field. Raises `UserError` as `save` does."""
    file = out / f"{stem}.csv"
    with writing_to(out):
        table.to_csv(file, index=False, lineterminator="\n")
    return file


def save_json(values: Mapping[str, Any], out: Path, stem: str) -> Path:
    """Write `out/stem.json`. Raises `UserError` as `save` does."""
    file = out / f"{stem}.json"
    with writing_to(out):
        file.write_text(json.dumps(values, separators=(",", ":")) + "\n")
    return file


@contextmanager
def writing_to(out: Path) -> Iterator[None]:
    """Make `out` if it is missing. Raises `UserError` if it, or a file in the block, cannot be written."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        why = error.strerror or error
        raise UserError(f"--out: cannot write to {out} ({why}); give another directory") from error
