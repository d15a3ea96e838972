"""`check_gpu=true` on the test cluster: the sweep follows a check that ends well, and waits behind one that fails."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from .lab import CHECKOUT, ONE_RUN, Lab

pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("interrupted")]

CHECKED = (*ONE_RUN, "hydra.launcher.check_gpu=true", "hydra.launcher.gpus_per_node=0")


@pytest.fixture
def wrong(lab: Lab, tmp_path: Path) -> Lab:
    """A checkout whose frozen gradient is not that of its code."""
    checkout = tmp_path / "checkout"
    for name in ("model", "sweeper", "conf"):
        shutil.copytree(CHECKOUT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    frozen = checkout / "sweeper/training/gpu_parity.json"
    record = json.loads(frozen.read_text())
    record["losses"] = [loss + 1 for loss in record["losses"]]
    frozen.write_text(json.dumps(record))
    return replace(lab, checkout=checkout)


def found(lab: Lab) -> dict[str, Any]:
    [file] = lab.sweeps.glob("*/slurm/*/check.json")
    record: dict[str, Any] = json.loads(file.read_text())
    return record


def test_a_sweep_starts_once_its_check_has_ended_well(lab: Lab, undisturbed: Callable[..., Any]) -> None:
    assert "check of a GPU: " in lab.submit(*CHECKED)
    lab.until_finished()
    assert found(lab)["parity"]["passed"]
    assert lab.curves() == undisturbed()


def test_behind_a_failed_check_runs_are_held_until_retry_starts_them(
    wrong: Lab, undisturbed: Callable[..., Any]
) -> None:
    wrong.submit(*CHECKED)
    wrong.until(lambda: "1 held" in wrong.type("status"), "held run")
    assert not found(wrong)["parity"]["passed"]
    assert "error: losses or gradients are not those of a CPU" in wrong.job_log()
    shown = " ".join(wrong.type("status").split())
    assert "the check of the GPU failed; `loopsweep retry` trains nevertheless, `loopsweep cancel` cancels" in shown
    assert "released 1 held jobs" in wrong.type("retry", f"--data={wrong.data}")
    wrong.until_finished()
    assert wrong.curves() == undisturbed()


def test_cancel_takes_the_check_along_and_retry_makes_no_other(lab: Lab) -> None:
    lab.submit(*CHECKED, "+hydra.launcher.extra={hold: true}")
    assert "cancelled 2 jobs" in lab.type("cancel")
    [first] = lab.sweeps.glob("*/slurm/*/submission.json")
    check = json.loads(first.read_text())["check"]
    lab.until(lambda: "CANCELLED" in lab.cluster.squeue("%T", "-t", "all", "-j", check), "cancelled check")
    assert "check of a GPU" not in lab.type("retry", f"--data={lab.data}")
    [again] = set(lab.sweeps.glob("*/slurm/*/submission.json")) - {first}
    assert "check" not in json.loads(again.read_text())
    lab.type("cancel")
