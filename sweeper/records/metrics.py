"""metrics.jsonl: one JSON object per line, flushed after every line."""

import json
import math
from collections.abc import Mapping
from pathlib import Path


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
