"""Every figure of a report: drawn by its own script, as SVG that can stand in a page beside others."""

import contextlib
import importlib.util
import io
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from analysis.evidence.transfer import tuned_rate
from analysis.records import Records


def at_tuned_rate(records: Records) -> list[str]:
    """`--rate` for figures of trained models: the rate at which their claims are judged, see `analysis.evidence`."""
    rate = tuned_rate(records.cells["lr_transfer"])
    return [] if math.isnan(rate) else ["--rate", repr(rate)]


@dataclass(frozen=True)
class FigureScript:
    """A figure: the module `analysis.<module>` with `main(argv) -> int`, the experiment that it draws, more options."""

    id: str
    title: str
    module: str
    experiment: str
    options: Callable[[Records], list[str]] = lambda _: []


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


def draw_all(records: Records, prefix: str) -> list[Drawing]:
    """The figures of all experiments in `records`; `prefix` sets the ids in their SVG apart from other drawings'."""
    return [
        drawing
        for script in SCRIPTS
        if script.experiment in records.arguments and importlib.util.find_spec(f"analysis.{script.module}")
        for drawing in _draw(script, records, f"{prefix}-{script.id}")
    ]


def _draw(script: FigureScript, records: Records, prefix: str) -> list[Drawing]:
    module = importlib.import_module(f"analysis.{script.module}")
    printed, errors = io.StringIO(), io.StringIO()
    with TemporaryDirectory() as folder:
        argv = [*records.arguments[script.experiment], *script.options(records), "--out", folder, "--format", "svg"]
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(errors):
            status = module.main(argv)
        if status != 0:
            return [Drawing(script, "", errors.getvalue().strip().removeprefix("error: "))]
        files = sorted(Path(folder).glob("*.svg"))
        return [
            Drawing(script, embedded(file.read_text(), f"{prefix}-{number}", script.title))
            for number, file in enumerate(files)
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
