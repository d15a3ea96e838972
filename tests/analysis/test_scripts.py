"""Every figure's script: runs alone and without torch, gives the same bytes again, names what is missing."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from analysis.figures import FIGURES

NAMES = [figure.name for figure in FIGURES if not figure.on_tasks]  # the others: test_plot_tasks
REPOSITORY = Path(__file__).parents[2]
RUN_ALL = """
import runpy, sys
names, folder, results, out = sys.argv[1:]
for name in names.split(","):
    sys.argv = [name, "--results", results, "--out", out, "--format", "pdf"]
    try:
        runpy.run_path(f"{folder}/plot_{name}.py", run_name="__main__")
    except SystemExit as end:
        assert end.code == 0, name
assert "torch" not in sys.modules
"""


def test_scripts_run_alone_without_torch_and_redraw_the_same_bytes(results: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "1", tmp_path / "2"
    arguments = [",".join(NAMES), str(REPOSITORY / "analysis"), str(results), str(first)]
    run = subprocess.run([sys.executable, "-c", RUN_ALL, *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    for name in NAMES:
        script = importlib.import_module(f"analysis.plot_{name}")
        assert script.main(["--results", str(results), "--out", str(second), "--format", "pdf"]) == 0
        assert {f"{name}.pdf", f"{name}.csv"} <= {path.name for path in second.iterdir()}
    assert sorted(path.name for path in first.iterdir()) == sorted(path.name for path in second.iterdir())
    for path in first.iterdir():
        assert path.read_bytes() == (second / path.name).read_bytes(), path.name


@pytest.mark.parametrize("name", NAMES)
def test_missing_records_are_one_line_with_the_command_to_type(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = importlib.import_module(f"analysis.plot_{name}")
    assert script.main(["--runs", str(tmp_path / "runs"), "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: no {script.SCRIPT.experiment} sweep in ")
    assert f"`{script.SCRIPT.make_command}`" in error
    assert error.count("\n") == 1
