"""The pages on GPUs are what the code says of today's settings, and the paper's sweep costs no more than it has to."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from analysis.refine.grid import GPU_FLOPS
from sweeper.grid.gpu_times import GpuTimes
from sweeper.hardware import GPUS

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu_page.py"


@pytest.fixture(scope="module")
def gpu_page() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_page", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_page"] = module
    spec.loader.exec_module(module)
    return module


def test_the_pages_are_as_the_code_writes_them(gpu_page: ModuleType) -> None:
    for path, text in gpu_page.texts().items():
        assert path.read_text() == text, f"{path.name} is stale: python benchmarks/gpu_page.py"


def test_no_run_of_the_paper_recomputes_and_each_change_saves_hours(gpu_page: ModuleType) -> None:
    paper = gpu_page.Paper.compose()
    assert paper.rates * len(paper.runs) == 120
    assert not any(run.execution.recompute for run in paper.runs.values())
    before, *_, now = hours = [hours for _, hours in gpu_page.stage_hours(paper)]
    assert hours == sorted(hours, reverse=True)
    assert before == pytest.approx(7_410, rel=0.005)  # worked out by hand
    assert now <= 5_200


def test_budgets_of_refine_are_in_the_hours_of_the_plan(gpu_page: ModuleType) -> None:
    runs = gpu_page.Paper.compose().runs.values()
    share = GpuTimes.learned("H100", {}, {}).utilisation(runs)["6N + attention"]
    assert share * GPUS["H100"].peak == pytest.approx(GPU_FLOPS, rel=0.03)


def test_the_page_says_that_nothing_was_run_until_something_was(gpu_page: ModuleType) -> None:
    paper = gpu_page.Paper.compose()
    assert gpu_page.page(paper, {}).splitlines()[2] == "Modelled, never run."
    step = {"step_seconds": 1.75, "peak_bytes": 20 * 2**30}
    found = {
        "date": "2030-01-01",
        "environment": {"gpu": "NVIDIA H100 80GB HBM3"},
        "steps": {"L=12 N=1 + compile": step},
    }
    measured = gpu_page.page(paper, found).splitlines()
    assert measured[2] == "Modelled. Measured on NVIDIA H100 80GB HBM3, 2030-01-01."
    assert next(line for line in measured if line.startswith("| 12, 1 ")).endswith("| 1.75 s, 20.0 GiB |")
