"""A run or a sweep as wandb holds it, whichever way it was read."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

STEP = "train_step"  # wandb's own step only counts rows
DERIVED = ("tokens", "tokens_per_second", "mfu")  # what the mirror adds to the lines of metrics.jsonl


def _nothing(_: str) -> bytes:
    raise FileNotFoundError


@dataclass
class MirroredRun:
    """What wandb holds of one run or sweep.

    Attributes:
        id: the run's, or the sweep's name.
        name: as it is shown.
        job_type: kind of the run, or "sweep".
        group: the sweep's.
        tags: the panels.
        config: of a run, its config.yaml; of a sweep, its manifest.
        summary: last values, and the result of a finished run.
        running: it is being logged to.
        rows: its history by training step; of a value logged twice, the last.
        more_rows: fetches rows, where that takes a request of its own.
        read_file: content of a file of the run.
    """

    id: str
    name: str = ""
    job_type: str = ""
    group: str = ""
    tags: tuple[str, ...] = ()
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    running: bool = False
    rows: dict[int, dict[str, Any]] = field(default_factory=dict)
    more_rows: Callable[[], Iterable[Mapping[str, Any]]] = tuple
    read_file: Callable[[str], bytes] = _nothing

    def add_row(self, row: Mapping[str, Any]) -> None:
        """Take over the numbers of one row."""
        if STEP not in row:
            return
        values = {
            key: float(value)
            for key, value in row.items()
            if not key.startswith("_") and key not in (STEP, *DERIVED) and isinstance(value, int | float)
        }
        self.rows[int(row[STEP])] = self.rows.get(int(row[STEP]), {}) | values

    def lines(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl: a validation is one of its own."""
        lines: list[dict[str, Any]] = []
        for step, values in self.history().items():
            validation = {key: values.pop(key) for key in ("val_loss",) if key in values}
            lines += [{"step": step, **part} for part in (values, validation) if part]
        return lines

    def history(self) -> dict[int, dict[str, float]]:
        """Metrics by training step, in order."""
        for row in self.more_rows():
            self.add_row(row)
        return {step: dict(row) for step, row in sorted(self.rows.items())}
