"""The one thing every source yields."""

from typing import Literal, NamedTuple

Split = Literal["train", "val"]


class Document(NamedTuple):
    """A text and the split it belongs to."""

    split: Split
    text: str
