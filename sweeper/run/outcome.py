"""How an attempt at a run ends. Apart from `sweeper.execution.execute_run`, so that naming it does not import torch."""

from enum import StrEnum


class Outcome(StrEnum):
    """How an attempt at a run ended."""

    DONE = "done"
    DIVERGED = "diverged"
    STOPPED = "stopped"  # told to; resumable
    LOCKED = "locked"  # another process runs it
    ERROR = "error"  # may work the next time
    INVALID = "invalid"  # will not work until the user changes something
