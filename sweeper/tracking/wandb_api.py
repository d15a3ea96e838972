"""Read a sweep's runs from a wandb server."""

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeper.errors import UserError
from sweeper.tracking.mirrored_run import MirroredRun

if TYPE_CHECKING:
    import wandb

TIMEOUT_SECONDS = 30
PAGE = 100  # runs per request


class Project:
    """The runs of one project.

    Args:
        path: "entity/project".
        base_url: URL of the server.

    Raises:
        UserError: if the path is malformed, there is no key for the server, or it does not answer.
    """

    def __init__(self, path: str, base_url: str) -> None:
        if path.count("/") != 1 or not all(path.split("/")):
            raise UserError(f"--wandb {path}: give entity/project, or entity/project:group")
        import wandb

        self._path, self._base_url = path, base_url
        with self._named_errors():
            wandb.setup(wandb.Settings(silent=True, console="off"))
            self._api = wandb.Api(overrides={"base_url": base_url}, timeout=TIMEOUT_SECONDS)

    def sweeps(self, group: str | None) -> list[MirroredRun]:
        """Sweeps, the oldest first; only those of `group`, if given."""
        return self._runs({"jobType": "sweep"} | ({"group": group} if group else {}))

    def runs(self, run_ids: Sequence[str]) -> list[MirroredRun]:
        """The runs that the server has."""
        pages = (run_ids[i : i + PAGE] for i in range(0, len(run_ids), PAGE))
        return [run for page in pages for run in self._runs({"name": {"$in": list(page)}})]

    def _runs(self, filters: dict[str, Any]) -> list[MirroredRun]:
        with self._named_errors():
            found = self._api.runs(self._path, filters=filters, order="+created_at", per_page=PAGE, lazy=False)
            return [_mirrored(run) for run in found]

    @contextlib.contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # the client raises many kinds, some of them private
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"--wandb {self._path}: {self._base_url} cannot be read ({reason}); check the name, the key "
                "(`wandb login`) and WANDB_BASE_URL, or read files with --wandb-dir"
            ) from error


def _mirrored(run: "wandb.apis.public.Run") -> MirroredRun:
    return MirroredRun(
        id=run.id,
        name=run.name or "",
        job_type=run.job_type or "",
        group=run.group or "",
        tags=tuple(run.tags),
        config=dict(run.config),
        summary=dict(run.summary_metrics),
        running=run.state == "running",
        more_rows=partial(run.scan_history, use_cache=False),  # history() would draw a sample
        read_file=partial(_download, run),
    )


def _download(run: "wandb.apis.public.Run", name: str) -> bytes:
    with tempfile.TemporaryDirectory() as directory:
        run.file(name).download(directory).close()
        return (Path(directory) / name).read_bytes()
