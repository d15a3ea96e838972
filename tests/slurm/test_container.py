"""A run in a real Charliecloud container: the same losses, and the batch script on the host requeues the job."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import require
from .image import PACKAGES, make_image, site_packages
from .lab import ONE_RUN, Lab

pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("interrupted")]


def test_an_interrupted_run_in_a_container_ends_with_the_undisturbed_curve(
    lab: Lab, tmp_path: Path, undisturbed: Callable[..., Any]
) -> None:
    require("ch-run", "")
    python = make_image(tmp_path / "image")
    values = {"kind": "charliecloud", "image": tmp_path / "image", "python": python}
    container = [f"hydra.launcher.container.{name}={value}" for name, value in values.items()]
    lab.submit(*ONE_RUN, *container, f"hydra.launcher.container.mounts=['{site_packages()}:{PACKAGES}']")
    lab.until_midway()
    assert b"CH_RUNNING=" in Path(f"/proc/{lab.trainer()}/environ").read_bytes()
    lab.slurm("scancel", "--signal=USR2", lab.job())
    lab.until_finished()
    assert lab.restarts() == 1
    assert f"job {lab.job()} is queued again by its batch script" in lab.job_log()
    assert lab.curves() == undisturbed()
