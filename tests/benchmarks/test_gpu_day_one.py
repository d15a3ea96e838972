"""The first hour on a GPU, on a CPU: every measurement is made, and what there is no time for is named."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu_day_one.py"


def day_one(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, SCRIPT, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def test_the_smoke_test_makes_every_measurement_and_names_the_settings(tmp_path: Path) -> None:
    done = day_one("--smoke", "--json", tmp_path / "found.json")
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    stages = list(found["parity"])
    assert stages == ["plain", "+ compile", "+ fused_loss", "+ bf16_weights", "+ flat_gradients"]
    assert all(one["passed"] for one in found["parity"].values())
    assert all(one == {"losses": True, "weights": True} for one in found["repeats"].values())
    assert len(found["steps"]) == 3 * len(stages)
    assert all(one["tokens_per_second"] > 0 for one in found["steps"].values())
    assert (found["passed"], found["skipped"]) == (True, [])
    assert f"fastest that passed parity: {found['settings']}" in done.stdout


def test_without_time_everything_is_skipped_by_name_and_nothing_has_passed() -> None:
    done = day_one("--smoke", "--minutes", 0)
    assert done.returncode == 1
    assert "not measured, for lack of time: parity: plain, " in done.stdout
    assert "fastest that passed parity: none" in done.stdout


def test_without_a_gpu_it_says_so() -> None:
    done = day_one()
    assert done.returncode == 1
    assert "no GPU is visible; run it on a GPU node, or try it with --smoke" in done.stderr
