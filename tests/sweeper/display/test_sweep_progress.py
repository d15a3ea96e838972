"""The time left that a sweep under way shows."""

import io

import pytest
from rich.console import Console

from sweeper.display import sweep_progress
from sweeper.display.sweep_progress import SweepView


def test_time_left_does_not_count_the_start_of_workers_and_compilation(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(sweep_progress.time, "monotonic", lambda: now)
    printed = io.StringIO()
    view = SweepView(Console(file=printed, width=200), {f"run-{n}": 1.0 for n in range(10)}, 0)
    view.started(0, "run-0")

    def left_after(seconds: float, step: int) -> str:
        nonlocal now
        now += seconds
        if step:
            view.progress(0, {"step": step, "steps": 100, "tokens_per_second": 1.0, "loss": 3.0})
        view.tick()
        return printed.getvalue().strip().splitlines()[-1].rpartition("left ")[2]

    assert left_after(40.0, 0) == "…"
    assert left_after(20.0, 1) == "…"
    # 20 of 1000 steps in 20 seconds: 979 are left. Counted from the start it would be over an hour.
    assert left_after(20.0, 21) == "16:19"
