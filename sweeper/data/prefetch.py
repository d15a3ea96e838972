"""Batches made in a thread, one step ahead of the step that needs them."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Batch = TypeVar("Batch")


class Prefetch(Generic[Batch]):
    """`make(step)`, as it is, but begun while step − 1 is being used.

    A batch stays a function of its step alone: one that was not foreseen is made when it is asked for, and what `make`
    raises is raised by the step that asks.
    """

    def __init__(self, make: Callable[[int], Batch]) -> None:
        self._make = make
        self._thread = ThreadPoolExecutor(1, "prefetch")
        self._ahead: tuple[int, Future[Batch]] | None = None

    def __call__(self, step: int) -> Batch:
        """The batch of `step`; begins with the next one."""
        if self._ahead is None or self._ahead[0] != step:
            self._ahead = step, self._thread.submit(self._make, step)
        batch = self._ahead[1].result()
        self._ahead = step + 1, self._thread.submit(self._make, step + 1)
        return batch
