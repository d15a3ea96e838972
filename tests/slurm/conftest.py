"""The test cluster, and an undisturbed run to compare with."""

import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from .cluster import Cluster, search_path
from .interruptions import INTERRUPTIONS
from .lab import ONE_RUN, Lab, write_corpus

SIDE_BY_SIDE = 4


def require(program: str, package: str) -> None:
    """Skip the test if there can be no cluster. Fail in CI."""
    missing = None
    if shutil.which(program, path=search_path()) is None:
        missing = f"no {program}: python -m tests.slurm.cluster install{package}"
    elif os.geteuid() != 0:
        missing = "the test cluster needs root"
    if missing and os.environ.get("CI") == "true":
        pytest.fail(missing)
    if missing:
        pytest.skip(missing)


def started(cluster: Cluster) -> Iterator[Cluster]:
    """The cluster, running."""
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster without accounting, which is not rare. This process uses it."""
    require("slurmctld", "")
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    with pytest.MonkeyPatch.context() as monkeypatch:
        for name in ("PATH", "SLURM_CONF"):
            monkeypatch.setenv(name, cluster.environment[name])
        yield from started(cluster)


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of small documents."""
    return write_corpus(tmp_path_factory.mktemp("corpus") / "texts")


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of prepared data, shared by all tests."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def lab(cluster: Cluster, texts: Path, data: Path, tmp_path: Path) -> Lab:
    """Empty directories for one sweep."""
    return Lab(cluster, tmp_path, texts, data)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, texts: Path, data: Path) -> Callable[..., Any]:
    """Loss curves of a sweep on this machine, without a cluster. Each grid is trained once."""
    known: dict[tuple[str, ...], Any] = {}

    def curves(*overrides: str) -> Any:
        overrides = overrides or ONE_RUN
        if overrides not in known:
            lab = Lab(Cluster(Path()), tmp_path_factory.mktemp("undisturbed"), texts, data)
            lab.submit(*overrides, launcher="local")
            known[overrides] = lab.curves()
        return known[overrides]

    return curves


@pytest.fixture(scope="session")
def interrupted(
    request: pytest.FixtureRequest,
    cluster: Cluster,
    texts: Path,
    data: Path,
    tmp_path_factory: pytest.TempPathFactory,
    undisturbed: Callable[..., Any],
) -> Iterator[dict[str, "Future[Lab]"]]:
    """The lab of every interruption that is tested in this session, once its run has ended.

    Interruptions mostly wait, so they run in parallel with each other and with the tests before test_survival.
    """
    undisturbed()  # prepares the data before a job's minute starts
    selected = {item.callspec.params.get("interruption") for item in request.session.items if hasattr(item, "callspec")}
    pool = ThreadPoolExecutor(SIDE_BY_SIDE)
    yield {
        name: pool.submit(interruption.run, Lab(cluster, tmp_path_factory.mktemp("interrupted"), texts, data))
        for name, interruption in INTERRUPTIONS.items()
        if name in selected
    }
    pool.shutdown(cancel_futures=True)
