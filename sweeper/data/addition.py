"""Addition of two numbers, the sum written from its least digit: `437+195=236#` reads 437 + 195 = 632.

A level is the number of digits of both summands, whose first digit is not 0 unless it is the only one. A row is

    a + b = s_0 s_1 … s_k END BLANK …

with a and b from their most significant digit, and the sum from its least: each digit then depends on digits that have
been written and on a carry. Every digit of the sum and END are the answer.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sweeper.data.task import NOT_SCORED, Examples, Hashes, Rows, Task

PLUS, EQUALS, END, BLANK = range(10, 14)  # after the digits 0 … 9


@dataclass(frozen=True)
class Addition(Task):
    """The task; a level is a number of digits."""

    NAME: ClassVar[str] = "addition"
    VERSION: ClassVar[int] = 1

    @property
    def most_digits(self) -> int:
        """Of a summand."""
        return max(*self.levels, *self.beyond, 1)

    @property
    def vocab_size(self) -> int:
        """Ten digits and four signs."""
        return BLANK + 1

    @property
    def row_tokens(self) -> int:
        """Two summands, two signs and a sum of one digit more. END is only predicted."""
        return 3 * self.most_digits + 3

    @property
    def draws_per_example(self) -> int:
        """One a summand."""
        return 2

    def wrong(self) -> str | None:
        """See `Task.wrong`."""
        if self.most_digits > 17:  # a sum of 18 digits is the largest that int64 holds
            return f"levels={list(self.levels)} and data.task.beyond={list(self.beyond)} must be at most 17 digits"
        return super().wrong()

    def questions(self, draws: Hashes, levels: Rows) -> Rows:
        """The two summands, (n, 2)."""
        low = np.where(levels > 1, 10 ** (levels - 1), 0)[:, None]
        count = 10 ** levels[:, None] - low
        return low + (draws % count.astype(np.uint64)).astype(np.int64)

    def rows(self, questions: Rows, levels: Rows) -> Examples:
        """The rows, each with its answer's tokens as targets one place earlier."""
        n = len(questions)
        text = np.full((n, self.row_tokens + 1), BLANK, np.int64)
        answers = np.zeros(text.shape, np.bool_)
        sums = questions.sum(axis=1)
        for level in np.unique(levels):
            at = np.flatnonzero(levels == level)
            powers = 10 ** np.arange(level)[::-1]
            for place, summand in ((0, 0), (level + 1, 1)):
                text[at, place : place + level] = questions[at, summand, None] // powers % 10
            text[at, level], text[at, 2 * level + 1] = PLUS, EQUALS
            start = 2 * level + 2
            text[at, start : start + level + 1] = sums[at, None] // 10 ** np.arange(level + 1) % 10
            carries = sums[at] >= 10**level
            text[at, start + level] = np.where(carries, 1, END)
            text[at[carries], start + level + 1] = END
            answers[at, start : start + level + 1] = True
            answers[at[carries], start + level + 1] = True
        return Examples(text[:, :-1], np.where(answers, text, NOT_SCORED)[:, 1:], levels)
