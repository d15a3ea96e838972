"""The coarse design is a part of the grid around the rate that is expected to be best."""

import pytest

from sweeper.config.design import designed

PAPER = [5.0e-4, 7.5e-4, 1.0e-3, 1.25e-3, 1.5e-3, 2.0e-3, 3.0e-3, 4.0e-3]


def test_full_is_the_whole_grid() -> None:
    assert designed("full", PAPER, 1.25e-3) == PAPER


@pytest.mark.parametrize(
    ("rates", "middle", "chosen"),
    [
        (PAPER, 1.25e-3, [7.5e-4, 1.0e-3, 1.25e-3, 2.0e-3, 3.0e-3]),
        ([1e-3, 2e-3, 2.8e-3, 4e-3, 5.7e-3, 8e-3, 1.6e-2], 4e-3, [2e-3, 2.8e-3, 4e-3, 5.7e-3, 8e-3]),
        ([2e-3, 4e-3, 8e-3, 1.6e-2], 4e-3, [2e-3, 4e-3, 8e-3]),
    ],
)
def test_coarse_has_at_most_five_rates_around_the_middle(rates, middle, chosen) -> None:
    assert designed("coarse", rates, middle) == chosen


def test_a_wrong_rate_is_left_to_the_check_of_the_grid() -> None:
    assert designed("coarse", [1e-3, -1.0], 1e-3) == [1e-3, -1.0]
