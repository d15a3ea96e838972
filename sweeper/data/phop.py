"""p-hop induction (Sanford et al. 2024, arXiv 2402.09268; Saunshi et al. 2025, arXiv 2502.17416, Section 2.1).

A row has p marks, blanks up to the largest p, then letters v_0 … v_{n−1}. With

    find¹(i) = max{j ≤ i : v_{j−1} = v_i},   find^p(i) = find¹(find^{p−1}(i)),

the target at letter i is v_{find^p(i)}: go to the last earlier place where the letter stood, take the letter after it,
p times over. A place from which some hop finds nothing has no target. Neighbouring letters differ: at two equal ones a
hop would stay where it is, and p hops would be fewer.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sweeper.data.task import NOT_SCORED, Examples, Hashes, Rows, Task


@dataclass(frozen=True)
class PHop(Task):
    """The task; a level is p.

    Attributes:
        alphabet: letters, with ids 0 … alphabet − 1. The mark and the blank follow.
        length: letters n of a row.
    """

    NAME: ClassVar[str] = "phop"
    VERSION: ClassVar[int] = 1

    alphabet: int
    length: int

    @property
    def mark(self) -> int:
        """Token that stands for one hop."""
        return self.alphabet

    @property
    def blank(self) -> int:
        """Token that fills the place of the marks."""
        return self.alphabet + 1

    @property
    def vocab_size(self) -> int:
        """Letters, mark, blank."""
        return self.alphabet + 2

    @property
    def most_hops(self) -> int:
        """Places for marks."""
        return max(*self.levels, *self.beyond, 0)

    @property
    def row_tokens(self) -> int:
        """Places for marks, and letters."""
        return self.most_hops + self.length

    @property
    def draws_per_example(self) -> int:
        """One a letter."""
        return self.length

    def wrong(self) -> str | None:
        """See `Task.wrong`."""
        if not 3 <= self.alphabet <= 1000:  # of two letters, each row would be one of two
            return f"alphabet={self.alphabet} must be from 3 to 1000"
        if self.length < 8:  # there have to be questions of both sides
            return f"length={self.length} must be at least 8"
        return super().wrong()

    def questions(self, draws: Hashes, levels: Rows) -> Rows:
        """Letters (n, length). The first is any, each other is not the one before it."""
        steps = 1 + (draws % np.uint64(self.alphabet - 1)).astype(np.int64)
        steps[:, 0] = (draws[:, 0] % np.uint64(self.alphabet)).astype(np.int64)
        return np.cumsum(steps, axis=1) % self.alphabet

    def rows(self, questions: Rows, levels: Rows) -> Examples:
        """Marks, blanks and letters; targets at the letters."""
        n, hops = questions.shape[0], self.most_hops
        found = _find(questions, self.alphabet)  # (n, length + 1): place + 1, 0 for none
        places = np.broadcast_to(np.arange(1, self.length + 1), questions.shape)
        targets = np.full((n, self.length), NOT_SCORED, np.int64)
        for hop in range(1, hops + 1):
            places = np.take_along_axis(found, places, axis=1)
            letters = np.take_along_axis(questions, np.maximum(places - 1, 0), axis=1)
            targets = np.where((levels[:, None] == hop) & (places > 0), letters, targets)
        marks = np.where(np.arange(hops) < levels[:, None], self.mark, self.blank)
        unscored = np.full((n, hops), NOT_SCORED, np.int64)
        return Examples(np.hstack([marks, questions]), np.hstack([unscored, targets]), levels)


def _find(letters: Rows, alphabet: int) -> Rows:
    """find¹ of every place, counted from 1 (n, length + 1): 0 is nothing, from which every hop leads to nothing."""
    n, length = letters.shape
    found = np.zeros((n, length + 1), np.int64)
    after = np.zeros((n, alphabet), np.int64)  # the place after the last time that each letter stood somewhere
    rows = np.arange(n)
    for i in range(length):
        found[:, i + 1] = after[rows, letters[:, i]]
        if i + 1 < length:
            after[rows, letters[:, i]] = i + 2
    return found
