"""A small corpus: its documents, the spec that reads them, and wheels with documents."""

import gzip
import random
import zipfile
from pathlib import Path

from sweeper.data import DataSpec, TokenizerSpec
from sweeper.data.manifest import file_sha256

WORDS = ["the", "some", "old", "small", "quick", "river", "house", "light", "stone", "runs", "falls", "near"]


def quiet(_line: str) -> None:
    """A `report` that prints nothing."""


def texts(count: int, seed: int = 0) -> list[str]:
    """`count` different documents of a few sentences."""
    draw = random.Random(seed)
    return [f"{i}. " + " ".join(draw.choices(WORDS, k=draw.randint(20, 90))) + ".\n" for i in range(count)]


def local_spec(path: Path, vocab_size: int = 300, shard_tokens: int = 1000, val_fraction: float = 0.2) -> DataSpec:
    """A spec that reads `path`, with shards so short that windows cross their borders."""
    return DataSpec("wikipedia", str(path), "text", TokenizerSpec("bpe", vocab_size), shard_tokens, val_fraction)


def write_txt(directory: Path, documents: list[str]) -> Path:
    """One .txt file a document, named in order."""
    directory.mkdir(parents=True, exist_ok=True)
    for i, text in enumerate(documents):
        (directory / f"{i:04d}.txt").write_bytes(text.encode())
    return directory


def write_wheel(path: Path, members: dict[str, bytes]) -> str:
    """Write a zip file of `members`; returns its sha256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file_sha256(path)


def wikitext(titles: list[str], seed: int) -> bytes:
    """A file in WikiText's format, with one article per title."""
    articles = (
        f" \n = {title} = \n \n {body} \n \n = = More = = \n \n {body[:40]} , he said . \n"
        for title, body in zip(titles, texts(len(titles), seed), strict=True)
    )
    return gzip.compress("".join(articles).encode(), mtime=0)
