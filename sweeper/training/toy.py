"""Draws of the paper's toy model, as a run (Theorems 1 and 3)."""

from typing import Any

from model.toy import toy_recursion
from sweeper.records.metrics import MetricsFile
from sweeper.run.progress import Progress
from sweeper.run.spec import TheoryConfig
from sweeper.training.attempt import Attempt
from sweeper.training.measures import Stopwatch, outcome


def run_theory(attempt: Attempt[TheoryConfig]) -> dict[str, Any] | None:
    """One line of metrics a draw: `step` counts draws, `residual_rms` and `branch_energy` are `ToyOutcome`'s.

    Returns:
        The measured part of the result, or None if stopped.
    """
    config, rundir = attempt.config, attempt.rundir
    stopwatch, draws = Stopwatch(), config.steps
    rundir.truncate_metrics(-1)
    with MetricsFile(rundir.metrics) as metrics:
        for step, seed in enumerate(config.seeds, start=1):
            if attempt.stop.is_set():
                return None
            end = toy_recursion(
                d_model=config.d_model,
                n_layers=config.n_layers,
                n_loops=config.n_loops,
                residual_scale=config.residual_scale,
                shared=config.shared,
                seed=seed,
            )
            metrics.write({"step": step, "residual_rms": end.residual_rms, "branch_energy": end.branch_energy})
            elapsed = stopwatch.seconds()["step"]
            attempt.report(Progress(step, draws, end.residual_rms, 0.0, elapsed / step * (draws - step)))
    return outcome("done", "", draws, draws, stopwatch.seconds())
