"""Two users of one group, one directory, one sweep: a run is trained once, and both see the same."""

import grp
import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sweeper.records.status import State

from .conftest import require
from .lab import CHECKOUT, GRID, MIDWAY, ONE_RUN, Lab, finished

pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("interrupted")]
GROUP, USERS = "loopsweep-lab", ("loopsweep-ada", "loopsweep-bob")
FOUR_RUNS = (*GRID, "panel=b", "model.n_loops=1,2", "optimizer.base_lr=4e-3,8e-3")
PYTHON = f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"


@pytest.fixture(scope="module")
def members() -> Iterator[tuple[str, str]]:
    """Two users of this machine in one group, for as long as the tests run."""
    require("useradd", "")
    subprocess.run(["groupadd", "--force", GROUP], check=True)
    for user in USERS:
        subprocess.run(["useradd", "--no-create-home", "--gid", GROUP, user], check=True)
    yield USERS
    for user in USERS:
        subprocess.run(["userdel", user], check=True)


@pytest.fixture
def labs(members: tuple[str, str], lab: Lab, tmp_path: Path) -> list[Lab]:
    """The same directory, used by each of them, with a Python that every user of the machine may run."""
    for folder in (tmp_path, *tmp_path.parents, *lab.cluster.root.parents):
        if folder.owner() == "root" and not folder.stat().st_mode & 0o001:
            folder.chmod(folder.stat().st_mode | 0o011)
    subprocess.run([PYTHON, "-m", "venv", "--without-pip", tmp_path / "env"], check=True)
    [packages] = (tmp_path / "env/lib").glob("python*/site-packages")
    (packages / "ours.pth").write_text(f"{next(path for path in sys.path if path.endswith('site-packages'))}\n")
    for name in ("model", "sweeper", "conf"):
        shutil.copytree(CHECKOUT / name, tmp_path / "code" / name, ignore=shutil.ignore_patterns("__pycache__"))
    shared = tmp_path / "shared"
    shared.mkdir()
    os.chown(shared, -1, grp.getgrnam(GROUP).gr_gid)
    shared.chmod(0o2775)  # as docs/cluster.md says
    python = str(tmp_path / "env/bin/python")
    return [
        replace(lab, root=shared, data=shared / "data", checkout=tmp_path / "code", user=user, python=python)
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
    assert "scancel failed" in finished(second.start_command("cancel", *first.places), statuses=(2,))
    first.type("cancel")
    first.until(lambda: [status.state for status in first.statuses()] == [State.LOST], "a lost run")
    second.type("retry", f"--data={second.data}")
    first.until_finished()
    assert first.curves() == undisturbed()
    assert owners(first.sweeps.glob("*/slurm/*/jobs/*_log.out")) == {first.user, second.user}
