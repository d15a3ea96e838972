"""The report in a real browser, headless Chromium: quiet, alone, readable on a phone, usable from the keyboard."""

import json
import math
import os
import random
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.figures import FIGURES
from analysis.report.page import main

WIDTHS = (390, 1440)
ORIGIN = {"processor": ["a CPU", "another"], "commit": ["0123456789abcdef", "fedcba9876543210"], "command": "make"}
VALUES = {"batch.sequences": 16, "batch.seq_len": 64, "data": "a08aab48764044ab"}
PAPER, QUICK = ("lr_transfer",), ("init_probe", "increments", "theory", "exponent", "architectures")  # by preset


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium; without it tests are skipped, or fail in CI."""
    program = shutil.which("chromium")
    if program is None:
        missing = "no chromium: apt-get install chromium"
        pytest.fail(missing) if os.environ.get("CI") == "true" else pytest.skip(missing)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def stored(results: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stored results of every experiment, with their origin. Figure 5 has two seeds and one loss far above all."""
    folder = shutil.copytree(results, tmp_path_factory.mktemp("stored") / "all")
    cells = pd.read_parquet(folder / "cells.parquet")
    outlier = (cells["experiment"] == "lr_transfer") & (cells["panel"] == "a") & (cells["base_lr"] == 5e-4)
    cells.loc[outlier & (cells["n_loops"] == 8), "val_loss"] = 6.5
    again = cells[cells["experiment"] == "lr_transfer"]
    draw = np.random.default_rng(0)
    noise = {run_id: draw.normal(0.0, 0.01) for run_id in again["run_id"].unique()}  # N = 1 is in two panels
    losses = again["val_loss"] + again["run_id"].map(noise)
    again = again.assign(seed=1, run_id=again["run_id"] + "-again", val_loss=losses)
    cells = pd.concat([cells, again], ignore_index=True)
    cells.to_parquet(folder / "cells.parquet")
    origins = {
        sweep: {**ORIGIN, "values": VALUES, "run_hours": 3.0, "finished": 3 * place}
        for place, sweep in enumerate(cells["sweep"].unique(), 1)
    }
    (folder / "provenance.json").write_text(json.dumps(origins))
    return folder


@pytest.fixture(scope="module")
def page_file(stored: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with every figure there is."""
    root = tmp_path_factory.mktemp("page")
    assert main(["--runs", str(root / "none"), "--results", str(stored), "--out", str(root)]) == 0
    return root / "report.html"


@pytest.fixture(params=[(width, scheme) for width in WIDTHS for scheme in ("light", "dark")], ids=str)
def page(request: pytest.FixtureRequest, browser: Any, page_file: Path) -> Iterator[Any]:
    """The page at one width and colour scheme; at the end, that it said nothing and asked for nothing else."""
    width, scheme = request.param
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    opened = context.new_page()
    said: list[str] = []
    asked: list[str] = []
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("request", lambda sent: asked.append(sent.url))
    opened.goto(page_file.as_uri())
    yield opened
    context.close()
    assert said == []
    assert asked == [page_file.as_uri()]


def test_every_figure_is_visible_and_nothing_overflows(page: Any) -> None:
    width = page.viewport_size["width"]
    assert [title.split("\n")[0] for title in page.locator("figcaption").all_inner_texts()] == [
        figure.title
        for experiments in (PAPER, QUICK)
        for figure in FIGURES
        if figure.experiment in experiments and not figure.on_tasks  # the records are of text
    ]
    for figure in page.locator("figure").all():
        drawing = figure.locator("svg").first
        drawing.scroll_into_view_if_needed()
        assert drawing.is_visible()
        box = drawing.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
        assert box["width"] > 0.8 * min(width, 896)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_figures_lie_on_a_light_card_in_either_scheme(page: Any) -> None:
    colour = "element => getComputedStyle(element).backgroundColor"
    assert page.locator(".plot").first.evaluate(colour) == "rgb(255, 255, 255)"


def test_theme_button_turns_the_scheme_over_and_back(page: Any) -> None:
    colour = "getComputedStyle(document.body).backgroundColor"
    before = page.evaluate(colour)
    page.locator("#theme").press("Enter")
    assert page.evaluate(colour) != before
    page.locator("#theme").press("Enter")
    assert page.evaluate(colour) == before


def test_tables_are_sorted_by_number_from_the_keyboard(page: Any) -> None:
    table = page.locator("table.data").first
    heading = table.locator("th", has_text="loss")
    column = heading.evaluate("th => th.cellIndex") + 1
    cells = f"tbody tr td:nth-child({column})"
    for order, reverse in (("ascending", False), ("descending", True)):
        heading.locator("button").press("Enter")
        assert heading.get_attribute("aria-sort") == order
        losses = [float(text) for text in table.locator(cells).all_inner_texts()]
        assert losses == sorted(losses, reverse=reverse)


def test_claims_can_be_read_and_unfolded(page: Any) -> None:
    row = page.locator("#fig5-transfer")
    assert all(badge.is_visible() for badge in row.locator(".badge").all())
    row.locator("summary").press("Enter")
    assert row.locator("dl").is_visible()


def figure_of(page: Any, name: str) -> Any:
    """The figure of one script."""
    return page.locator(f"figure[id$='-{name}']")


SCREEN_POINTS = """plot => {
  const matrix = plot.querySelector('svg').getScreenCTM();
  const { curves, runs } = JSON.parse(plot.querySelector('script').textContent);
  return curves.flatMap(curve => curve.points.map(([x, y, value, low, high, numbers]) => {
    const at = new DOMPoint(x, y).matrixTransform(matrix);
    return [at.x, at.y, curve.value ? [value, low, high] : null, numbers.map(number => runs[number])];
  }));
}"""


def read(pattern: str, text: str) -> float:
    """The number at the group of a pattern that `text` contains."""
    found = re.search(pattern, text)
    assert found, f"{pattern} in {text}"
    return float(found[1].replace(",", ""))


def check_run(row: str, cell: "pd.Series[Any]", mean_hours: float) -> None:
    """The text of a run has its record's values; its hours are the sweep's mean if it has none."""
    loss = f"loss {cell['val_loss']:.4f}" if np.isfinite(cell["val_loss"]) else "no loss"
    for shown in (f"seed {cell['seed']}", cell["state"], loss, f"step {cell['step']} of {cell['steps']}"):
        assert str(shown) in row
    assert read(r"([\d,]+) tokens", row) == cell["steps"] * VALUES["batch.sequences"] * VALUES["batch.seq_len"]
    hours = cell["step_seconds"] / 3600 if np.isfinite(cell["step_seconds"]) else mean_hours
    assert ("the sweep's mean" in row) == bool(np.isnan(cell["step_seconds"]))
    assert read(r"([\d.e-]+) h\b", row) == pytest.approx(hours, rel=0.05)  # two digits are shown of a mean


def test_forty_points_under_the_pointer_read_as_in_the_records(page: Any, stored: Path) -> None:
    cells = pd.read_parquet(stored / "cells.parquet").drop_duplicates("run_id").set_index("run_id")
    origins = json.loads((stored / "provenance.json").read_text())
    chosen, tip = random.Random(0), page.locator("#tip")
    with_interval = 0
    for name in ("fig5", "exponent", "architectures", "test_time"):
        plot = figure_of(page, name).locator(".plot:visible")
        plot.scroll_into_view_if_needed()
        points = plot.evaluate(SCREEN_POINTS)
        height = page.viewport_size["height"]
        alone = [
            one
            for one in points
            if 0 < one[1] < height and all(other is one or math.dist(one[:2], other[:2]) > 2 for other in points)
        ]
        assert len(alone) > 10
        for x, y, values, run_ids in chosen.sample(alone, 10):
            page.mouse.move(x, y)
            text = tip.inner_text()
            if values is not None:
                value, low, high = values
                interval = [] if low is None or low == high else [f"{low:.4f}…{high:.4f}, 95%"]
                assert all(shown in text for shown in (f"{value:.4f}", *interval))
                with_interval += len(interval)
            for name, expected in (("machine", "a CPU, another"), ("commit", "0123456789, fedcba9876")):
                assert f"{name}\n{expected}" in text
            assert f"data\n{VALUES['data']}" in text
            rows = dict(
                zip(tip.locator(".run-id").all_inner_texts(), tip.locator(".run").all_inner_texts(), strict=True)
            )
            assert set(rows) == set(run_ids)
            for run_id, row in rows.items():
                origin = origins[cells.loc[run_id, "sweep"]]
                check_run(row, cells.loc[run_id], origin["run_hours"] / origin["finished"])
    assert with_interval


def test_a_point_is_found_and_its_command_opened_by_keyboard_alone(page: Any) -> None:
    plot, details = figure_of(page, "fig5").locator(".plot:visible"), page.locator("#details")
    plot.focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowDown"):
        page.keyboard.press(key)
    assert "N = 2" in page.locator("#tip").inner_text()
    assert "N = 2" in page.locator("#said").text_content()
    page.keyboard.press("Enter")
    assert details.is_visible()
    assert "loopsweep submit +sweep=lr_transfer preset=paper panel=a model.n_loops=2" in details.inner_text()
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]
    page.keyboard.press("Escape")
    assert details.is_hidden()
    assert plot.evaluate("plot => plot === document.activeElement")


def test_the_legend_hides_and_shows_curves_and_their_points_by_keyboard(page: Any) -> None:
    figure = figure_of(page, "fig5")
    chip, first = figure.get_by_role("button", name="N 1", exact=True), figure.locator("[id$='-mark0-0']").first
    chip.press("Enter")
    assert chip.get_attribute("aria-pressed") == "false"
    assert first.is_hidden()
    figure.locator(".plot:visible").focus()
    page.keyboard.press("ArrowRight")
    assert "N = 2" in page.locator("#tip").inner_text()
    chip.press("Enter")
    assert first.is_visible()


def test_the_loss_axis_reaches_the_highest_loss_and_comes_back(page: Any) -> None:
    figure = figure_of(page, "fig5")
    plots = figure.locator(".plot")
    assert [plots.nth(0).is_visible(), plots.nth(1).is_visible()] == [True, False]
    figure.get_by_role("button", name="y axis: all").press("Enter")
    assert [plots.nth(0).is_visible(), plots.nth(1).is_visible()] == [False, True]
    figure.get_by_role("button", name="y axis: optimum").press("Enter")
    assert [plots.nth(0).is_visible(), plots.nth(1).is_visible()] == [True, False]


def test_tables_and_points_are_saved_as_csv(page: Any) -> None:
    with page.expect_download() as saved:
        page.locator("table.data").first.get_by_role("button", name="as CSV").press("Enter")
    table = pd.read_csv(saved.value.path())
    assert {"panel", "optimum (grid)", "loss"} <= set(table)
    with page.expect_download() as saved:
        figure_of(page, "fig5").get_by_role("button", name="Points as CSV").press("Enter")
    points = pd.read_csv(saved.value.path())
    assert saved.value.suggested_filename.endswith("fig5.csv")
    means = points.groupby(["panel", "N", "η0"])[["value", "val_loss"]].mean()
    assert len(means) == len(points) / 2  # seeds
    assert (means["value"] - means["val_loss"]).abs().max() < 1e-6


def test_without_scripts_the_page_shows_the_clipped_figures_and_their_commands(browser: Any, page_file: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    opened = context.new_page()
    opened.goto(page_file.as_uri())
    figure = figure_of(opened, "fig5")
    assert [one.is_visible() for one in figure.locator(".plot").all()] == [True, False]
    assert "python analysis/plot_fig5.py --results" in figure.locator(".made").inner_text()
    assert opened.locator(".chip").count() == 0
    context.close()
