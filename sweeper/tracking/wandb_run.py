"""One wandb run: opened on the server or, where that fails, in a file; fed rows and tables; closed within bounds."""

import contextlib
import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import wandb

from sweeper.records.sweep_manifest import Sweep
from sweeper.run.base import Run
from sweeper.run.execution import Tracking
from sweeper.tracking.mirrored_run import STEP
from sweeper.tracking.offline import is_ended

MAX_ID = 128  # of wandb's ids and groups, characters
OFFLINE_SECONDS = 300.0  # before a server that did not answer is asked again
FLUSH_SECONDS = 1.0  # what a kill can take from an offline file
WRITE_SECONDS = 2.0  # for the end of a file to reach the disk


@dataclass(frozen=True)
class Entry:
    """How a run or a sweep stands in wandb."""

    id: str
    name: str
    job_type: str
    group: str | None = None
    tags: tuple[str, ...] = ()
    config: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of_run(cls, config: Run, record: Mapping[str, Any]) -> "Entry":
        """A run; `record` is its frozen configuration as it stands in config.yaml."""
        labels = record.get("labels") or {}
        panels, sweep = labels.get("panels") or ["run"], labels.get("sweep")
        group = None if sweep is None else wandb_id(sweep)
        return cls(config.run_id, f"{panels[0]}-{config.label}", config.KIND, group, tuple(panels), dict(record))

    @classmethod
    def of_sweep(cls, sweep: Sweep) -> "Entry":
        """A sweep: its manifest is the configuration, and figures are logged to it."""
        name = wandb_id(sweep.name)
        # The cells as text: servers put keys in another order, and show every key of every cell as a column.
        manifest = {**asdict(sweep), "cells": json.dumps(sweep.cells)}
        return cls(name, f"sweep {sweep.name}", "sweep", name, config={"sweep": manifest})


def wandb_id(name: str) -> str:
    """`name`, cut and told apart by a hash where wandb would find it too long."""
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return name if len(name) <= MAX_ID else f"{name[: MAX_ID - 9]}-{digest}"


class Session:
    """A wandb run, open until `close`.

    Args:
        tracking: where to.
        root: directory in which wandb makes its own, `wandb/`.
        entry: what to open; an entry of the same id is gone on with.
        warn: told of a fallback, in one line.

    Raises:
        Exception: whatever keeps wandb from opening even a file.
    """

    _offline_until = -math.inf  # of this process: a server that hangs is not waited for at every run

    def __init__(self, tracking: Tracking, root: Path, entry: Entry, warn: Callable[[str], None]) -> None:
        (root / "wandb").mkdir(exist_ok=True)  # wandb would quietly go to another directory
        self._tracking, self._root, self._entry, self._warn = tracking, root, entry, warn
        self._run = self._open()
        self._run.define_metric(STEP)
        self._run.define_metric("*", step_metric=STEP)

    @property
    def last_step(self) -> int:
        """The training step that the server has; -1 for a run it does not know."""
        return int(self._run.summary.get(STEP, -1)) if self._run.resumed else -1  # type: ignore[no-untyped-call]

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """One row, of `step`; None stands for a number that is not finite."""
        self._run.log({STEP: step} | {key: math.nan if value is None else value for key, value in values.items()})

    def log_table(self, step: int, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """A table, as a file of the run: bound to it here, because wandb would make an artifact of it as well."""
        table = wandb.Table(columns=list(columns), data=[list(row) for row in rows])
        table.bind_to_run(self._run, name, step)  # type: ignore[no-untyped-call]
        self._run.log({STEP: step, name: table})

    def log_image(self, name: str, file: Path) -> None:
        """A figure."""
        self._run.log({name: wandb.Image(str(file))})

    def summarize(self, **values: Any) -> None:
        """Values of the run as a whole."""
        self._run.summary.update(values)

    def close(self, *, finished: bool) -> None:
        """Hand in the rest, for as long as `finish_timeout`.

        Args:
            finished: nothing will go on with this run.
        """
        try:
            if not finished:
                self._run.mark_preempting()
            self._run.finish(exit_code=0 if finished else 1)
        except TimeoutError:
            self._warn(
                f"{self._tracking.base_url} did not take everything within {self._tracking.finish_timeout:g} s; "
                f"`wandb sync {self._shown(self._run.settings.sync_dir)}` uploads it"
            )
        deadline = time.monotonic() + WRITE_SECONDS
        while not is_ended(Path(self._run.settings.sync_file)) and time.monotonic() < deadline:
            time.sleep(0.005)  # the service writes its last block after it has answered

    def _open(self) -> wandb.Run:
        if self._tracking.mode == "online":
            asked = time.monotonic() >= Session._offline_until
            try:
                if not asked:
                    raise ConnectionError("it failed a moment ago")
                return self._init("online")
            except Exception as error:
                if asked:
                    Session._offline_until = time.monotonic() + OFFLINE_SECONDS
                reason = " ".join(str(error).split())[:200]
                self._warn(
                    f"{self._tracking.base_url} cannot be logged to ({reason}); mirrored to files in "
                    f"{self._shown(self._root / 'wandb')} instead, which `wandb sync` uploads"
                )
                with contextlib.suppress(Exception):
                    wandb.teardown()  # its service still waits for the server
        return self._init("offline")

    def _init(self, mode: str) -> wandb.Run:
        tracking, entry = self._tracking, self._entry
        settings = wandb.Settings(
            mode=mode,  # type: ignore[arg-type]
            base_url=tracking.base_url,
            root_dir=str(self._root),
            init_timeout=tracking.init_timeout,
            finish_timeout=tracking.finish_timeout,
            finish_timeout_raises=True,
            x_service_wait=tracking.init_timeout,
            x_transaction_log_flush_interval=FLUSH_SECONDS,
            reinit="create_new",
            silent=True,
            # What the run's directory does not hold, the mirror does not tell: no host, paths, code or console.
            host="",
            program="loopsweep",
            console="off",
            disable_code=True,
            disable_git=True,
            disable_job_creation=True,
            label_disable=True,
            save_code=False,
            symlink=False,
            x_disable_machine_info=True,
            x_disable_meta=True,
            x_disable_stats=True,
            x_save_requirements=False,
        )
        return wandb.init(
            entity=tracking.entity,
            project=tracking.project,
            id=entry.id,
            name=entry.name,
            group=entry.group,
            job_type=entry.job_type,
            tags=list(entry.tags),
            config=entry.config,
            resume="allow",
            settings=settings,
        )

    def _shown(self, path: str | Path) -> str:
        """A path without what lies above the mirror's root."""
        return str(Path(path).relative_to(self._root))
