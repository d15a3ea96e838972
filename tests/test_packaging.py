"""The wheel works where nothing of the checkout is, and the files for containers and CI say what they have to."""

import os
import shutil
import subprocess
import sys
import tomllib
import venv
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

REPOSITORY = Path(__file__).resolve().parents[1]
BUILT_FROM = ("pyproject.toml", "README.md", "LICENSE", "model", "sweeper", "analysis", "conf")
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
RATES = ["panel=b", "model.n_loops=1", "optimizer.base_lr=8e-3"]


def call(*command: str, cwd: Path, **environment: str) -> str:
    """Standard output of a command that must succeed."""
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=cwd, env=clean | environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stdout[-1000:]}{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the sources."""
    root = tmp_path_factory.mktemp("wheel")
    for name in BUILT_FROM:
        if (REPOSITORY / name).is_dir():
            shutil.copytree(REPOSITORY / name, root / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in BUILT_FROM:
        if (REPOSITORY / name).is_file():
            shutil.copyfile(REPOSITORY / name, root / "source" / name)
    build = ["wheel", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", str(root)]
    call(*PIP, *build, str(root / "source"), cwd=root)
    return next(root.glob("loopsweep-*.whl"))


def installed(wheel: Path, extra: str, root: Path) -> Path:
    """A Python that has the wheel, what the wheel with `extra` requires, and nothing else.

    The packages are those of this environment, linked. The checkout is not on its path.
    """
    venv.create(root / "venv", symlinks=True)
    python = root / "venv" / "bin" / "python"
    [packages] = (root / "venv").glob("lib/python*/site-packages")
    call(*PIP, "--python", str(python), "install", "--no-deps", "--no-index", str(wheel), cwd=root)
    [own] = metadata.distributions(name="loopsweep", path=[str(packages)])
    queue, seen = required(own, {extra}), {"loopsweep"}
    while queue:
        requirement = queue.pop()
        if requirement.name.lower() in seen and not requirement.extras:
            continue
        seen.add(requirement.name.lower())
        found = own if requirement.name == "loopsweep" else metadata.distribution(requirement.name)
        queue += required(found, requirement.extras or {""})
        for top in {file.parts[0] for file in found.files or () if file.parts[0] != ".."}:
            target = packages / top
            if not target.exists():
                target.symlink_to(Path(str(found.locate_file(top))))
    return python


def required(distribution: metadata.Distribution, extras: set[str]) -> list[Requirement]:
    """What a distribution requires with these extras."""
    found = map(Requirement, distribution.requires or ())
    return [one for one in found if one.marker is None or any(one.marker.evaluate({"extra": e}) for e in extras)]


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel with everything that trains."""
    return installed(wheel, "train", tmp_path_factory.mktemp("train"))


def test_an_installed_wheel_trains_exports_draws_and_reports(python: Path, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.mkdir()
    for number in range(60):
        (text / f"{number}.txt").write_text(
            f"{number} " + "some words that are not many but enough " * 30 + f"{number * 7}\n"
        )
    loopsweep = str(python.with_name("loopsweep"))
    data = [f"data.path={text}", "data.val_fraction=0.3"]
    call(loopsweep, "submit", "+sweep=lr_transfer", "preset=smoke", *RATES, *data, cwd=tmp_path)
    call(loopsweep, "export", "--out", "records", cwd=tmp_path)
    call(str(python), "-m", "analysis.figures", "--only", "fig5", "--results", "records", cwd=tmp_path)
    assert (tmp_path / "figures" / "fig5.pdf").is_file()
    where = "import analysis, conf, model, sweeper; print(analysis.__file__, *conf.__path__, model.__file__)"
    assert str(REPOSITORY) not in call(str(python), "-c", where, cwd=tmp_path)
    call(str(python), "-c", "from analysis.report import page; page.render('report.md.j2', [])", cwd=tmp_path)
    call(str(python), "-c", "from sweeper.model_export.modeling import modeling_source as s; s()", cwd=tmp_path)
    [result] = (tmp_path / "runs").glob("*/result.json")
    assert '"commit": null' in result.read_text()  # not that of a repository around the environment


def test_every_file_of_conf_and_every_template_is_in_the_wheel(python: Path) -> None:
    [packages] = python.parents[1].glob("lib/python*/site-packages")
    files = [path for name in ("conf", "analysis", "sweeper", "model") for path in (REPOSITORY / name).rglob("*")]
    needed = [path.relative_to(REPOSITORY) for path in files if path.is_file() and "__pycache__" not in path.parts]
    missing = [path for path in needed if not (packages / path).is_file() and path.suffix != ".md"]
    assert not missing


def test_the_lock_has_a_version_of_every_dependency_within_its_range() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    lock = dict(
        line.split("==") for line in (REPOSITORY / "requirements.lock").read_text().splitlines() if "==" in line
    )
    known = {name.lower().replace("_", "-"): version for name, version in lock.items()}
    requirements = [Requirement(text) for text in project["dependencies"]]
    requirements += [Requirement(text) for extra in project["optional-dependencies"].values() for text in extra]
    for one in requirements:
        if one.name != "loopsweep":
            assert one.specifier.contains(known[one.name.lower().replace("_", "-")]), one


def test_figures_load_and_verdicts_need_no_more_than_the_extra_figures(wheel: Path, tmp_path: Path) -> None:
    python = installed(wheel, "figures", tmp_path)
    results = str(REPOSITORY / "results" / "quick")
    options = ["--results", results, "--sweep", "lr_transfer-quick", "--out", "drawn", "--format", "png"]
    call(str(python), "-m", "analysis.figures", "--only", "fig5", *options, cwd=tmp_path)
    code = f"import analysis; assert len(analysis.load({results!r}).verdicts); from analysis import artifact"
    call(str(python), "-c", f"{code}; from analysis.report import page", cwd=tmp_path)
    for name in ("torch", "hydra", "wandb"):
        assert subprocess.run([python, "-c", f"import {name}"], capture_output=True).returncode
    loopsweep = str(python.with_name("loopsweep"))
    call(loopsweep, "checklist", "--results", results, cwd=tmp_path)
    done = subprocess.run([loopsweep, "submit", "preset=smoke"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "error: this needs hydra: pip install 'loopsweep[train]'\n")


def test_ci_runs_what_decides_and_pre_commit_lints() -> None:
    workflow = yaml.safe_load((REPOSITORY / ".github" / "workflows" / "ci.yml").read_text())
    commands = [step.get("run", "") for step in workflow["jobs"]["test"]["steps"]]
    assert ".ci/run" in commands
    assert any("analysis.report" in command for command in commands)
    hooks = yaml.safe_load((REPOSITORY / ".pre-commit-config.yaml").read_text())
    assert [hook["entry"] for repo in hooks["repos"] for hook in repo["hooks"]] == ["make lint"]


@pytest.mark.parametrize("name", ["Containerfile", "apptainer.def"])
def test_containers_install_from_the_lock(name: str) -> None:
    text = (REPOSITORY / ".ci" / name).read_text()
    assert "--requirement requirements.lock" in text
    assert "python:3.11" in text
