"""metrics.jsonl: one JSON object per line, flushed after every line."""

import json
import math
from collections.abc import Mapping
from pathlib import Path

WHOLE_STEPS = 2_000  # first steps of a training with `RunConfig.diagnostics`: each has a line, also after an export
SCORES = ("val_accuracy", "val_exact_match")  # of a task's validation set, in lines of validations and in the result
STREAM_NORM, STREAM_GRADIENT = "stream_norm_", "stream_grad_"  # and the number of the loop step, 1 … N


class MetricsFile:
    """A run's metrics, open for appending; a context manager."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a")

    def __enter__(self) -> "MetricsFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, line: Mapping[str, float]) -> None:
        """Append one line. A number that is not finite becomes null, because JSON cannot represent it."""
        finite = {key: value if math.isfinite(value) else None for key, value in line.items()}
        self._file.write(json.dumps(finite) + "\n")
        self._file.flush()
