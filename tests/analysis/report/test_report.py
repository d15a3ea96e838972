"""The report from planted records: every claim has a verdict, every figure is in the page, nothing is left outside."""

import html
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import plot_fig5
from analysis.claims.table import CLAIMS, by_source
from analysis.claims.verdict import OPEN_REASONS, Finding, Verdict
from analysis.records.result_sets import Records, find_records
from analysis.report import gallery, legend
from analysis.report import page as report

REPOSITORY = Path(__file__).parents[3]
PAGE_BYTES = 5 * 2**20
CellTable = Callable[..., pd.DataFrame]


def store(cells: pd.DataFrame, folder: Path) -> Path:
    """As `loopsweep export` does, with three seeds, a diverged and a pending point; the folder."""
    folder.mkdir(parents=True)
    cells = cells.assign(val_loss=cells["val_loss"] + 1e-3 * np.cos(cells.index.to_numpy() ** 2))
    diverged = (cells["panel"] == "d") & (cells["n_loops"] == 8) & (cells["base_lr"] > 3e-3)
    pending = (cells["panel"] == "c") & (cells["n_loops"] == 2) & (cells["base_lr"] == 5e-4)
    cells.loc[diverged, ["state", "val_loss", "reason"]] = ["diverged", np.nan, "loss 9 <b> above 4.26 | step 30"]
    cells.loc[pending, ["state", "val_loss"]] = ["pending", np.nan]
    cells.to_parquet(folder / "cells.parquet")
    origin = {
        "command": "make sweep-lr-transfer",
        "runs": 360,
        "finished": 357,
        "commit": ["0123456789abcdef+dirty"],
        "packages": {"torch": "2.13.0"},
        "python": "3.11.7",
        "processor": ["Some CPU"],
        "run_hours": 1.5,
        "core_hours": 2.25,
    }
    (folder / "provenance.json").write_text(json.dumps({cells["sweep"].iloc[0]: origin}))
    return folder


@pytest.fixture(scope="module")
def written(cell_table: CellTable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a report on two places."""
    root = tmp_path_factory.mktemp("report")
    store(cell_table(seeds=(0, 1, 2)), root / "results" / "three")
    store(cell_table(loop_counts=(1, 2)).query("panel in ('a', 'b')"), root / "results" / "two")
    options = ["--runs", str(root / "none"), "--results", str(root / "results"), "--out", str(root / "out")]
    assert report.main(options) == 0
    return root / "out"


def test_every_claim_has_a_verdict_in_page_and_text(written: Path) -> None:
    page, text = (written / "report.html").read_text(), (written / "report.md").read_text()
    for claim in CLAIMS:
        [row] = re.findall(rf'<tr id="{claim.id}">.*?</tr>', page, flags=re.DOTALL)
        assert row.count('class="badge') == 2
        [line] = [line for line in text.splitlines() if f"({claim.id})" in line]
        assert len(re.findall(r"\*\*(holds|fails|inconclusive|not measured)\*\*", line)) == 2


def test_page_needs_nothing_from_elsewhere(written: Path) -> None:
    page = (written / "report.html").read_text()
    assert len(page.encode()) < PAGE_BYTES
    addresses = set(re.findall(r"https?://[^\"' )<]+", page))
    papers = {source.address for source, _ in by_source() if source.address}
    assert len(papers) == 2
    assert addresses == papers | {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert not re.findall(r"<(?:script|img|iframe)[^>]* src=|@import|<link (?!rel=\"icon\" href=\"data:)", page)


def test_ids_are_unique_and_every_reference_meets_one(written: Path) -> None:
    page = (written / "report.html").read_text()
    ids = Counter(re.findall(r'\bid="([^"]+)"', page))
    assert [name for name, count in ids.items() if count > 1] == []
    assert set(re.findall(r'(?:href="|url\()#([^")]+)', page)) <= set(ids)


def test_every_letter_is_outlined_once(written: Path) -> None:
    page = (written / "report.html").read_text()
    outlines = re.findall(r'd="([^"]*)" transform="scale\(0\.015625\)"', page)
    assert len(outlines) == len(set(outlines)) > 20


def test_missing_diverged_and_origin_are_told(written: Path) -> None:
    for name in ("report.html", "report.md"):
        text = (written / name).read_text()
        for told in (
            "pending",
            "diverged",
            "0123456789+dirty",
            "torch 2.13.0",
            "Some CPU",
            "2.25",
            "make sweep-lr-transfer",
        ):
            assert told in text, f"{name}: {told}"
    assert "loss 9 &lt;b&gt; above" in (written / "report.html").read_text()
    assert "loss 9 <b> above 4.26 \\| step 30" in (written / "report.md").read_text()


def test_markdown_tables_have_as_many_cells_as_headings(written: Path) -> None:
    widths: list[int] = []
    for line in (written / "report.md").read_text().splitlines():
        if not line.startswith("|"):
            widths = []
            continue
        widths.append(len(re.findall(r"(?<!\\)\|", line)))
        assert widths[-1] == widths[0], line


def test_without_any_record_there_is_a_report(tmp_path: Path) -> None:
    assert report.main(["--runs", str(tmp_path / "r"), "--results", str(tmp_path / "s"), "--out", str(tmp_path)]) == 0
    assert "holds" in (tmp_path / "report.md").read_text()  # the parameter counts need none


def test_unwritable_out_is_one_line_and_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "taken").write_text("a file")
    options = ["--runs", str(tmp_path), "--results", str(tmp_path / "none"), "--out", str(tmp_path / "taken")]
    assert report.main(options) == 2
    assert capsys.readouterr().err.startswith("error: --out ")


GENERATED = ("README.md", "docs/results.md")


@pytest.fixture
def pages(tmp_path: Path) -> Path:
    """A copy of the pages that carry verdicts."""
    (tmp_path / "docs").mkdir()
    for name in GENERATED:
        (tmp_path / name).write_text((REPOSITORY / name).read_text())
    return tmp_path


def test_readme_and_results_page_have_the_verdicts_on_the_stored_results(
    pages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    assert report.main(["--readme", str(pages / "README.md")]) == 0
    for name in GENERATED:
        expected = (REPOSITORY / name).read_text()
        assert (pages / name).read_text() == expected, f"{name}: python -m analysis.report --readme README.md"


def test_readme_has_one_line_a_claim_and_the_results_page_its_numbers(pages: Path) -> None:
    short, full = ((pages / name).read_text().split(report.MARKER)[1] for name in GENERATED)
    rows = {page: [line for line in page.splitlines() if line.startswith("| ")] for page in (short, full)}
    heads = len(by_source())
    assert len(rows[short]) == len(rows[full]) == heads + len(CLAIMS)
    claim_rows = [line for line in rows[short] if not line.startswith("| claim |")]
    for claim, line in zip(CLAIMS, claim_rows, strict=True):
        statement, *verdicts = (cell.strip() for cell in line.strip("| ").split("|"))
        assert statement == claim.statement
        assert len(verdicts) == len(list((REPOSITORY / "results").glob("*/cells.parquet")))
        assert all(re.fullmatch(r"holds|fails|open: [^:]{1,20}", verdict) for verdict in verdicts)
        assert claim.paper in full


def test_claims_are_grouped_by_paper_with_the_notes_that_explain_their_verdicts(written: Path, pages: Path) -> None:
    page, text = (written / "report.html").read_text(), (written / "report.md").read_text()
    short, full = ((pages / name).read_text().split(report.MARKER)[1] for name in GENERATED)
    for one in (html.unescape(page).replace("\u00a0", " "), text, short, full):
        titles = [one.index(source.title) for source, _ in by_source()]
        assert titles == sorted(titles)
        firsts = [one.index(claims[0].statement) for _, claims in by_source()]
        assert all(title < first for title, first in zip(titles, firsts, strict=True))
        assert all(first < title for first, title in zip(firsts, titles[1:], strict=False))
    for note in [note for source, _ in by_source() for note in source.notes]:
        assert note in text
        assert note in full
        assert note not in short
    assert page.count('<p class="note">A run has collapsed if its final loss is not finite') == 1


@pytest.mark.parametrize("missing", GENERATED)
def test_without_markers_in_both_pages_neither_is_written(
    missing: str, pages: Path, cell_table: CellTable, capsys: pytest.CaptureFixture[str]
) -> None:
    results = store(cell_table(), pages / "results" / "other").parent
    (pages / missing).write_text("# Mine\n")
    before = {name: (pages / name).read_text() for name in GENERATED}
    assert report.main(["--readme", str(pages / "README.md"), "--results", str(results)]) == 2
    error = capsys.readouterr().err
    assert f"{missing} has no two lines" in error
    assert error.count("\n") == 1
    assert {name: (pages / name).read_text() for name in GENERATED} == before


def test_picture_in_the_readme_is_what_its_command_draws(tmp_path: Path) -> None:
    text = (REPOSITORY / "README.md").read_text()
    [(options, drawn, shown)] = re.findall(
        r"<!-- python analysis/plot_fig5\.py (.+) && cp figures/(\S+) (\S+) -->\n!\[[^]]+\]\(\3\)", text
    )
    results, *rest = options.removeprefix("--results ").split()
    arguments = ["--results", str(REPOSITORY / results), *rest, "--out", str(tmp_path)]
    assert plot_fig5.main(arguments) == 0
    picture = (REPOSITORY / shown).read_bytes()
    assert picture == (tmp_path / drawn).read_bytes(), f"python analysis/plot_fig5.py {options}"
    assert len(picture) < 150_000


def test_a_figure_that_cannot_be_drawn_says_why(written: Path, cell_table: CellTable) -> None:
    cells = {"lr_transfer": cell_table()}
    gone = Records("quick", "gone", {"lr_transfer": ["--results", str(written / "gone")]}, cells)
    drawings = [drawing for drawing in gallery.draw_all({"x": gone})["x"] if drawing.figure.name == "fig5"]
    assert [drawing.svg for drawing in drawings] == [""]
    assert drawings[0].problem.startswith("--results: no ")


def test_newest_sweep_of_a_preset_and_the_fullest_of_a_store_are_taken(cell_table: CellTable, tmp_path: Path) -> None:
    few, many = cell_table(loop_counts=(1,)).assign(sweep="few"), cell_table().assign(sweep="many")
    (tmp_path / "store").mkdir()
    pd.concat([many, few]).to_parquet(tmp_path / "store" / "cells.parquet")
    [records] = find_records(tmp_path / "runs", tmp_path / "store")
    assert set(records.cells["lr_transfer"]["sweep"]) == {"many"}


def test_everything_works_without_torch(cell_table: CellTable, tmp_path: Path) -> None:
    store(cell_table(seeds=(0, 1)), tmp_path / "results" / "two")
    blocked = (
        "import sys; sys.modules['torch'] = None; from analysis.report.page import main; sys.exit(main(sys.argv[1:]))"
    )
    options = ["--runs", str(tmp_path), "--results", str(tmp_path / "results"), "--out", str(tmp_path / "out")]
    subprocess.run([sys.executable, "-c", blocked, *options], check=True, cwd=REPOSITORY, capture_output=True)
    assert "183.5M" in (tmp_path / "out" / "report.md").read_text()


def test_every_verdict_is_explained_and_every_class_of_open_claims_has_a_remedy(written: Path) -> None:
    page = html.unescape((written / "report.html").read_text())
    assert set(legend.MEANINGS) == set(Verdict)
    assert all(meaning in page for meaning in legend.MEANINGS.values())
    assert set(OPEN_REASONS.values()) == set(legend.DECIDED_BY)
    for why, short in OPEN_REASONS.items():
        assert legend.decided_by(Finding(Verdict.INCONCLUSIVE, "", why)) == legend.DECIDED_BY[short]
    assert legend.decided_by(Finding(Verdict.HOLDS)) == ""
