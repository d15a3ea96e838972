"""docs/artifact.md is what the claims and the stored results give, and every claim names what makes its records."""

from pathlib import Path

import pytest

from analysis import artifact, figures
from analysis.claims.table import CLAIMS
from analysis.records.result_sets import NO_DECAY, find_records

REPOSITORY = Path(__file__).parents[2]
PAGE = REPOSITORY / "docs" / "artifact.md"


def test_the_page_is_up_to_date(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    copy = tmp_path / "artifact.md"
    copy.write_text(PAGE.read_text())
    assert artifact.main(["--page", str(copy)]) == 0
    assert copy.read_text() == PAGE.read_text(), "python -m analysis.artifact"


def test_every_claim_has_a_row_and_all_but_one_need_an_experiment() -> None:
    [quick] = [one for one in find_records(None, REPOSITORY / "results") if one.preset == "quick"]
    needed = {claim.id: artifact.experiments_of(claim, quick) for claim in CLAIMS}
    assert [name for name, experiments in needed.items() if not experiments] == ["params"]
    assert {name for names in needed.values() for name in names} <= {*figures.EXPERIMENTS, NO_DECAY}
    text = PAGE.read_text()
    assert all(text.count(f"({claim.id}) |") == 1 for claim in CLAIMS)


def test_a_page_without_markers_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "page.md").write_text("# Mine\n")
    assert artifact.main(["--page", str(tmp_path / "page.md")]) == 2
    assert "has not four lines" in capsys.readouterr().err
    assert (tmp_path / "page.md").read_text() == "# Mine\n"
