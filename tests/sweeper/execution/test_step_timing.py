"""Step times are measured in processes like the sweep's own, once per machine and shape, and kept on disk."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from model import parameter_table
from sweeper.errors import UserError
from sweeper.execution import step_timing
from sweeper.execution.step_timing import measured_step_times

# The timing script with its fewest steps, and one in its place that says 0.5 s + 0.25 s for each block application.
REAL = "from sweeper.execution import step_timing; step_timing.SECONDS_EACH = 0.0; step_timing.main()"
CANNED = "import sys; sys.stdin.read(); print([[1, 0.75], [2, 1.0], [8, 2.5]])"


@dataclass
class Timing:
    """Measures with `script` in place of the timing script, and counts the processes by their environments."""

    cache: Path
    script: str = CANNED
    environments: list[dict[str, str]] = field(default_factory=list)

    def start(self, command: list[str], env: dict[str, str], **options: Any) -> "subprocess.Popen[str]":
        assert command == [sys.executable, "-m", "sweeper.execution.step_timing"]
        self.environments.append(env)
        return subprocess.Popen([sys.executable, "-c", self.script], env=env, **options)

    def measure(self, run: Any, execution: Any, workers: int = 1) -> tuple[float, float]:
        """Seconds of a step: base, and for each block application."""
        times = measured_step_times(run, execution, workers, self.cache)
        return times.base, times.per_block


@pytest.fixture
def timing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Timing:
    """Nothing measured yet."""
    timing = Timing(tmp_path / "new" / "step-times.json")
    monkeypatch.setattr(step_timing, "subprocess", SimpleNamespace(Popen=timing.start, PIPE=subprocess.PIPE))
    return timing


def test_optimizer_steps_of_a_real_model_are_timed(timing: Timing, literal_run, execution) -> None:
    timing.script = REAL
    base, per_block = timing.measure(literal_run, execution)
    assert 0 < base + 8 * per_block < 60  # seconds of a step of 8 loops, on however busy a machine
    assert timing.measure(literal_run, execution) == (base, per_block)
    assert len(timing.environments) == 1


def test_other_runs_of_the_sweep_are_not_measured_again(timing: Timing, literal_run, execution) -> None:
    """Depth, loops, ε, rates and seed do not matter."""
    assert timing.measure(literal_run, execution) == pytest.approx((0.5, 0.25))
    table = parameter_table(base_lr=1e-3, init_std=0.139, eps=1e-8, weight_decay=0.1, depth_multiplier=4)
    deeper = replace(literal_run.model, n_layers=4, n_loops=8, residual_scale=0.1)
    assert timing.measure(replace(literal_run, model=deeper, table=table, seed=7), execution) == pytest.approx(
        (0.5, 0.25)
    )
    assert len(timing.environments) == 1


Case = tuple[Any, Any, int]
CHANGES: dict[str, Callable[[Any, Any], Case]] = {
    "width": lambda run, how: (replace(run, model=replace(run.model, d_model=32)), how, 1),
    "sequence length": lambda run, how: (replace(run, model=replace(run.model, max_seq_len=64), seq_len=64), how, 1),
    "precision": lambda run, how: (replace(run, precision="bf16"), how, 1),
    "batch": lambda run, how: (replace(run, batch_sequences=8), how, 1),
    "threads": lambda run, how: (run, replace(how, threads=2), 1),
    "recomputation": lambda run, how: (run, replace(how, recompute=True), 1),
    "workers": lambda run, how: (run, how, 2),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_a_steps_time_is_measured_anew_and_nothing_is_forgotten(
    timing: Timing, literal_run, execution, change: str
) -> None:
    other = CHANGES[change](literal_run, execution)
    for case in ((literal_run, execution, 1), other, (literal_run, execution, 1), other):
        timing.measure(*case)
    assert len(timing.environments) == 1 + other[-1]


def test_every_worker_is_timed_beside_the_others_with_its_threads(timing: Timing, literal_run, execution) -> None:
    timing.measure(literal_run, replace(execution, threads=3), workers=2)
    assert [environment["OMP_NUM_THREADS"] for environment in timing.environments] == ["3", "3"]


def test_a_process_that_fails_is_one_line_and_is_measured_the_next_time(timing: Timing, literal_run, execution) -> None:
    timing.script = "import sys; sys.stdin.read(); sys.exit(9)"
    with pytest.raises(UserError, match=r"timing a few steps failed: a process ended with status 9; try .*workers=1"):
        timing.measure(literal_run, execution)
    timing.script = CANNED
    assert timing.measure(literal_run, execution) == pytest.approx((0.5, 0.25))
