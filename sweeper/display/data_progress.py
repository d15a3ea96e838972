"""Data being prepared, as the person at the terminal sees it: a live line, or plain ones without a terminal."""

import time
from datetime import timedelta
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from sweeper.data import DataSpec, Manifest, prepare_data
from sweeper.data import Progress as DataProgress
from sweeper.display.sweep_progress import PLAIN_SECONDS


def prepare_in_view(spec: DataSpec, root: Path, console: Console) -> Manifest:
    """`prepare_data` on all cores of this machine, shown on `console`."""
    with DataView(console) as view:
        return prepare_data(spec, root, view.say, view.watch)


class DataView:
    """Stages and progress of a preparation; a context manager.

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
        self._began = self._said = time.monotonic()

    def __enter__(self) -> "DataView":
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def say(self, line: str) -> None:
        """A stage begins or ends."""
        self._said = time.monotonic()
        self._console.print(f"data: {line}", highlight=False, markup=False, soft_wrap=True)

    def watch(self, progress: DataProgress) -> None:
        """Show how far a stage is."""
        if progress.done == 0:
            self._began = time.monotonic()
            for task in self._live.task_ids:
                self._live.remove_task(task)
            self._live.add_task(progress.stage, total=progress.total, pace="")
        seconds, completed = time.monotonic() - self._began, progress.before + progress.done
        pace = left = ""
        if progress.done and seconds:
            rate = progress.done / seconds
            pace = f"{progress.tokens / seconds:,.0f} tokens/s · {rate / 1e6:.1f} MB/s"
            left = f" · left {timedelta(seconds=round((progress.total - completed) / rate))}"
        for task in self._live.task_ids:
            self._live.update(task, completed=completed, pace=pace + left)
        if progress.done and completed == progress.total:
            self.say(f"{progress.stage} took {seconds:.1f} s · {pace}")
        elif not self._console.is_terminal and time.monotonic() - self._said > PLAIN_SECONDS:
            self.say(f"{progress.stage} {completed / progress.total:.0%} · {pace}{left}")
