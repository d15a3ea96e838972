"""When a training is lost: its loss has risen far above what it had reached, and stays there.

The rule reads the training loss of every step, so it depends on the run alone, and not on how often it is validated.
"""

from typing import Any

import torch
from torch import Tensor

from sweeper.run.spec import RunConfig

WINDOWS = 20  # of a training; the loss is averaged over each
IN_A_ROW = 2  # windows that must be blown up
RISE = 0.5  # nats above the lowest window


class BlowUp:
    """The rule of `RunConfig.stop_lost`.

    A training is lost after two windows in a row, each a twentieth of its steps and after warmup, whose mean training
    loss is above `diverged_above` and at least 0.5 nats above the lowest window before. A slow run, whose loss still
    falls, and a run on a plateau are never lost.

    Args:
        config: the run.
        device: of its losses.
    """

    def __init__(self, config: RunConfig, device: torch.device) -> None:
        self._size = max(1, config.schedule.steps // WINDOWS)
        self._warmup, self._above = config.schedule.warmup, config.diverged_above
        self._sum = torch.zeros((), dtype=torch.float64, device=device)
        self._lowest, self._in_a_row = float("inf"), 0

    def lost(self, step: int, loss: Tensor) -> bool:
        """Whether the training is lost at the end of `step` = 1, 2, …, whose loss is a scalar.

        It reads the losses from the device at the end of each window, and not in between.
        """
        self._sum += loss
        if step % self._size:
            return False
        mean = float(self._sum) / self._size
        self._sum.zero_()
        blown_up = not (mean <= self._above or mean < self._lowest + RISE)  # also true of nan
        self._in_a_row = self._in_a_row + 1 if blown_up and step - self._size >= self._warmup else 0
        self._lowest = min(self._lowest, mean)
        return self._in_a_row >= IN_A_ROW

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps: plain values."""
        return {"sum": float(self._sum), "lowest": self._lowest, "in_a_row": self._in_a_row}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from `state_dict`'s values."""
        self._sum.fill_(state["sum"])
        self._lowest, self._in_a_row = state["lowest"], state["in_a_row"]
