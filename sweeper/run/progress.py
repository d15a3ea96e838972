"""Progress of a run, reported to the process that started it."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """How far a run is: optimizer steps done, of how many, last loss in nats, tokens per second, time left."""

    step: int
    steps: int
    loss: float
    tokens_per_second: float
    seconds_left: float


Reporter = Callable[[Progress], None]
