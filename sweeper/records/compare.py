"""Two copies of one run, from two machines: the same numbers, nearly the same, or a conflict."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

TOLERANCE = 1e-3  # of the final losses, nats per token; of other measures, relative
_NOT_COMPARED = ("step", "base_lr", "grad_norm")
_STREAM = "stream_"


class Agreement(StrEnum):
    """How far two copies of one run agree."""

    EQUAL = "bit-equal"
    CLOSE = f"within {TOLERANCE:g}"
    CONFLICT = "conflict"


@dataclass(frozen=True)
class Difference:
    """The difference of two copies of one run.

    Attributes:
        agreement: EQUAL if every number that both have is the same. Otherwise the final numbers decide.
        final: largest difference of the final numbers.
        largest: largest difference on the way.
        where: the number and the step of `largest`, or what else is in conflict.
    """

    agreement: Agreement
    final: float = 0.0
    largest: float = 0.0
    where: str = ""

    def __str__(self) -> str:
        """One line."""
        if self.agreement is Agreement.EQUAL:
            return str(self.agreement)
        numbers = f"final difference {self.final:.2g}, largest on the way {self.largest:.2g}"
        return f"{self.agreement}: {f'{numbers} ({self.where})' if self.largest or self.final else self.where}"


Lines = Iterable[Mapping[str, Any]]


def compare(ours: Mapping[str, Any], our_lines: Lines, theirs: Mapping[str, Any], their_lines: Lines) -> Difference:
    """Compare two copies of a run.

    The final numbers are the validation loss, or the last line of metrics of a run that has none. Two diverged runs
    agree whatever their losses are: no machine repeats them.

    Args:
        ours: result.json of one.
        our_lines: its metrics, which may have been thinned.
        theirs: result.json of the other.
        their_lines: its metrics.
    """
    if ours["state"] != theirs["state"]:
        return Difference(Agreement.CONFLICT, where=f"{ours['state']} here, {theirs['state']} there")
    mine, other = _by_step(our_lines), _by_step(their_lines)
    shared = [key for key in mine if key in other]
    differences = {key: _distance(key[1], mine[key], other[key]) for key in shared}
    last = max((step for step, _ in shared), default=0)
    final = {key: differences[key] for key in shared if key[0] == last}
    if ours["val_loss"] is not None or theirs["val_loss"] is not None:
        final = {(last, "val_loss"): _distance("val_loss", ours["val_loss"], theirs["val_loss"])}
    whole = {**differences, **final}
    if ours["step"] == theirs["step"] and not any(whole.values()):
        return Difference(Agreement.EQUAL)
    worst = max(whole, key=lambda key: whole[key], default=(ours["step"], "step"))
    largest, end = whole.get(worst, 0.0), max(final.values(), default=0.0)
    agree = ours["state"] == "diverged" or (ours["step"] == theirs["step"] and end <= TOLERANCE)
    return Difference(Agreement.CLOSE if agree else Agreement.CONFLICT, end, largest, f"{worst[1]} at step {worst[0]}")


def _by_step(lines: Lines) -> dict[tuple[int, str], float | None]:
    return {
        (line["step"], name): value
        for line in lines
        for name, value in line.items()
        if name not in _NOT_COMPARED and not name.startswith(_STREAM)
    }


def _distance(name: str, mine: float | None, other: float | None) -> float:
    if mine is None or other is None:
        return 0.0 if mine is other else math.inf
    distance = abs(mine - other)
    return distance if "loss" in name else distance / max(abs(mine), abs(other), 1e-30)
