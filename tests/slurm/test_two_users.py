"""Two users of one group, one directory, one sweep: a run is trained once, and both see the same."""

import grp
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sweeper.records.status import State

from .cluster import FIRST_PORT, Cluster
from .conftest import require, started
from .image import PYTHON, site_packages
from .lab import CHECKOUT, GRID, MIDWAY, ONE_RUN, Lab, finished, write_corpus

pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("interrupted")]
GROUP, USERS = "loopsweep-lab", ("loopsweep-ada", "loopsweep-bob")
EXISTS = 9  # exit status of useradd
FOUR_RUNS = (*GRID, "panel=b", "model.n_loops=1,2", "optimizer.base_lr=4e-3,8e-3")


@pytest.fixture(scope="module")
def members() -> Iterator[tuple[str, str]]:
    """Two users of this machine in one group, for as long as the tests run."""
    require("slurmctld", "")
    require("useradd", "")
    subprocess.run(["groupadd", "--force", GROUP], check=True)
    for user in USERS:
        done = subprocess.run(["useradd", "--no-create-home", "--gid", GROUP, user])
        assert done.returncode in (0, EXISTS)
    yield USERS
    for user in USERS:
        subprocess.run(["userdel", "--force", user], check=True, capture_output=True)


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    """A directory that every user of the machine may read; those of pytest are closed."""
    with tempfile.TemporaryDirectory(prefix="loopsweep-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(scope="module")
def open_cluster(root: Path) -> Iterator[Cluster]:
    require("slurmctld", "")
    yield from started(Cluster(root / "cluster", first_port=FIRST_PORT + 200))


@pytest.fixture(scope="module")
def python(root: Path, members: tuple[str, str]) -> str:
    """A Python that every user may run, with the packages of this one's environment."""
    subprocess.run([PYTHON, "-m", "venv", "--without-pip", root / "env"], check=True)
    [packages] = (root / "env/lib").glob("python*/site-packages")
    (packages / "ours.pth").write_text(f"{site_packages()}\n")
    for name in ("model", "sweeper", "conf"):
        shutil.copytree(CHECKOUT / name, root / "code" / name, ignore=shutil.ignore_patterns("__pycache__"))
    python = str(root / "env/bin/python")
    if subprocess.run([python, "-c", "import hydra"], user=members[0], capture_output=True).returncode:
        pytest.skip("other users may not read this environment's packages")
    write_corpus(root / "texts")
    return python


@pytest.fixture
def labs(
    members: tuple[str, str], python: str, open_cluster: Cluster, root: Path, monkeypatch: pytest.MonkeyPatch
) -> list[Lab]:
    """The same directory, used by each of them."""
    monkeypatch.setenv("SLURM_CONF", open_cluster.environment["SLURM_CONF"])
    shared = Path(tempfile.mkdtemp(dir=root))
    os.chown(shared, -1, grp.getgrnam(GROUP).gr_gid)
    shared.chmod(0o2775)  # as docs/cluster.md says
    return [
        Lab(open_cluster, shared, root / "texts", shared / "data", root / "code", user=user, python=python)
        for user in members
    ]


def owners(paths: Iterator[Path]) -> set[str]:
    return {pwd.getpwuid(path.stat().st_uid).pw_name for path in paths}


def test_both_submit_at_once_and_no_run_is_trained_twice(labs: list[Lab], undisturbed: Callable[..., Any]) -> None:
    first, second = labs
    printed = [finished(process) for process in [lab.start(*FOUR_RUNS) for lab in labs]]
    assert sorted("submitted 4 runs" in text for text in printed) == [False, True], printed
    assert any("nothing to submit" in text for text in printed), printed
    first.until_finished()
    assert first.type("status") == second.type("status")
    assert "4 done" in first.type("status")
    log = first.job_log()
    assert [log.count(f"{run_id}: started") for run_id in first.sweep.run_ids] == [1, 1, 1, 1]
    assert first.curves() == undisturbed(*FOUR_RUNS)


def test_a_run_that_one_began_is_resumed_by_the_other(labs: list[Lab], undisturbed: Callable[..., Any]) -> None:
    first, second = labs
    first.submit(*ONE_RUN)
    first.until(lambda: first.run().last_metrics().get("step", 0) >= MIDWAY, "the run's middle")
    with first.held():
        assert "scancel failed" in finished(second.start_command("cancel", *first.places), statuses=(2,))
        first.type("cancel")
    first.until(lambda: [status.state for status in first.statuses()] == [State.LOST], "a lost run")
    second.type("retry", f"--data={second.data}")
    first.until_finished()
    assert first.curves() == undisturbed()
    assert owners(first.sweeps.glob("*/slurm/*/jobs/*_log.out")) == {first.user, second.user}
