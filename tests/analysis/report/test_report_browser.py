"""The report in a real browser, headless Chromium: quiet, alone, readable on a phone, usable from the keyboard."""

import math
import os
import random
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
    """Stored results of every experiment, with one loss that is far above the others of Figure 5."""
    folder = shutil.copytree(results, tmp_path_factory.mktemp("stored") / "all")
    cells = pd.read_parquet(folder / "cells.parquet")
    outlier = (cells["experiment"] == "lr_transfer") & (cells["panel"] == "a") & (cells["base_lr"] == 5e-4)
    cells.loc[outlier & (cells["n_loops"] == 8), "val_loss"] = 6.5
    cells.to_parquet(folder / "cells.parquet")
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
    return [at.x, at.y, curve.value ? value : null, numbers.map(number => runs[number])];
  }));
}"""


def test_forty_points_under_the_pointer_read_as_in_the_parquet(page: Any, stored: Path) -> None:
    cells = pd.read_parquet(stored / "cells.parquet").drop_duplicates("run_id").set_index("run_id")
    chosen, tip = random.Random(0), page.locator("#tip")
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
        for x, y, value, run_ids in chosen.sample(alone, 10):
            page.mouse.move(x, y)
            text = tip.inner_text()
            assert value is None or f"{value:.4f}" in text
            rows = dict(
                zip(tip.locator(".run-id").all_inner_texts(), tip.locator(".run").all_inner_texts(), strict=True)
            )
            assert set(rows) == set(run_ids)
            for run_id, row in rows.items():
                cell = cells.loc[run_id]
                loss = f"loss {cell['val_loss']:.4f}" if np.isfinite(cell["val_loss"]) else "no loss"
                for shown in (f"seed {cell['seed']}", cell["state"], loss, f"step {cell['step']} of {cell['steps']}"):
                    assert str(shown) in row


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
    assert (points["value"] - points["val_loss"]).abs().max() < 1e-6  # one seed


def test_without_scripts_the_page_shows_the_clipped_figures_and_their_commands(browser: Any, page_file: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    opened = context.new_page()
    opened.goto(page_file.as_uri())
    figure = figure_of(opened, "fig5")
    assert [one.is_visible() for one in figure.locator(".plot").all()] == [True, False]
    assert "python analysis/plot_fig5.py --results" in figure.locator(".made").inner_text()
    assert opened.locator(".chip").count() == 0
    context.close()
