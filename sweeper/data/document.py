"""What every source yields: documents, in units that can be processed in parallel."""

from collections.abc import Iterator
from typing import Literal, NamedTuple, Protocol

Split = Literal["train", "val"]
SPLITS: tuple[Split, ...] = ("train", "val")


class Document(NamedTuple):
    """A text and the split it belongs to."""

    split: Split
    text: str


class Unit(Protocol):
    """Consecutive documents of a source. A unit is pickled and sent to the process that tokenizes it."""

    @property
    def size(self) -> int:
        """Approximate bytes of text, to balance the work and to show progress."""

    @property
    def key(self) -> object:
        """Plain values that differ whenever the documents may differ."""

    def documents(self) -> Iterator[Document]:
        """The documents in order, read lazily."""
