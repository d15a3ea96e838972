"""The table of figures: a new figure is its script and one row, and all that draws figures reads the table."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

import analysis
from analysis import figures
from analysis.figures import EXPERIMENTS, FIGURES, FigureRow
from analysis.report import page

REPOSITORY = Path(__file__).parents[2]
TINY = FigureRow("tiny", "Tiny · Points per panel", "lr_transfer")
TINY_SCRIPT = '''"""Tiny: how many points does each panel have?"""

from collections.abc import Sequence

from matplotlib.figure import Figure

from analysis.plotting import script

SCRIPT = script.Script("tiny", __doc__)


def main(argv: Sequence[str] | None = None) -> int:
    return script.run(SCRIPT, make, argv)


def make(_, cells):
    counts = cells.groupby("panel").size().rename("points").reset_index()
    figure = Figure()
    figure.subplots().bar(counts["panel"], counts["points"])
    return script.Drawing(figure, {"tiny": counts}, lambda console: console.print(f"{len(counts)} panels"))
'''


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FigureRow:
    """A figure of which the package knows nothing but its script and its row."""
    folder = tmp_path / "scripts"
    folder.mkdir()
    (folder / "plot_tiny.py").write_text(TINY_SCRIPT)
    monkeypatch.setattr(analysis, "__path__", [*analysis.__path__, str(folder)])
    monkeypatch.setattr(figures, "FIGURES", (*FIGURES, TINY))
    monkeypatch.delitem(sys.modules, "analysis.plot_tiny", raising=False)
    return TINY


def test_a_new_figure_is_redrawn_with_the_others(
    tiny: FigureRow, results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--results", str(results), "--out", str(tmp_path), "--format", "svg"]
    assert figures.main(["--only", "trained", *options]) == 0
    assert pd.read_csv(tmp_path / "tiny.csv")["points"].to_list() == [32] * 4
    assert (tmp_path / "tiny.svg").is_file()
    assert f"[5/5] {tiny.title}\n4 panels\n" in capsys.readouterr().out


def test_a_new_figure_is_in_the_report(tiny: FigureRow, results: Path, tmp_path: Path) -> None:
    assert page.main(["--runs", str(tmp_path / "runs"), "--results", str(results), "--out", str(tmp_path)]) == 0
    text = (tmp_path / "report.html").read_text()
    assert f"<figcaption>{tiny.title}" in text
    assert f'aria-label="{tiny.title}"' in text


def test_a_new_figure_without_records_says_how_to_make_them(
    tiny: FigureRow, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert figures.main(["--only", tiny.name, "--runs", str(tmp_path / "runs"), "--out", str(tmp_path)]) == 2
    printed = capsys.readouterr()
    assert "start one with `make sweep-lr-transfer`" in printed.err
    assert "drew 0 of 1 figures" in printed.out


def test_figures_with_records_are_drawn_although_others_have_none(
    cell_table: Callable[..., pd.DataFrame],
    store: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = store(tmp_path / "results", cell_table())
    options = ["--results", str(folder), "--out", str(tmp_path / "out"), "--format", "png"]
    assert figures.main(options) == 0
    assert [file.name for file in (tmp_path / "out").glob("*.png")] == ["fig5.png"]
    printed = capsys.readouterr()
    assert printed.out.endswith("drew 1 of 14 figures\n")
    assert printed.err.count("error: ") == 13
    assert figures.main(["--only", "fig5,fig2", *options]) == 2


def test_figures_that_do_not_exist_are_refused_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert figures.main(["--only", "fig2,fig1"]) == 2
    assert capsys.readouterr().err.startswith("error: --only: 'fig1' is not one of fig2, fig3")


@pytest.mark.parametrize(
    ("only", "names"),
    [
        ("fig9,fig2", ["fig2", "fig9"]),
        ("init_probe", ["fig2", "fig4", "fig9"]),
        ("init,exponent", ["fig2", "fig3", "fig4", "fig9", "exponent", "theory"]),
        ("trained", ["fig5", "fig6", "fig7", "fig8"]),
    ],
)
def test_figures_are_chosen_by_name_experiment_or_group(only: str, names: list[str]) -> None:
    assert [figure.name for figure in figures.select(only.split(","))] == names


def test_makefile_trains_what_the_init_figures_draw(capsys: pytest.CaptureFixture[str]) -> None:
    assert figures.main(["--only", "init", "--experiments"]) == 0
    assert capsys.readouterr().out.split() == ["init_probe", "increments", "theory"]
    makefile = (REPOSITORY / "Makefile").read_text()
    assert "sweeps=$$($(BIN)/python -m analysis.figures --only init --experiments)" in makefile
    assert all(figure.name not in makefile for figure in FIGURES if figure.group == "init" and figure.name != "theory")


def test_every_script_has_a_row_and_every_row_a_script_and_a_sweep() -> None:
    scripts = {path.stem.removeprefix("plot_") for path in (REPOSITORY / "analysis").glob("plot_*.py")}
    scripts -= {"curves"}  # of any runs, chosen by hand
    assert {figure.name for figure in FIGURES} == scripts
    assert len(scripts) == len(FIGURES)
    sweeps = {path.stem for path in (REPOSITORY / "conf" / "sweep").glob("*.yaml")}
    assert set(figures.experiments(FIGURES)) == set(EXPERIMENTS) <= sweeps


def test_every_command_of_the_table_is_in_the_makefile() -> None:
    makefile = (REPOSITORY / "Makefile").read_text().splitlines()
    for experiment in EXPERIMENTS.values():
        target = experiment.command.removeprefix("make ")
        assert any(line.startswith(f"{target}: ") for line in makefile)


def test_the_table_is_read_without_pandas_and_matplotlib() -> None:
    code = "import analysis.figures, sys; assert not {'pandas', 'matplotlib', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPOSITORY)
