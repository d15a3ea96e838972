"""Progress of a data preparation: a live line in a terminal, else plain lines."""

import time
from datetime import timedelta
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from sweeper.data import DataSpec, Manifest, prepare_data
from sweeper.data import Progress as DataProgress
from sweeper.display.sweep_progress import PLAIN_SECONDS


def prepare_in_view(spec: DataSpec, root: Path, console: Console) -> Manifest:
    """`prepare_data` on all cores of this machine, with its progress on `console`."""
    with DataView(console) as view:
        return prepare_data(spec, root, view.print_line, view.watch)


class DataView:
    """Shows stages and progress of a preparation; a context manager.

    Args:
        console: where to draw.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[pace]}"),
        )
        self._live = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._stage_start = self._last_line = time.monotonic()

    def __enter__(self) -> "DataView":
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def print_line(self, line: str) -> None:
        """Print a line, such as the start of a stage."""
        self._last_line = time.monotonic()
        self._console.print(f"data: {line}", highlight=False, markup=False, soft_wrap=True)

    def watch(self, progress: DataProgress) -> None:
        """Show the progress of a stage."""
        if progress.done == 0:
            self._stage_start = time.monotonic()
            for task in self._live.task_ids:
                self._live.remove_task(task)
            self._live.add_task(progress.stage, total=progress.total, pace="")
        seconds, completed = time.monotonic() - self._stage_start, progress.before + progress.done
        pace = left = ""
        if progress.done and seconds:
            rate = progress.done / seconds
            pace = f"{progress.tokens / seconds:,.0f} tokens/s · {rate / 1e6:.1f} MB/s"
            left = f" · left {timedelta(seconds=round((progress.total - completed) / rate))}"
        for task in self._live.task_ids:
            self._live.update(task, completed=completed, pace=pace + left)
        if progress.done and completed == progress.total:
            self.print_line(f"{progress.stage} took {seconds:.1f} s · {pace}")
        elif not self._console.is_terminal and time.monotonic() - self._last_line > PLAIN_SECONDS:
            self.print_line(f"{progress.stage} {completed / progress.total:.0%} · {pace}{left}")
