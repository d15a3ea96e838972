"""The directory of one run: everything about it, and the only truth about its state.

config.yaml      frozen at submission; the worker never composes again
metrics.jsonl    one line per logged step, flushed
readouts.json    what the finished model's residual stream does, where the run reads it out
execution.json   micro-batch and recomputation on a GPU, so that a resumed run sums in the same order
checkpoint/      atomic, verified, the last two
failure.json     why the run failed, if it did
attempts.json    failures since the last checkpoint, on a cluster
progress.json    speed and time left, while it runs
result.json      written last: done or diverged
log.txt          what the workers printed
imported.json    where the run comes from, if another machine executed it
lock             the owner, while there is one
"""

import contextlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from sweeper.errors import UserError
from sweeper.files import read_json, write_json, write_text
from sweeper.records.provenance import written_by
from sweeper.run.base import Run
from sweeper.run.execution import Execution
from sweeper.run.identity import digest
from sweeper.run.spec import run_from_dict

TAIL_BYTES = 2**15  # of metrics.jsonl, read to see where a run stands; a line has two numbers a loop step
RECORDS = "records"  # the kind of origin of a run that was restored from an export
RESUME = "submit the sweep again, which resumes from the run's checkpoint"
SUBMIT_AGAIN = "submit the sweep again, which writes it anew and keeps the run's checkpoint"


@dataclass(frozen=True)
class RunDir:
    """Paths and records of one run."""

    path: Path

    @property
    def config(self) -> Path:
        """What the run is, how it is executed, and who wrote this down."""
        return self.path / "config.yaml"

    @property
    def lock(self) -> Path:
        """Lock file with the owner's identity; its modification time is the heartbeat."""
        return self.path / "lock"

    @property
    def checkpoints(self) -> Path:
        """Directory of checkpoints."""
        return self.path / "checkpoint"

    @property
    def metrics(self) -> Path:
        """One JSON object a line."""
        return self.path / "metrics.jsonl"

    @property
    def log(self) -> Path:
        """What the run's workers printed."""
        return self.path / "log.txt"

    @property
    def origin(self) -> dict[str, Any]:
        """imported.json: where a run comes from that was not executed here; empty for a run of this machine."""
        return read_json(self.path / "imported.json") or {}

    @property
    def is_restored(self) -> bool:
        """Whether the run was restored from records: it has no configuration, and its metrics are as exported."""
        return self.origin.get("kind") == RECORDS

    def write_config(self, config: Run, execution: Execution, labels: dict[str, Any]) -> None:
        """Write config.yaml, unless the run is finished.

        An unfinished run that is submitted again takes the new `execution`; all else is the same by its identity.
        """
        if self.result() is not None:
            return
        self.path.mkdir(parents=True, exist_ok=True)
        record = {
            "run": config.to_dict(),  # what the directory's hash is taken of; nothing else is
            "execution": asdict(execution),
            "labels": labels,
            "written_by": written_by(),
        }
        write_text(self.config, yaml.safe_dump(record, sort_keys=False))

    def load(self) -> tuple[Run, Execution]:
        """The frozen configuration.

        The section `run` is what the directory's hash was taken of. So it tells by itself whether it was edited, also
        if this version cannot read it.

        Raises:
            UserError: if config.yaml is missing, broken, edited, or written by a version whose runs are others.
        """
        record = self._read_config()
        try:
            edited = digest(record["run"]) != self.path.name.rpartition("-")[2]
        except TypeError:  # a date, say
            edited = True
        if edited:
            raise UserError(f"{self.config} was edited after submission; {SUBMIT_AGAIN}")
        try:
            config = run_from_dict(record["run"])
            if config.run_id != self.path.name:
                raise ValueError(f"this version gives the run the id {config.run_id}")
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise UserError(
                f"{self.config} was written by another version of loopsweep ({_writer(record)}): {_one_line(error)}; "
                "use that version, or another directory with paths.runs=DIR"
            ) from error
        try:
            return config, Execution.from_dict(record["execution"])
        except (ValueError, TypeError) as error:
            raise UserError(f"{self.config}: section execution: {_one_line(error)}; {SUBMIT_AGAIN}") from error

    def _read_config(self) -> dict[str, Any]:
        """config.yaml with its sections, whatever is in them."""
        try:
            record = yaml.safe_load(self.config.read_text())
        except FileNotFoundError as error:
            raise UserError(f"{self.config} is missing; {SUBMIT_AGAIN}") from error
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise UserError(f"{self.config} cannot be read ({_one_line(error)}); {SUBMIT_AGAIN}") from error
        sections = record if isinstance(record, dict) else {}
        for name in ("run", "execution"):
            if not isinstance(sections.get(name), dict):
                raise UserError(f"{self.config} cannot be read (no section {name}); {SUBMIT_AGAIN}")
        return sections

    def result(self) -> dict[str, Any] | None:
        """result.json, or None while the run is not finished."""
        result = read_json(
            self.path / "result.json",
            f"remove this one file and {RESUME}",
        )
        return result if isinstance(result, dict) else None

    def write_readouts(self, readouts: dict[str, Any]) -> None:
        """Keep what `sweeper.training.readouts` measured; before the result, which is the last write."""
        write_json(self.path / "readouts.json", readouts)

    def readouts(self) -> dict[str, Any]:
        """readouts.json: each read-out of a finished run, as `readout_rows` takes it; empty if there is none."""
        return read_json(self.path / "readouts.json") or {}

    def write_result(self, result: dict[str, Any]) -> None:
        """Finish the run. The last write; a finished run is never run again."""
        for name in ("failure.json", "attempts.json", "progress.json"):
            (self.path / name).unlink(missing_ok=True)
        write_json(self.path / "result.json", result)

    def failure(self) -> dict[str, Any] | None:
        """failure.json of the last failed attempt, if it was the last."""
        failure = read_json(self.path / "failure.json")
        return failure if isinstance(failure, dict) else None

    def write_failure(self, reason: str, attempts: int) -> None:
        """Record that the run failed for good in this invocation; submitting again retries it."""
        write_json(self.path / "failure.json", {"reason": reason, "attempts": attempts, "log": self.log_tail(20)})

    def clear_failure(self) -> None:
        """Forget an earlier failure, because the run is tried again."""
        (self.path / "failure.json").unlink(missing_ok=True)

    def count_attempt(self) -> tuple[int, int]:
        """Count one more failure.

        Returns:
            The step of the newest checkpoint, and the failures since it was written.
        """
        names = [path.stem for path in self.checkpoints.glob("step-*.json")]
        step = max((int(name.removeprefix("step-")) for name in names), default=0)
        before = read_json(self.path / "attempts.json")
        count = before["count"] + 1 if before is not None and before["step"] == step else 1
        write_json(self.path / "attempts.json", {"step": step, "count": count})
        return step, count

    def reset_failures(self) -> None:
        """Forget all failures, because the run is submitted anew."""
        self.clear_failure()
        (self.path / "attempts.json").unlink(missing_ok=True)

    def write_progress(self, tokens_per_second: float, seconds_left: float) -> None:
        """Note the speed of the attempt under way."""
        write_json(self.path / "progress.json", {"tokens_per_second": tokens_per_second, "seconds_left": seconds_left})

    def progress(self) -> dict[str, float]:
        """The speed last noted; empty if there is none."""
        return read_json(self.path / "progress.json") or {}

    def log_tail(self, lines: int) -> list[str]:
        """Last lines of the log."""
        try:
            return self.log.read_text(errors="replace").splitlines()[-lines:]
        except FileNotFoundError:
            return []

    def read_metrics(self) -> list[dict[str, Any]]:
        """All whole lines; a torn last line, left by a kill, is not one."""
        rows = []
        try:
            text = self.metrics.read_text()
        except FileNotFoundError:
            return []
        for line in text.splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:
                break
        return rows

    def last_metrics(self) -> dict[str, Any]:
        """The last whole lines of the metrics, newer keys over older: step, loss, and val_loss if it is near."""
        try:
            with self.metrics.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
                lines = file.read().split(b"\n")[:-1]
        except OSError:
            return {}
        merged: dict[str, Any] = {}
        for line in lines:
            with contextlib.suppress(ValueError):  # the first line may be cut off
                merged |= json.loads(line)
        return merged

    def truncate_metrics(self, step: int) -> None:
        """Drop what was logged after `step`, the one the run resumes from."""
        kept = [row for row in self.read_metrics() if row["step"] <= step]
        write_text(self.metrics, "".join(json.dumps(row) + "\n" for row in kept))


def _writer(record: dict[str, Any]) -> str:
    """The version that wrote a config.yaml, as far as it is noted."""
    noted = record.get("written_by") or {}
    version, commit = noted.get("loopsweep"), noted.get("commit")
    known = [f"version {version}"] * bool(version) + [f"commit {commit}"] * bool(commit)
    return ", ".join([*known, f"schema {record['run'].get('schema')}"])


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


ReadoutRow = tuple[int, int, float | None, float | None]


def readout_rows(mean: list[Any], std: list[Any], counts: list[int] | None = None) -> list[ReadoutRow]:
    """A read-out as rows (i, j, mean, std). j = -1 for a vector, None stands for a number that is not there.

    i and j count from 0; a vector may have the values of i as `counts`.
    """
    rows: list[ReadoutRow] = []
    for i, means, stds in zip(counts or range(len(mean)), mean, std, strict=True):
        if isinstance(means, list):
            rows += [(i, j, *pair) for j, pair in enumerate(zip(means, stds, strict=True))]
        else:
            rows.append((i, -1, means, stds))
    return rows
