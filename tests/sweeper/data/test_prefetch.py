"""A batch is loaded before it is requested, and it is the same batch."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeper.data import Prefetch


@given(steps=st.lists(st.integers(0, 9), max_size=20))
def test_batches_depend_on_their_step_alone_in_whatever_order(steps: list[int]) -> None:
    batches = Prefetch(lambda step: step * step)
    assert [batches(step) for step in steps] == [step * step for step in steps]


def test_the_next_batch_is_made_before_it_is_requested_and_no_other() -> None:
    made: list[int] = []
    batches = Prefetch(made.append)
    batches(0)
    batches._thread.shutdown()  # waits for everything that was started
    assert made == [0, 1]


def test_an_error_is_raised_by_the_step_that_it_belongs_to() -> None:
    def make(step: int) -> float:
        return 1 / (2 - step)

    batches = Prefetch(make)
    assert [batches(0), batches(1)] == [0.5, 1.0]
    with pytest.raises(ZeroDivisionError):
        batches(2)
    assert batches(3) == -1.0
