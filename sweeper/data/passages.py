"""A corpus of too few documents to split by document: its passages are split instead.

The rule, for text of `data.path`: if the hashes of all documents fall into one split, every document is cut at line
ends into passages of at least `LEAST` characters. A share of `SHARE` or `data.val_fraction`, whichever is larger, is
held out by the hash of each passage. So a passage stays in its split when text is added after it.
"""

from collections.abc import Iterable, Iterator

LEAST = 1000
MOST = 4000  # characters; a line longer than that is cut too
SHARE = 0.1
NAME = "passages"  # of the rule, in a manifest's source


def cut(text: str) -> Iterator[str]:
    """The passages of a document, in order. Together they are the document."""
    held, size = list[str](), 0
    for line in _lines(text):
        held.append(line)
        size += len(line)
        if size >= LEAST:
            yield "".join(held)
            held, size = [], 0
    if held:
        yield "".join(held)


def _lines(text: str) -> Iterable[str]:
    for line in text.splitlines(keepends=True):
        yield from (line[start : start + MOST] for start in range(0, len(line), MOST))
