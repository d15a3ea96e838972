"""Two copies of a run: the verdict does not depend on which is ours, and only equal numbers are bit-equal."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from sweeper.records.compare import TOLERANCE, Agreement, compare

losses = st.floats(0, 10)
steps = st.lists(st.tuples(st.integers(1, 20), losses), max_size=5, unique_by=lambda pair: pair[0])


def result(state: str, loss: float | None, step: int = 20) -> dict[str, Any]:
    return {"state": state, "val_loss": loss, "step": step}


def lines(pairs: list[tuple[int, float]]) -> list[dict[str, float]]:
    return [{"step": step, "loss": loss, "grad_norm": 10 * loss} for step, loss in sorted(pairs)]


@given(losses, losses, steps, steps)
def test_the_verdict_is_symmetric_and_follows_from_the_final_losses(a, b, first, second) -> None:
    found = compare(result("done", a), lines(first), result("done", b), lines(second))
    turned = compare(result("done", b), lines(second), result("done", a), lines(first))
    assert found == turned
    shared = dict(first).keys() & dict(second).keys()
    equal = a == b and all(dict(first)[step] == dict(second)[step] for step in shared)
    assert (found.agreement is Agreement.EQUAL) == equal
    assert (found.agreement is Agreement.CONFLICT) == (abs(a - b) > TOLERANCE)
    assert found.final == (0 if equal else abs(a - b))
    assert found.largest >= found.final


@given(losses, losses)
def test_a_run_without_a_validation_loss_is_judged_by_its_last_line(a, b) -> None:
    probe = result("done", None)
    found = compare(probe, lines([(1, 5.0), (20, a)]), probe, lines([(1, 6.0), (20, b)]))
    assert (found.agreement is Agreement.CONFLICT) == (abs(a - b) > TOLERANCE)
    assert found.agreement is not Agreement.EQUAL


def test_another_last_step_is_a_conflict() -> None:
    found = compare(result("done", 3.0, 20), lines([(20, 1.0)]), result("done", 3.0, 40), lines([(20, 1.0)]))
    assert found.agreement is Agreement.CONFLICT


def test_a_missing_final_loss_is_a_conflict() -> None:
    found = compare(result("done", 3.0), [], result("done", None), [])
    assert found.agreement is Agreement.CONFLICT
