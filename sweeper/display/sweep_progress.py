"""Progress of a sweep: a live table in a terminal, else plain lines."""

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from sweeper.run.outcome import Outcome

PLAIN_SECONDS = 15.0  # between lines without a terminal, while no run ends


@dataclass
class _Slot:
    run_id: str
    fraction: float = 0.0
    event: dict[str, Any] = field(default_factory=dict)


class SweepView:
    """Shows the progress of a pool's runs; a `sweeper.execution.worker_pool.View` and a context manager.

    Args:
        console: where to draw.
        costs: expected cost of every run, in any unit. The time left is computed from them.
        finished: number of runs of the sweep that were finished before.
    """

    def __init__(self, console: Console, costs: Mapping[str, float], finished: int) -> None:
        self._console, self._costs = console, costs
        self._counts = Counter({"earlier": finished})
        self._slots: dict[int, _Slot] = {}
        self._spent = 0.0  # cost of the runs that have ended
        self._start = self._last_line = time.monotonic()
        self._first: tuple[float, float] | None = None  # when a run first reported steps, and the cost done by then
        self._live = Live(console=console, refresh_per_second=4, transient=True, get_renderable=self._render)

    def __enter__(self) -> "SweepView":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def started(self, slot: int, run_id: str) -> None:
        """A worker started a run."""
        self._slots[slot] = _Slot(run_id)

    def progress(self, slot: int, event: dict[str, Any]) -> None:
        """A run reported its progress."""
        self._slots[slot].event = event
        self._slots[slot].fraction = event["step"] / event["steps"]
        if self._first is None:
            self._first = time.monotonic(), self._done_cost()

    def ended(self, slot: int, run_id: str, outcome: Outcome, reason: str) -> None:
        """An attempt ended."""
        del self._slots[slot]
        self._counts[outcome] += 1
        self._spent += self._costs[run_id]
        if outcome in (Outcome.ERROR, Outcome.INVALID, Outcome.LOCKED):
            self._print_line(f"{run_id}: {outcome}: {reason}", style="red")
        elif not self._console.is_terminal:
            self._print_line(f"{run_id} {outcome} {reason} {self._summary()}")

    def retrying(self, run_id: str, reason: str) -> None:
        """An attempt failed and is repeated."""
        self._slots = {slot: state for slot, state in self._slots.items() if state.run_id != run_id}
        self._print_line(f"{run_id}: {reason}; trying once more from its last checkpoint", style="yellow")

    def stopping(self) -> None:
        """The user asked to stop."""
        line = "stopping: each worker finishes its step and writes a checkpoint (Ctrl-C again kills the workers)"
        self._print_line(line, style="yellow")

    def tick(self) -> None:
        """Print a line if there was none for a while."""
        if not self._console.is_terminal and time.monotonic() - self._last_line > PLAIN_SECONDS:
            self._print_line(self._summary())

    def _print_line(self, line: str, style: str = "") -> None:
        self._last_line = time.monotonic()
        self._console.print(line, style=style, highlight=False, markup=False, soft_wrap=True)

    def _done_cost(self) -> float:
        return self._spent + sum(self._costs[s.run_id] * s.fraction for s in self._slots.values())

    def _eta(self) -> str:
        """Expected from what was done since the first report of steps. Before it, workers start and compile."""
        if self._first is None:
            return "…"
        begun, before = self._first
        done, total, elapsed = self._done_cost(), sum(self._costs.values()), time.monotonic() - begun
        return _clock(elapsed * (total - done) / (done - before)) if done > before and elapsed > 5 else "…"

    def _summary(self) -> str:
        ended = sum(self._counts[outcome] for outcome in Outcome)
        parts = [f"{ended}/{len(self._costs)} runs"]
        parts += [f"{self._counts[o]} {o}" for o in Outcome if self._counts[o] and o is not Outcome.DONE]
        if self._counts["earlier"]:
            parts.append(f"{self._counts['earlier']} done before")
        rate = sum(slot.event.get("tokens_per_second", 0.0) for slot in self._slots.values())
        parts += [
            f"{rate:,.0f} tokens/s",
            f"elapsed {_clock(time.monotonic() - self._start)}",
            f"left {self._eta()}",
        ]
        return " · ".join(parts)

    def _render(self) -> Group:
        table = Table(box=None, pad_edge=False)
        for name in ("running", "step", "loss", "tokens/s"):
            table.add_column(name, justify="left" if name == "running" else "right")
        for _, slot in sorted(self._slots.items()):
            event = slot.event
            row = ("starting", "", "")
            if event:
                row = (
                    f"{event['step']}/{event['steps']}",
                    f"{event['loss']:.3f}",
                    f"{event['tokens_per_second']:,.0f}",
                )
            table.add_row(slot.run_id, *row)
        bar = Table.grid()
        bar.add_row(ProgressBar(total=sum(self._costs.values()), completed=self._done_cost(), width=60))
        return Group(bar, Text(self._summary()), table)


def _clock(seconds: float) -> str:
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
