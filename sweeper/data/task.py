"""Tasks whose examples are drawn instead of read: rows as a pure function of (task, seed, index).

An example has a level, which says how hard it is: hops, or digits. Some levels are trained, those `beyond` are only
measured. The side of an example, training or validation, is decided by a hash of its question, so no question is on
both, whatever the seed and the number of examples.
"""

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]

NOT_SCORED = -1  # the target of a position that is no part of an answer
VALIDATION_EVERY = 8  # of the questions, one in so many is for validation
_GOLDEN, _MIX_1, _MIX_2 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_TRAINING, _VALIDATION = 1, 2  # streams of draws


@dataclass(frozen=True)
class Examples:
    """Examples of one task.

    Attributes:
        inputs: (n, T) token ids.
        targets: (n, T) token ids, and `NOT_SCORED` where a position is no part of the answer.
        levels: (n,), of each example.
    """

    inputs: Rows
    targets: Rows
    levels: Rows


@dataclass(frozen=True)
class Task:
    """What both tasks have in common.

    Attributes:
        levels: that are trained, drawn equally often.
        beyond: levels that are only measured.
    """

    NAME: ClassVar[str]
    VERSION: ClassVar[int]  # changes with the examples

    levels: tuple[int, ...]
    beyond: tuple[int, ...]

    @property
    def all_levels(self) -> tuple[int, ...]:
        """Trained and beyond, ascending."""
        return tuple(sorted((*self.levels, *self.beyond)))

    @property
    def vocab_size(self) -> int:
        """Token ids are below it."""
        raise NotImplementedError

    @property
    def row_tokens(self) -> int:
        """Tokens T of a row."""
        raise NotImplementedError

    @property
    def draws_per_example(self) -> int:
        """Numbers that `questions` takes."""
        raise NotImplementedError

    def questions(self, draws: Hashes, levels: Rows) -> Rows:
        """What is asked, (n, …), from uniform 64-bit draws (n, draws_per_example) and levels (n,)."""
        raise NotImplementedError

    def rows(self, questions: Rows, levels: Rows) -> Examples:
        """Questions with their answers."""
        raise NotImplementedError

    def wrong(self) -> str | None:
        """What is not allowed, as `parameter=value must …`; None if all is."""
        if not self.levels or len(set(self.all_levels)) < len(self.all_levels) or self.all_levels[0] < 1:
            shown = f"levels={list(self.levels)} and data.task.beyond={list(self.beyond)}"
            return f"{shown} must be different whole numbers from 1, and levels not empty"
        return None

    def provenance(self) -> dict[str, Any]:
        """Everything that determines the examples: goes into the manifest."""
        values = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        return {"task": self.NAME, "version": self.VERSION, **values}

    def training(self, first: int, count: int, seed: int) -> Examples:
        """Training examples `first` … `first + count - 1` of the endless sequence of `seed`."""
        index = np.arange(first, first + count, dtype=np.uint64)
        return self._draw(_key(_TRAINING, seed), index, self._levels(_key(_TRAINING, seed), index), is_validation=False)

    def validation(self, count: int) -> Examples:
        """The first `count` validation examples, of the levels that are trained."""
        key, index = _key(_VALIDATION, 0), np.arange(count, dtype=np.uint64)
        return self._draw(key, index, self._levels(key, index), is_validation=True)

    def validation_at(self, level: int, count: int) -> Examples:
        """`count` validation examples of one level, trained or not."""
        index = np.arange(count, dtype=np.uint64)
        return self._draw(_key(_VALIDATION, level), index, np.full(count, level, np.int64), is_validation=True)

    def _levels(self, key: np.uint64, index: Hashes) -> Rows:
        numbers: Hashes = _mixed(_mixed(index ^ key) ^ _GOLDEN) % np.uint64(len(self.levels))
        levels: Rows = np.array(self.levels, np.int64)[numbers.astype(np.int64)]
        return levels

    def _draw(self, key: np.uint64, index: Hashes, levels: Rows, *, is_validation: bool) -> Examples:
        """Questions are drawn again until they are on the wanted side, each from draws of its own."""
        found: Rows | None = None
        left = np.arange(len(index))
        attempt = 0
        while len(left):
            asked = self.questions(_draws(key, index[left], attempt, self.draws_per_example), levels[left])
            found = np.empty((len(index), *asked.shape[1:]), np.int64) if found is None else found
            found[left] = asked
            left = left[is_for_validation(asked) != is_validation]
            attempt += 1
        assert found is not None
        return self.rows(found, levels)


def is_for_validation(questions: Rows) -> npt.NDArray[np.bool_]:
    """Of each question (n, …), whether it is for validation."""
    hashes = np.full(len(questions), _GOLDEN)
    for column in questions.reshape(len(questions), -1).T:
        hashes = _mixed(hashes ^ column.astype(np.uint64))
    return np.asarray(hashes % np.uint64(VALIDATION_EVERY) == 0)


def _mixed(x: Any) -> Any:
    """SplitMix64's finaliser (Steele, Lea, Flood 2014): every bit of the result depends on every bit of x."""
    with np.errstate(over="ignore"):
        x = x + _GOLDEN
        x = (x ^ (x >> np.uint64(30))) * _MIX_1
        x = (x ^ (x >> np.uint64(27))) * _MIX_2
        return x ^ (x >> np.uint64(31))


def _key(stream: int, seed: int) -> np.uint64:
    return np.uint64(_mixed(_mixed(np.uint64(seed)) ^ np.uint64(stream)))


def _draws(key: np.uint64, index: Hashes, attempt: int, width: int) -> Hashes:
    """Uniform 64-bit numbers (n, width), a pure function of the arguments. numpy's own streams may change."""
    rows = _mixed(_mixed(index ^ key) + np.uint64(2 + attempt))  # (n,)
    return np.asarray(_mixed(rows[:, None] ^ _mixed(np.arange(width, dtype=np.uint64))[None]), np.uint64)
