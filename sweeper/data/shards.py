"""The two kinds of task that make shards: tokenize one unit of documents into a piece, and write one shard from pieces.

Pieces vary in length and shards have a fixed length. The pieces of a shard are known once all pieces are counted.
Tasks of one kind run in any order and in any number of processes.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np

from sweeper.data.document import SPLITS, Document, Split, Unit
from sweeper.data.manifest import canonical_sha256
from sweeper.data.task_pool import Record
from sweeper.data.tokenizer import load_tokenizer
from sweeper.files import replacing

# Characters in one call of the tokenizer: enough to be efficient, small compared with a process's memory.
_BATCH_CHARACTERS = 1_000_000
_COPIED_AT_ONCE = 2**22


@dataclass(frozen=True)
class TokenizeUnit:
    """Task: tokenize one unit into a file of raw little-endian ids per split. Every document begins with BOS.

    Attributes:
        unit: the documents.
        kind: kind of the tokenizer.
        tokenizer: file of the tokenizer; its name contains a hash of its content.
        directory: directory of all pieces.
    """

    unit: Unit
    kind: str
    tokenizer: Path
    directory: Path

    @property
    def size(self) -> int:
        """Approximate bytes of text."""
        return self.unit.size

    @property
    def record(self) -> Path:
        """Its name is a hash of everything that determines the tokens."""
        return self.directory / f"{canonical_sha256([self.unit.key, self.tokenizer.name])[:16]}.json"

    def file(self, split: Split) -> Path:
        """The file with a split's tokens."""
        return self.record.with_suffix(f".{split}.bin")

    def __call__(self) -> Record:
        """Write the files. Returns counts of tokens, documents and bytes of text."""
        tokenizer = load_tokenizer(self.kind, self.tokenizer)
        dtype = np.dtype(tokenizer.dtype).newbyteorder("<")
        counts = {split: {"tokens": 0, "documents": 0, "text_bytes": 0} for split in SPLITS}
        with ExitStack() as opened:
            files = {split: opened.enter_context(replacing(self.file(split))) for split in SPLITS}
            for batch in _batches(self.unit.documents()):
                encoded = tokenizer.encode([document.text for document in batch])
                for document, ids in zip(batch, encoded, strict=True):
                    files[document.split].write(np.array([tokenizer.bos, *ids], dtype=dtype).tobytes())
                    count = counts[document.split]
                    count["tokens"] += 1 + len(ids)
                    count["documents"] += 1
                    count["text_bytes"] += len(document.text.encode())
        return {"tokens": sum(count["tokens"] for count in counts.values()), "splits": counts}


@dataclass(frozen=True)
class Slice:
    """A byte range of a file."""

    file: str
    start: int
    length: int


@dataclass(frozen=True)
class WriteShard:
    """Task: write one shard from slices of pieces.

    Attributes:
        file: the shard.
        slices: content of the shard, in order.
        token_bytes: bytes per token.
        records: directory of records.
    """

    file: Path
    slices: tuple[Slice, ...]
    token_bytes: int
    records: Path

    @property
    def size(self) -> int:
        """Bytes of the shard."""
        return sum(piece.length for piece in self.slices)

    @property
    def record(self) -> Path:
        """Its name is a hash of the shard's path and slices."""
        return self.records / f"{canonical_sha256([str(self.file), *map(astuple, self.slices)])[:16]}.json"

    def __call__(self) -> Record:
        """Write the shard. Returns its number of tokens and its sha256."""
        digest = hashlib.sha256()
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self.file) as shard:
            for piece in self.slices:
                for block in _blocks(piece):
                    shard.write(block)
                    digest.update(block)
        return {"tokens": self.size // self.token_bytes, "sha256": digest.hexdigest()}


def shard_tasks(
    pieces: Sequence[tuple[Path, int]], shard_tokens: int, token_bytes: int, stem: Path, records: Path
) -> list[WriteShard]:
    """The shards of a split: files of `shard_tokens` tokens each, the last one shorter.

    Args:
        pieces: file and number of tokens of each piece, in order.
        shard_tokens: tokens of a shard.
        token_bytes: bytes of a token.
        stem: start of the shards' path, to which a number is added.
        records: directory of records.
    """
    shards: list[list[Slice]] = []
    room = 0
    for file, tokens in pieces:
        start, end = 0, tokens * token_bytes
        while start < end:
            if room == 0:
                shards.append([])
                room = shard_tokens * token_bytes
            length = min(room, end - start)
            shards[-1].append(Slice(str(file), start, length))
            start += length
            room -= length
    return [
        WriteShard(stem.with_name(f"{stem.name}-{number:05d}.bin"), tuple(slices), token_bytes, records)
        for number, slices in enumerate(shards)
    ]


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += len(document.text)
        if characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _blocks(piece: Slice) -> Iterator[bytes]:
    with Path(piece.file).open("rb") as file:
        file.seek(piece.start)
        left = piece.length
        while left:
            block = file.read(min(left, _COPIED_AT_ONCE))
            assert block, f"{piece.file} is shorter than its record says"
            left -= len(block)
            yield block
