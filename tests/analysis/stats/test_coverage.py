"""Intervals hold what was planted as often as they promise; benchmarks/coverage.py shows it with more draws."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
from scipy.special import bdtr

DRAWS = 100
CHANCE = 1e-4  # of failing with a true coverage at the end of the band


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    path = Path(__file__).parents[3] / "benchmarks" / "coverage.py"
    specification = importlib.util.spec_from_file_location("coverage_benchmark", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[module.__name__] = module  # its dataclasses look themselves up
    specification.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("grid", "curve", "seeds"), [("octaves", "parabola", 3), ("paper", "parabola", 3), ("octaves", "skewed", 5)]
)
def test_intervals_cover_as_promised(benchmark: ModuleType, grid: str, curve: str, seeds: int) -> None:
    low, _ = benchmark.BAND
    for name, result in benchmark.coverage(grid, curve, seeds, DRAWS).items():
        hits = round(result["coverage"] * DRAWS)
        if result["promise"] != benchmark.MISFIT:
            assert bdtr(hits, DRAWS, low) > CHANCE, f"{name}: {hits} of {DRAWS}"


def test_intervals_shrink_with_seeds(benchmark: ModuleType) -> None:
    few, many = (benchmark.coverage("octaves", "parabola", seeds, 20) for seeds in (3, 10))
    for name in ("optimum, sqrt", "shift from N = 1, sqrt", "regret, sqrt", "gain, at N = 1's rate"):
        assert many[name]["median_width"] < 0.75 * few[name]["median_width"]  # 0.55 and the t quantiles' ratio
