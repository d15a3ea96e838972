"""One wandb run: opened on the server or, if that fails, in a file. Closing it takes a limited time."""

import contextlib
import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import wandb

from sweeper.records.sweep_manifest import Sweep
from sweeper.run.base import Run
from sweeper.run.execution import Tracking
from sweeper.tracking.mirrored_run import STEP, sweep_config
from sweeper.tracking.offline import is_ended

MAX_ID = 128  # of wandb's ids and groups, characters
OFFLINE_SECONDS = 300.0  # until a server that did not answer is tried again
FLUSH_SECONDS = 1.0  # of rows that a kill can remove from an offline file
WRITE_SECONDS = 2.0  # for the end of a file to reach the disk


@dataclass(frozen=True)
class Entry:
    """The entry of a run or a sweep in wandb."""

    id: str
    name: str
    job_type: str
    group: str | None = None
    tags: tuple[str, ...] = ()
    config: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of_run(cls, config: Run, record: Mapping[str, Any]) -> "Entry":
        """The entry of a run. `record` is the content of its config.yaml."""
        labels = record.get("labels") or {}
        panels, sweep = labels.get("panels") or ["run"], labels.get("sweep")
        group = None if sweep is None else wandb_id(sweep)
        return cls(config.run_id, f"{panels[0]}-{config.label}", config.KIND, group, tuple(panels), dict(record))

    @classmethod
    def of_sweep(cls, sweep: Sweep) -> "Entry":
        """The entry of a sweep. Its configuration is the manifest, and figures are logged to it."""
        name = wandb_id(sweep.name)
        return cls(name, f"sweep {sweep.name}", "sweep", name, config={"sweep": sweep_config(sweep)})


def wandb_id(name: str) -> str:
    """`name`, shortened and made unique with a hash if it is too long for wandb."""
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return name if len(name) <= MAX_ID else f"{name[: MAX_ID - 9]}-{digest}"


class WandbRun:
    """A wandb run, open until `close`.

    Args:
        tracking: server or files, and timeouts.
        root: directory in which wandb makes its directory `wandb/`.
        entry: what to open. An existing entry with the same id is continued.
        warn: called with one line if files are used in place of the server.

    Raises:
        Exception: any error of wandb if not even a file can be opened.
    """

    _offline_until = -math.inf  # shared by the runs of this process: a hanging server is not tried for each run

    def __init__(self, tracking: Tracking, root: Path, entry: Entry, warn: Callable[[str], None]) -> None:
        (root / "wandb").mkdir(exist_ok=True)  # otherwise wandb silently uses another directory
        self._tracking, self._root, self._entry, self._warn = tracking, root, entry, warn
        self._run = self._open()
        self._run.define_metric(STEP)
        self._run.define_metric("*", step_metric=STEP)

    @property
    def last_step(self) -> int:
        """The last training step on the server; -1 for a new run."""
        return int(self._run.summary.get(STEP, -1)) if self._run.resumed else -1  # type: ignore[no-untyped-call]

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Log one row at `step`. None stands for a number that is not finite."""
        self._run.log({STEP: step} | {key: math.nan if value is None else value for key, value in values.items()})

    def log_table(self, step: int, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Log a table as a file of the run. Without `bind_to_run` wandb would also make an artifact."""
        table = wandb.Table(columns=list(columns), data=[list(row) for row in rows])
        table.bind_to_run(self._run, name, step)  # type: ignore[no-untyped-call]
        self._run.log({STEP: step, name: table})

    def log_image(self, name: str, file: Path) -> None:
        """Log a figure."""
        self._run.log({name: wandb.Image(str(file))})

    def summarize(self, **values: Any) -> None:
        """Set summary values of the run."""
        self._run.summary.update(values)

    def close(self, *, finished: bool) -> None:
        """Upload the rest, for at most `finish_timeout`.

        Args:
            finished: whether the run is complete; otherwise another attempt continues it.
        """
        try:
            if not finished:
                self._run.mark_preempting()
            self._run.finish(exit_code=0 if finished else 1)
        except TimeoutError:
            self._warn(
                f"{self._tracking.base_url} did not receive everything within {self._tracking.finish_timeout:g} s; "
                f"`wandb sync {self._shown(self._run.settings.sync_dir)}` uploads it"
            )
        deadline = time.monotonic() + WRITE_SECONDS
        while not is_ended(Path(self._run.settings.sync_file)) and time.monotonic() < deadline:
            time.sleep(0.005)  # the service writes its last block after its answer

    def _open(self) -> wandb.Run:
        if self._tracking.mode == "online":
            tried = time.monotonic() >= WandbRun._offline_until
            try:
                if not tried:
                    raise ConnectionError("it failed a moment ago")
                return self._init("online")
            except Exception as error:
                if tried:
                    WandbRun._offline_until = time.monotonic() + OFFLINE_SECONDS
                reason = " ".join(str(error).split())[:200]
                self._warn(
                    f"logging to {self._tracking.base_url} failed ({reason}); mirrored to files in "
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
            # The mirror contains nothing that the run's directory does not have: no host, paths, code or console.
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
        """A path relative to the mirror's root."""
        return str(Path(path).relative_to(self._root))
