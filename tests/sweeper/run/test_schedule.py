"""Warmup, constant, linear decay to 0."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeper.run.schedule import Schedule

schedules = st.tuples(st.integers(0, 40), st.integers(0, 40), st.integers(0, 40)).map(
    lambda parts: Schedule(steps=max(1, sum(parts)), warmup=parts[0], decay=parts[1])
)


@given(schedules)
def test_it_rises_stays_at_the_peak_and_falls(schedule) -> None:
    factors = [schedule.factor(step) for step in range(schedule.steps)]
    for step, factor in enumerate(factors):
        if step < schedule.warmup:
            assert factor == (step + 1) / schedule.warmup
        elif step < schedule.steps - schedule.decay:
            assert factor == 1.0
        else:
            assert factor == (schedule.steps - step) / schedule.decay
    assert all(0 < factor <= 1 for factor in factors)


def test_the_papers_schedule() -> None:
    paper = Schedule(steps=20_000, warmup=500, decay=1_000)
    assert paper.factor(0) == 1 / 500
    assert [paper.factor(step) for step in (499, 500, 18_999, 19_000)] == [1.0] * 4
    assert paper.factor(19_500) == 0.5
    assert paper.factor(19_999) == 1 / 1000
    falls = [paper.factor(step) for step in range(19_000, 20_000)]
    assert all(a > b for a, b in pairwise(falls))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ((0, 0, 0), "schedule.steps=0 must be at least 1"),
        ((10, 6, 5), r"schedule\.warmup=6 \+ schedule\.decay=5 exceed schedule\.steps=10"),
        ((10, -1, 5), "schedule.warmup=-1"),
        ((10, 1, -5), "schedule.decay=-5"),
    ],
)
def test_what_does_not_fit_into_the_run_is_an_error_that_names_the_keys(fields, message) -> None:
    with pytest.raises(ValueError, match=message):
        Schedule(*fields)
