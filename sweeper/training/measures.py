"""What a run measures of itself: seconds, and the part of a result that runs of every kind have."""

import resource
import time
from collections.abc import Mapping
from typing import Any


class Stopwatch:
    """Seconds since its creation, as `outcome` takes them, for runs that are one step after another and no more."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def seconds(self) -> dict[str, float]:
        """Wall time as `step`, processor time as `cpu`."""
        return {"step": time.perf_counter() - self._wall, "cpu": time.process_time() - self._cpu}


def outcome(state: str, reason: str, step: int, steps: int, seconds: Mapping[str, float]) -> dict[str, Any]:
    """The measured part of a result that runs of every kind have. `seconds`: wall time by what it went into, and all
    of the processor time as `cpu`."""
    return {
        "state": state,
        "reason": reason,
        "val_loss": None,
        "step": step,
        "steps": steps,
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
