"""An interrupted run ends with the loss curve of an undisturbed run."""

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

from .interruptions import INTERRUPTIONS
from .lab import Lab

pytestmark = pytest.mark.slurm
# Ranks sum gradients in another order than one process. Over these steps the difference stays below this.
SAME_LOSS = 1e-6


@pytest.mark.parametrize("interruption", INTERRUPTIONS)
def test_interrupted_run_ends_with_the_undisturbed_curve(
    interruption: str, interrupted: dict[str, "Future[Lab]"], undisturbed: Callable[..., Any]
) -> None:
    lab, expected = interrupted[interruption].result(), INTERRUPTIONS[interruption]
    assert lab.restarts() == expected.restarts
    if expected.ranks == 1:
        assert lab.curves() == undisturbed()
    else:
        _assert_same_losses(lab.curves(), undisturbed())


def _assert_same_losses(curves: Any, expected: Any) -> None:
    assert curves.keys() == expected.keys()
    for run_id, rows in curves.items():
        for key in ("loss", "val_loss"):
            found, reference = ([row[key] for row in lines if key in row] for lines in (rows, expected[run_id]))
            assert found == pytest.approx(reference, abs=SAME_LOSS, rel=0)
