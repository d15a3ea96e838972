"""The first optimizer steps of a model at initialisation, watched from within (Figures 2, 3, 4 and 9)."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sweeper.records.metrics import MetricsFile
from sweeper.records.run_dir import RunDir
from sweeper.run.execution import Execution
from sweeper.run.progress import Progress, Reporter
from sweeper.run.spec import ProbeConfig
from sweeper.run.stop import StopFlag
from sweeper.training.attempt import Attempt
from sweeper.training.device import prepare_device
from sweeper.training.measures import Stopwatch, outcome
from sweeper.training.readouts import stream_readouts
from sweeper.training.setup import initialized


def run_probe(attempt: Attempt[ProbeConfig]) -> dict[str, Any] | None:
    """All steps of a probe; see `Probe.run`."""
    return Probe(attempt.rundir, attempt.config, attempt.execution).run(attempt.stop, attempt.report)


def random_rows(config: ProbeConfig) -> Tensor:
    """The tokens of every step: (sequences, seq_len + 1), uniform over the vocabulary."""
    draw = np.random.default_rng([config.seed, 0])  # a stream apart from the one that initialises the weights
    return torch.from_numpy(draw.integers(config.model.vocab_size, size=(config.sequences, config.seq_len + 1)))


class Probe:
    """One probe in this process. It keeps no checkpoint: a few steps are repeated sooner than a checkpoint is read.

    Args:
        rundir: the run's directory; its metrics and read-outs are written here.
        config: what to do.
        execution: how.

    Raises:
        UserError: if the device is missing.
    """

    def __init__(self, rundir: RunDir, config: ProbeConfig, execution: Execution) -> None:
        self.device = prepare_device(execution, precision="fp32")
        self.rundir, self.config = rundir, config
        self.model, self.optimizer = initialized(config, execution, self.device, config.increment_layers)
        self.rows = random_rows(config).to(self.device)

    def run(self, stop: StopFlag, report: Reporter) -> dict[str, Any] | None:
        """All steps.

        Args:
            stop: once set, the step under way is finished and None returned.
            report: called with progress after every step.

        Returns:
            The measured part of the result, or None if stopped.
        """
        stopwatch, steps = Stopwatch(), self.config.steps
        before: Tensor | None = None
        self.rundir.truncate_metrics(-1)
        with MetricsFile(self.rundir.metrics) as metrics:
            for step in range(steps + 1):
                if stop.is_set():
                    return None
                line, h = self._step(step, before, update=step < steps)
                metrics.write(line)
                if not math.isfinite(line["residual_rms"] + line["loss"]):
                    return outcome(
                        "diverged",
                        f"the residual stream is not finite after step {step}",
                        step,
                        steps,
                        stopwatch.seconds(),
                    )
                before = h
                elapsed = stopwatch.seconds()["step"]
                speed = (step + 1) * self.rows.numel() / elapsed
                report(Progress(step, steps, line["loss"], speed, elapsed / (step + 1) * (steps - step)))
        if self.config.increment_layers is not None:
            self.rundir.write_readouts(stream_readouts(self.model, self.rows))
        return outcome("done", "", steps, steps, stopwatch.seconds())

    def _step(self, step: int, before: Tensor | None, *, update: bool) -> tuple[dict[str, float], Tensor]:
        """One forward pass after `step` updates, and the next update if there is one.

        Returns:
            The line of metrics and h_N (B, T, D). R is its root mean square over tokens; `update_rms` that of its
            change since `before`, which is what update number `step` did to it.
        """
        states: list[Tensor] = []

        def keep_last(_: int, h: Tensor) -> None:
            states[:] = [h.detach()]

        with torch.set_grad_enabled(update):
            loss = self.model(self.rows[:, :-1], self.rows[:, 1:], observe=keep_last)
        if update:
            loss.backward()
            if self.config.warmup:
                for group in self.optimizer.param_groups:
                    group["lr"] = group["peak_lr"] * min(1.0, (step + 1) / self.config.warmup)
            self.optimizer.step()
            self.optimizer.zero_grad()
        [h] = states
        line = {"step": step, "loss": loss.item(), "residual_rms": _rms(h)}
        if before is not None:
            line["update_rms"] = _rms(h - before)
        return line, h


def _rms(x: Tensor) -> float:
    return float(x.double().square().mean().sqrt())
