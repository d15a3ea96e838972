"""Draws of the paper's toy model, as a run (Theorems 1 and 3)."""

from typing import Any

from model.toy import toy_recursion
from sweeper.records.metrics import MetricsFile
from sweeper.records.run_dir import RunDir
from sweeper.run.progress import Progress, Reporter
from sweeper.run.spec import TheoryConfig
from sweeper.run.stop import StopFlag
from sweeper.training.trainer import Stopwatch, outcome


def run_theory(rundir: RunDir, config: TheoryConfig, stop: StopFlag, report: Reporter) -> dict[str, Any] | None:
    """One line of metrics a draw: `step` counts draws, `residual_rms` and `branch_energy` are `ToyOutcome`'s.

    Args:
        rundir: the run's directory.
        config: what to draw.
        stop: once set, the draw under way is finished and None returned.
        report: called with progress after every draw.

    Returns:
        The measured part of the result, or None if stopped.
    """
    stopwatch, draws = Stopwatch(), config.steps
    rundir.truncate_metrics(-1)
    with MetricsFile(rundir.metrics) as metrics:
        for step, seed in enumerate(config.seeds, start=1):
            if stop.is_set():
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
            report(Progress(step, draws, end.residual_rms, 0.0, elapsed / step * (draws - step)))
    return outcome("done", "", draws, draws, stopwatch.seconds())
