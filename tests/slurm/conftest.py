"""The cluster of these tests, and an undisturbed run to compare with."""

import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .cluster import Cluster
from .lab import ONE_RUN, Lab

WORDS = (
    "the looped model reads a small text and learns which word follows which other one while its stream stays bounded"
)


def require(program: str, package: str) -> None:
    """Skip, or fail in CI, where the cluster cannot be had."""
    missing = None
    if shutil.which(program, path=os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])) is None:
        missing = f"no {program}: python -m tests.slurm.cluster install{package}"
    elif os.geteuid() != 0:
        missing = "the test cluster needs root"
    if missing and os.environ.get("CI") == "true":
        pytest.fail(missing)
    if missing:
        pytest.skip(missing)


def started(root: Path, **settings: Any) -> Iterator[Cluster]:
    """A running cluster that this process talks to as well."""
    cluster, monkeypatch = Cluster(root, **settings), pytest.MonkeyPatch()
    for name in ("PATH", "SLURM_CONF"):
        monkeypatch.setenv(name, cluster.environment[name])
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        monkeypatch.undo()


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Without accounting, as many clusters are not."""
    require("slurmctld", "")
    yield from started(tmp_path_factory.mktemp("cluster"))


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of small documents."""
    folder, generator = tmp_path_factory.mktemp("corpus") / "texts", random.Random(0)
    folder.mkdir()
    for number in range(200):
        (folder / f"{number}.txt").write_text(" ".join(generator.choices(WORDS.split(), k=180)))
    return folder


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where it is prepared, once for all tests."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def lab(cluster: Cluster, texts: Path, data: Path, tmp_path: Path) -> Lab:
    """An empty place for one sweep."""
    return Lab(cluster, tmp_path, texts, data)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, texts: Path, data: Path) -> Callable[..., Any]:
    """Loss curves of a sweep on this machine, without a cluster; trained once for each grid."""
    known: dict[tuple[str, ...], Any] = {}

    def curves(*overrides: str) -> Any:
        overrides = overrides or ONE_RUN
        if overrides not in known:
            lab = Lab(Cluster(Path()), tmp_path_factory.mktemp("undisturbed"), texts, data)
            lab.submit(*overrides, launcher="local")
            known[overrides] = lab.curves()
        return known[overrides]

    return curves
