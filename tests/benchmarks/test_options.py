"""A benchmark says that it cannot write before it measures."""

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def measuring(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """The script with options; where they are right, `--help` ends it before it measures."""
    command = [sys.executable, BENCHMARKS / script, *map(str, arguments), "--help"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("script", "option"),
    [("train_step.py", "--json"), ("figure3_range.py", "--out"), ("data.py", "--scratch")],
)
def test_an_output_that_cannot_be_written_is_named_at_once(tmp_path: Path, script: str, option: str) -> None:
    (tmp_path / "file").touch()
    done = measuring(script, option, tmp_path / "file" / "below")
    assert done.returncode == 2
    assert f"argument {option}: {tmp_path}/file/below cannot be used" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_directory_of_a_new_file_is_made_before_anything_is_measured(tmp_path: Path) -> None:
    done = measuring("train_step.py", "--json", tmp_path / "new" / "folder" / "points.json")
    assert done.returncode == 0
    assert (tmp_path / "new" / "folder").is_dir()


@pytest.mark.parametrize(
    ("option", "value"), [("--loops", "1,0"), ("--threads", "two"), ("--turns", "0"), ("--candidates", "ours,best")]
)
def test_a_wrong_option_is_named(option: str, value: str) -> None:
    done = measuring("train_step.py", option, value)
    assert done.returncode == 2
    assert f"argument {option}: " in done.stderr
    assert "Traceback" not in done.stderr
