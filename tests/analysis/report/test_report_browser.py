"""The report in a real browser, headless Chromium: quiet, alone, readable on a phone, usable from the keyboard."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
def page_file(results: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with every figure there is."""
    root = tmp_path_factory.mktemp("page")
    assert main(["--runs", str(root / "none"), "--results", str(results), "--out", str(root)]) == 0
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
        figure.title for experiments in (PAPER, QUICK) for figure in FIGURES if figure.experiment in experiments
    ]
    for figure in page.locator("figure").all():
        drawing = figure.locator("svg")
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
