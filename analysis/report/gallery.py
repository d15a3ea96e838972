"""Every figure of a report, drawn by its script as SVG that can be in one page with others."""

import contextlib
import io
import math
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

from analysis import figures
from analysis.claims.transfer import tuned_rate
from analysis.figures import FigureRow
from analysis.plotting.marks import MARK
from analysis.records.result_sets import Records
from analysis.stats.accuracy import has_accuracy

CURVES = tuple(  # of any trained runs; not among the figures of the papers
    FigureRow("curves", "Curves of the runs", experiment)
    for experiment, row in figures.EXPERIMENTS.items()
    if row.group != "init"
)


def at_tuned_rate(records: Records) -> list[str]:
    """`--rate` for figures of trained models: the rate at which their claims are judged, see `analysis.claims`."""
    cells = records.cells.get("lr_transfer")
    rate = math.nan if cells is None else tuned_rate(cells)
    return [] if math.isnan(rate) else ["--rate", repr(rate)]


@dataclass(frozen=True)
class Drawing:
    """A drawn figure; without an `svg`, `problem` is the error of its script.

    Attributes:
        key: unique in the page.
        points: where its points are and which runs they show, JSON of `analysis.plotting.marks.record`.
        command: redraws it.
        whole: the same without a clipped axis, if it has one.
    """

    figure: FigureRow
    svg: str
    problem: str = ""
    key: str = ""
    points: str = ""
    command: str = ""
    whole: "Drawing | None" = None


@dataclass(frozen=True)
class _Task:
    figure: FigureRow
    argv: list[str]
    prefix: str


def draw_all(places: Mapping[str, Records], *, curves: bool = False) -> dict[str, list[Drawing]]:
    """The figures of every experiment of every place, drawn on all cores.

    With `curves`, those of the runs too. The key of a place makes the ids in its SVG different from those of others.
    """
    shown = (*figures.FIGURES, *(CURVES if curves else ()))
    tasks = {key: _tasks(records, key, shown) for key, records in places.items()}
    # Forked, because a fresh interpreter takes longer to import than to draw.
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), get_context("fork")) as pool:
        drawn = {key: [pool.submit(_draw, task) for task in of_place] for key, of_place in tasks.items()}
        return {key: [future.result() for future in futures] for key, futures in drawn.items()}


def _tasks(records: Records, prefix: str, shown: Sequence[FigureRow]) -> list[_Task]:
    rate = at_tuned_rate(records)
    return [
        _Task(
            figure,
            [*records.arguments[figure.experiment], *(rate if figure.at_tuned_rate else [])],
            f"{prefix}-{figure.name}",
        )
        for figure in shown
        if figure.experiment in records.arguments
        and (not figure.on_tasks or has_accuracy(records.cells[figure.experiment]))
    ]


def _draw(task: _Task) -> Drawing:
    drawing = _run(task)
    if not task.figure.clips or drawing.problem:
        return drawing
    whole = _run(replace(task, argv=[*task.argv, "--whole"], prefix=f"{task.prefix}-whole"))
    return drawing if whole.points == drawing.points else replace(drawing, whole=whole)


def _run(task: _Task) -> Drawing:
    printed, errors = io.StringIO(), io.StringIO()
    command = shlex.join(["python", f"analysis/plot_{task.figure.name}.py", *task.argv])
    with TemporaryDirectory() as folder:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(errors):
            status = task.figure.module().main([*task.argv, "--out", folder, "--format", "svg,json"])
        if status != 0:
            problem = errors.getvalue().strip().removeprefix("error: ")
            return Drawing(task.figure, "", problem, task.prefix, command=command)
        svg, points = (Path(folder, f"{task.figure.name}.{suffix}").read_text() for suffix in ("svg", "json"))
    return Drawing(
        task.figure,
        embedded(svg, task.prefix, task.figure.title),
        key=task.prefix,
        points=points.strip().replace("</", "<\\/"),
        command=command,
    )


def embedded(svg: str, prefix: str, label: str) -> str:
    """An SVG file's text as an element of a page: short, without style sheet, and all ids start with `prefix`.

    Ids stay where `analysis.plotting.marks` gave them. Others are numbered where something refers to them, or dropped.
    """
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r">\s+<", ">\n<", svg).replace("xlink:href=", "href=")
    referred = dict.fromkeys(re.findall(r'(?:href="|url\()#([^")]+)', svg))
    names = {name: f"{prefix}-{number}" for number, name in enumerate(referred)}
    names |= {name: f"{prefix}-{name}" for name in re.findall(rf' id="({MARK}[^"]*)"', svg)}
    svg = re.sub(r' id="([^"]*)"', lambda own: f' id="{names[own[1]]}"' if own[1] in names else "", svg)
    svg = re.sub(r'(href="|url\()#([^")]+)', lambda reference: f"{reference[1]}#{names[reference[2]]}", svg)
    svg = re.sub(r' (d|x|y|points)="([^"]*)"', _path, svg)
    svg = re.sub(r"translate\([^)]*\)", lambda place: _rounded(place[0]), svg)
    svg = re.sub(r' style="[^"]*"', lambda style: style[0].replace(": ", ":").replace("; ", ";"), svg)
    head = f'<svg role="img" aria-label="{label}"'
    return re.sub(r'<svg(.*?) width="[^"]*" height="[^"]*"', rf"{head}\1", svg, count=1)


def share_glyphs(drawings: Mapping[str, Sequence[Drawing]]) -> tuple[dict[str, list[Drawing]], str]:
    """The drawings of a page without the outlines of their letters, and these as SVG, each once for the page."""
    numbers: dict[str, int] = {}

    def without(drawing: Drawing) -> Drawing:
        names = {name: numbers.setdefault(outline, len(numbers)) for name, outline in _GLYPH.findall(drawing.svg)}
        svg = re.sub(r"<defs>\s*</defs>\n?", "", _GLYPH.sub("", drawing.svg))
        svg = re.sub(r'href="#([^"]+)"', lambda use: f'href="#g{names[use[1]]}"' if use[1] in names else use[0], svg)
        return replace(drawing, svg=svg, whole=drawing.whole and without(drawing.whole))

    found = {key: [without(drawing) for drawing in of_place] for key, of_place in drawings.items()}
    outlines = "\n".join(f'<path id="g{number}" {outline}/>' for outline, number in numbers.items())
    hidden = f'<svg class="glyphs" width="0" height="0" aria-hidden="true"><defs>\n{outlines}\n</defs></svg>'
    return found, hidden if numbers else ""


# Of a letter: its id, and the rest of its element. Matplotlib draws every font at 64 units, and scales it.
_GLYPH = re.compile(r'<path id="([^"]*)" (d="[^"]*" transform="scale\(0\.015625\)")/>\n?')


def _rounded(text: str) -> str:
    return re.sub(r"-?\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}", text)


def _path(attribute: re.Match[str]) -> str:
    text = " ".join(_rounded(attribute[2]).split())
    text = re.sub(r"(?<=L )[^A-Za-z]+(?:L [^A-Za-z]+)+", lambda lines: lines[0].replace("L ", ""), text)
    return f' {attribute[1]}="{text}"'  # a path's lines in a row need one L
