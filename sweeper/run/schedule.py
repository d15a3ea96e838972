"""Warmup-stable-decay, as a pure function of the step."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """Linear warmup, constant rate, linear decay to 0.

    Attributes:
        steps: optimizer steps of the whole run.
        warmup: steps until the peak rate is reached.
        decay: last steps over which the rate falls; the step after the last one would have rate 0.

    Raises:
        ValueError: if warmup and decay do not fit into the run.
    """

    steps: int
    warmup: int
    decay: int

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"schedule.steps={self.steps} must be at least 1")
        if self.warmup < 0 or self.decay < 0 or self.warmup + self.decay > self.steps:
            raise ValueError(
                f"schedule.warmup={self.warmup} + schedule.decay={self.decay} exceed schedule.steps={self.steps}"
            )

    def factor(self, step: int) -> float:
        """Share of the peak rate at `step` = 0 … steps − 1."""
        rise = (step + 1) / self.warmup if self.warmup else 1.0
        fall = (self.steps - step) / self.decay if self.decay else 1.0
        return min(1.0, rise, fall)
