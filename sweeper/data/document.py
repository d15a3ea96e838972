"""What every source yields: documents, in units that processes can share out."""

from collections.abc import Iterator
from typing import Literal, NamedTuple, Protocol

Split = Literal["train", "val"]
SPLITS: tuple[Split, ...] = ("train", "val")


class Document(NamedTuple):
    """A text and the split it belongs to."""

    split: Split
    text: str


class Unit(Protocol):
    """Consecutive documents of a source. Pickled to the process that turns them into tokens."""

    @property
    def size(self) -> int:
        """Bytes of text, roughly: for sharing out the work and for telling how much of it is done."""

    @property
    def key(self) -> object:
        """Plain values that differ wherever the documents may."""

    def documents(self) -> Iterator[Document]:
        """The documents, in their order; reads no more of them at once than it has to."""
