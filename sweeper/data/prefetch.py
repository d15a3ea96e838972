"""Batches loaded in a thread, one step ahead."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Batch = TypeVar("Batch")


class Prefetch(Generic[Batch]):
    """`make(step)`, started in advance while the batch of step − 1 is in use.

    A batch depends on its step alone. A step out of order is made when it is requested. An exception of `make` is
    raised by the call for its step.
    """

    def __init__(self, make: Callable[[int], Batch]) -> None:
        self._make = make
        self._thread = ThreadPoolExecutor(1, "prefetch")
        self._ahead: tuple[int, Future[Batch]] | None = None

    def __call__(self, step: int) -> Batch:
        """The batch of `step`. Starts to make the next one."""
        if self._ahead is None or self._ahead[0] != step:
            self._ahead = step, self._thread.submit(self._make, step)
        batch = self._ahead[1].result()
        self._ahead = step + 1, self._thread.submit(self._make, step + 1)
        return batch
