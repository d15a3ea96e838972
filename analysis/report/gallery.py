"""Every figure of a report: drawn by its own script, as SVG that can stand in a page beside others."""

import contextlib
import importlib
import importlib.util
import io
import math
import os
import re
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

from analysis.claims.transfer import tuned_rate
from analysis.records.result_sets import Records


def at_tuned_rate(records: Records) -> list[str]:
    """`--rate` for figures of trained models: the rate at which their claims are judged, see `analysis.claims`."""
    cells = records.cells.get("lr_transfer")
    rate = math.nan if cells is None else tuned_rate(cells)
    return [] if math.isnan(rate) else ["--rate", repr(rate)]


def no_options(_: Records) -> list[str]:
    """Nothing beside what to read and where to write."""
    return []


@dataclass(frozen=True)
class FigureScript:
    """A figure: the module `analysis.<module>` with `main(argv) -> int`, the experiment that it draws, more options."""

    id: str
    title: str
    module: str
    experiment: str
    options: Callable[[Records], list[str]] = no_options


# One line a figure, in the paper's order.
SCRIPTS = (
    FigureScript("fig2", "Figure 2 · Residual norm in the first ten steps", "plot_fig2", "init_probe"),
    FigureScript("fig3", "Figure 3 · Increments at initialisation", "plot_fig3", "increments"),
    FigureScript("fig4", "Figure 4 · What one optimizer step changes", "plot_fig4", "init_probe"),
    FigureScript("fig5", "Figure 5 · Learning-rate transfer", "plot_fig5", "lr_transfer"),
    FigureScript("fig6", "Figure 6 · Increments after training, N = 8", "plot_fig6", "lr_transfer", at_tuned_rate),
    FigureScript("fig7", "Figure 7 · Residual norm along the loop", "plot_fig7", "lr_transfer", at_tuned_rate),
    FigureScript("fig8", "Figure 8 · Increments after training, N = 4", "plot_fig8", "lr_transfer", at_tuned_rate),
    FigureScript("fig9", "Figure 9 · What each of ten optimizer steps changes", "plot_fig9", "init_probe"),
    FigureScript("exponent", "Beyond the paper · The exponent of N", "plot_exponent", "exponent"),
    FigureScript("theory", "Theory · The toy model", "plot_theory", "theory"),
)


@dataclass(frozen=True)
class Drawing:
    """A drawn figure; `svg` is empty where its script says why not, in `problem`."""

    script: FigureScript
    svg: str
    problem: str = ""


@dataclass(frozen=True)
class _Task:
    script: FigureScript
    argv: list[str]
    prefix: str


def draw_all(places: Mapping[str, Records]) -> dict[str, list[Drawing]]:
    """The figures of every experiment of every place, on all cores.

    The key of a place sets the ids in its SVG apart from those of others.
    """
    tasks = {key: _tasks(records, key) for key, records in places.items()}
    # Forked, because a fresh interpreter would import for longer than it draws.
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), get_context("fork")) as pool:
        drawn = {key: [pool.submit(_draw, task) for task in of_place] for key, of_place in tasks.items()}
        return {key: [one for future in futures for one in future.result()] for key, futures in drawn.items()}


def _tasks(records: Records, prefix: str) -> list[_Task]:
    return [
        _Task(script, [*records.arguments[script.experiment], *script.options(records)], f"{prefix}-{script.id}")
        for script in SCRIPTS
        if script.experiment in records.arguments and importlib.util.find_spec(f"analysis.{script.module}")
    ]


def _draw(task: _Task) -> list[Drawing]:
    module = importlib.import_module(f"analysis.{task.script.module}")
    printed, errors = io.StringIO(), io.StringIO()
    with TemporaryDirectory() as folder:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(errors):
            status = module.main([*task.argv, "--out", folder, "--format", "svg"])
        if status != 0:
            return [Drawing(task.script, "", errors.getvalue().strip().removeprefix("error: "))]
        return [
            Drawing(task.script, embedded(file.read_text(), f"{task.prefix}-{number}", task.script.title))
            for number, file in enumerate(sorted(Path(folder).glob("*.svg")))
        ]


def embedded(svg: str, prefix: str, label: str) -> str:
    """An SVG file's text as an element of a page: with ids of its own, shorter coordinates and no style sheet."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*|<style.*?</style>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    svg = re.sub(r'((?:xlink:)?href="|url\()#', rf"\g<1>#{prefix}-", svg)
    svg = re.sub(r' (d|x|y|points)="([^"]*)"', _rounded, svg)
    head = f'<svg role="img" aria-label="{label}"'
    return re.sub(r'<svg(.*?) width="[^"]*" height="[^"]*"', rf"{head}\1", svg, count=1)


def _rounded(attribute: re.Match[str]) -> str:
    numbers = re.sub(r"-?\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}", attribute[2])
    return f' {attribute[1]}="{" ".join(numbers.split())}"'
