"""A run or a sweep as wandb has it, read from a server or from files."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sweeper.records.metrics import SCORES
from sweeper.records.sweep_manifest import Sweep

STEP = "train_step"  # wandb's own step only counts rows
DERIVED = ("tokens", "tokens_per_second", "mfu")  # added by the follower to the lines of metrics.jsonl

_AS_TEXT = ("cells", "base")  # of a manifest: servers put keys in another order, and show every key as a column


def sweep_config(sweep: Sweep) -> dict[str, Any]:
    """A sweep's manifest as the configuration of its entry."""
    record = sweep.to_record()
    return record | {key: json.dumps(record[key]) for key in _AS_TEXT}


def sweep_of(config: Mapping[str, Any]) -> Sweep:
    """Inverse of `sweep_config`."""
    return Sweep.from_record(dict(config) | {key: json.loads(config[key]) for key in _AS_TEXT if key in config})


def _nothing(_: str) -> bytes:
    raise FileNotFoundError


@dataclass
class MirroredRun:
    """One run or sweep in wandb.

    Attributes:
        id: id of the run, or name of the sweep.
        name: displayed name.
        job_type: kind of the run, or "sweep".
        group: name of the sweep.
        tags: the panels.
        config: config.yaml of a run, or the manifest of a sweep.
        summary: last values, and the result of a finished run.
        running: whether wandb says that the run is still being logged.
        rows: history by training step; the last value if one was logged twice.
        more_rows: fetches more rows, if they need another request.
        read_file: returns the content of a file of the run.
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
        """Add the numbers of one row."""
        if STEP not in row:
            return
        values = {
            key: float(value)
            for key, value in row.items()
            if not key.startswith("_") and key not in (STEP, *DERIVED) and isinstance(value, int | float)
        }
        self.rows[int(row[STEP])] = self.rows.get(int(row[STEP]), {}) | values

    def lines(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl. A validation is a separate line."""
        lines: list[dict[str, Any]] = []
        for step, values in self.history().items():
            validation = {key: values.pop(key) for key in ("val_loss", *SCORES) if key in values}
            lines += [{"step": step, **part} for part in (values, validation) if part]
        return lines

    def history(self) -> dict[int, dict[str, float]]:
        """Metrics by training step, in order."""
        for row in self.more_rows():
            self.add_row(row)
        return {step: dict(row) for step, row in sorted(self.rows.items())}
