"""`analysis.load` gives the tables of the figures without torch, and the notebook needs nothing else."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import pandas as pd
import pytest

import analysis
from analysis import plot_fig5
from analysis.claims.table import CLAIMS
from sweeper.errors import UserError

REPOSITORY = Path(__file__).parents[2]
RESULTS = REPOSITORY / "results"
STORED = sorted(path.parent.name for path in RESULTS.glob("*/cells.parquet"))
NOTEBOOK = REPOSITORY / "notebooks" / "explore.ipynb"


@pytest.mark.parametrize("name", STORED)
def test_every_shipped_cell_curve_and_readout_is_loaded(name: str) -> None:
    loaded = analysis.load(RESULTS / name)
    assert len(loaded.cells) == len(pd.read_parquet(RESULTS / name / "cells.parquet"))
    assert set(loaded.curves["run_id"]) <= set(loaded.cells["run_id"])
    for table in ("curves", "readouts"):
        assert len(getattr(loaded, table)) == len(pd.read_parquet(RESULTS / name / f"{table}.parquet"))
    assert list(loaded.verdicts["claim"]) == [claim.id for claim in CLAIMS]


def test_verdicts_are_those_of_the_readme() -> None:
    verdicts = analysis.load(RESULTS / "quick").verdicts
    lines = (REPOSITORY / "README.md").read_text().splitlines()
    column = next(line for line in lines if line.startswith("| claim |")).split("|").index(" [quick](results/quick) ")
    for row in verdicts.query("verdict in ('holds', 'fails')").itertuples():
        [line] = [line for line in lines if line.startswith(f"| {row.statement} |")]
        assert line.split("|")[column].strip() == row.verdict


def test_a_place_without_records_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no cells\.parquet and no runs of a sweep; give results/quick or runs"):
        analysis.load(tmp_path)


def test_torch_is_not_imported_and_listing_figures_imports_no_pandas() -> None:
    code = "import sys, analysis.figures; assert 'pandas' not in sys.modules; "
    code += f"import analysis; analysis.load({str(RESULTS / 'paper-init')!r}); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True)


def test_the_notebook_runs_uses_only_the_public_function_and_gives_figure_5(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(NOTEBOOK.parent)
    matplotlib.use("agg")
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    names: dict[str, object] = {}
    for source in sources:
        exec(compile(source, str(NOTEBOOK), "exec"), names)
    plt.close("all")
    imported = {
        node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
        for node in ast.walk(ast.parse("\n".join(sources)))
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    assert imported == {"pathlib", "matplotlib.pyplot", "analysis"}
    assert all(cell.get("outputs", []) == [] for cell in cells)
    assert plot_fig5.main(["--results", str(RESULTS / "quick"), "--out", str(tmp_path), "--format", "png"]) == 0
    drawn = pd.read_csv(tmp_path / "fig5.csv")
    axes = ["panel", "n_loops", "base_lr"]
    expected = drawn.groupby(axes)["mean_val_loss"].first()
    points = names["points"]
    assert isinstance(points, pd.DataFrame)
    pd.testing.assert_series_equal(points.set_index(axes)["val_loss"], expected, check_names=False, rtol=1e-12)
