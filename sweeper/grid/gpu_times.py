"""What runs take on a kind of GPU: the roofline's time, corrected by every run of the sweep that has finished there."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np

from sweeper.config.resolve import ResolvedRun
from sweeper.hardware import GPUS, Gpu, gpu_kind
from sweeper.records.status import FINISHED, RunStatus
from sweeper.run.base import ModelRun
from sweeper.run.roofline import Settings, StepTime, gpu_seconds, step_time, utilisation


@dataclass(frozen=True)
class GpuTimes:
    """Times of runs on one kind of GPU.

    Attributes:
        name: what was asked for, such as H100, or a driver's name.
        kind: its rates; None if they are not known, so that no run has a time.
        blocks: measured time of what grows with L · N, as a multiple of the model's.
        rest: the same of everything else.
        finished: runs that this was measured on.
    """

    name: str
    kind: Gpu | None
    blocks: float = 1.0
    rest: float = 1.0
    finished: int = 0

    @classmethod
    def learned(cls, name: str, runs: Mapping[str, ResolvedRun], status: Mapping[str, RunStatus]) -> Self:
        """For a sweep's runs. Those that finished on another kind of GPU tell nothing."""
        kind = gpu_kind(name)
        if kind is None:
            return cls(name, None)
        seen = []
        for run_id, run in runs.items():
            one = status[run_id]
            known = one.state in FINISHED and one.step_seconds > 0 and one.step > 0 and gpu_kind(one.gpu) is kind
            if known and isinstance(run.config, ModelRun):
                modelled = step_time(run.config, kind, Settings.of(run.execution, max(1, one.gpus)))
                seen.append((modelled, one.step_seconds / one.step))
        return cls(name, kind, *_factors(seen), len(seen))

    def run_hours(self, run: ResolvedRun, gpus: int = 1) -> float:
        """Wall time of all steps of a run on so many GPUs, in hours. 0 for a run on a CPU, NaN for an unknown GPU."""
        if run.execution.device != "cuda":
            return 0.0
        if self.kind is None:
            return math.nan
        settings = Settings.of(run.execution, gpus)
        if not isinstance(run.config, ModelRun):
            return gpu_seconds(run.config, self.kind, settings) / 3600
        time = step_time(run.config, self.kind, settings)
        return (self.blocks * time.of_blocks + self.rest * (time.seconds - time.of_blocks)) * run.config.steps / 3600

    def hours(self, runs: Iterable[ResolvedRun]) -> float:
        """GPU-hours of runs, each on one GPU."""
        return math.fsum(map(self.run_hours, runs))

    def utilisation(self, runs: Iterable[ResolvedRun]) -> Mapping[str, float]:
        """MFU of the runs together, by way of counting; empty for an unknown GPU."""
        on_gpu = [run for run in runs if run.execution.device == "cuda"]
        if self.kind is None or not on_gpu:
            return {}
        hours = [self.run_hours(run) for run in on_gpu]
        shares = [utilisation(run.config, self.kind, 3600 * taken) for run, taken in zip(on_gpu, hours, strict=True)]
        return {name: float(np.average([of[name] for of in shares], weights=hours)) for name in shares[0]}

    @property
    def origin(self) -> str:
        """Where the times come from, in words."""
        if self.kind is None:
            return f"{self.name} is no GPU whose rates are known ({', '.join(GPUS)}), so there is no time"
        if not self.finished:
            return "modelled, never run"
        runs = "1 finished run" if self.finished == 1 else f"{self.finished} finished runs"
        return f"modelled, corrected by {runs}: blocks x {self.blocks:.2f}, the rest x {self.rest:.2f}"


def _factors(seen: list[tuple[StepTime, float]]) -> tuple[float, float]:
    """Of blocks and rest, from the modelled and the measured seconds of steps; relative errors count the same.

    Runs of one depth give one factor for both, and so do runs that the model fits too badly to tell them apart.
    """
    if not seen:
        return 1.0, 1.0
    measured = np.array([seconds for _, seconds in seen])
    parts = np.array([(time.of_blocks, time.seconds - time.of_blocks) for time, _ in seen])
    if len({round(blocks / total, 3) for blocks, total in zip(parts[:, 0], parts.sum(1), strict=True)}) > 1:
        (blocks, rest), *_ = np.linalg.lstsq(parts / measured[:, None], np.ones_like(measured), rcond=None)
        if blocks > 0 and rest > 0:
            return float(blocks), float(rest)
    factor = float(np.exp(np.log(measured / parts.sum(1)).mean()))
    return factor, factor
