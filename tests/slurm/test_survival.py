"""An interrupted run ends with the loss curve of an undisturbed run."""

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

from .interruptions import INTERRUPTIONS
from .lab import Lab, assert_same_losses

pytestmark = pytest.mark.slurm


@pytest.mark.parametrize("interruption", INTERRUPTIONS)
def test_interrupted_run_ends_with_the_undisturbed_curve(
    interruption: str, interrupted: dict[str, "Future[Lab]"], undisturbed: Callable[..., Any]
) -> None:
    lab, expected = interrupted[interruption].result(), INTERRUPTIONS[interruption]
    assert lab.restarts() == expected.restarts
    if expected.ranks == 1:
        assert lab.curves() == undisturbed()
    else:
        assert_same_losses(lab.curves(), undisturbed())
