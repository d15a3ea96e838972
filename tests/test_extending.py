"""The recipes of docs/extending.md work as they stand, and touch as few files as they say."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
MOST_FILES = {"architecture": 2, "rule": 1, "figure": 2, "run kind": 3, "data source": 3}  # outside conf/ and tests/


@dataclass(frozen=True)
class Recipe:
    """A section of the page: its diff and its commands."""

    name: str
    diff: str
    commands: str

    @property
    def files(self) -> list[str]:
        """The files that the diff changes or adds."""
        return re.findall(r"^\+\+\+ b/(.*)$", self.diff, re.MULTILINE)


def recipes() -> list[Recipe]:
    page = (REPOSITORY / "docs" / "extending.md").read_text()
    found = re.findall(
        r"^## A new ([\w ]+)$.*?^```diff\n(.*?)^```$.*?^```sh\n(.*?)^```$", page, re.MULTILINE | re.DOTALL
    )
    return [Recipe(*parts) for parts in found]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the files that git knows, and a few texts for runs that read some."""
    listed = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    for name in listed.splitlines():
        if name.startswith(("model/", "sweeper/", "analysis/", "conf/", "results/quick/")):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, tmp_path / name)
    (tmp_path / "texts").mkdir()
    for number in range(200):
        words = " ".join(f"word{(number * 37 + i * i) % 97}" for i in range(60))
        (tmp_path / "texts" / f"{number}.txt").write_text(words)
    return tmp_path


def test_every_recipe_is_there() -> None:
    assert [recipe.name for recipe in recipes()] == list(MOST_FILES)


@pytest.mark.parametrize("recipe", recipes(), ids=lambda recipe: recipe.name)
def test_a_recipe_works_as_it_stands(recipe: Recipe, checkout: Path) -> None:
    outside = [file for file in recipe.files if not file.startswith(("conf/", "tests/"))]
    assert 0 < len(outside) <= MOST_FILES[recipe.name]
    subprocess.run(["git", "apply", "-"], input=recipe.diff, text=True, cwd=checkout, check=True)
    texts = "" if "data=" in recipe.commands else " data.path=texts data.val_fraction=0.2"
    commands = recipe.commands.replace("preset=smoke", f"preset=smoke{texts}")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        ["bash", "-euc", commands], cwd=checkout, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert ": done" in done.stdout or "wrote figures/loops.pdf" in done.stdout
