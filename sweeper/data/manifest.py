"""The manifest: the content of a prepared directory, and the hash by which runs identify it."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from sweeper.errors import UserError

# Part of every hash. Raise it when the same text gives other tokens, or the same tokens give other files.
FORMAT_VERSION = 1
MANIFEST_FILE = "manifest.json"

Dtype = Literal["uint16", "uint32"]


def canonical_sha256(value: object) -> str:
    """Hex sha256 of `value` as JSON with sorted keys and no spaces: equal values have equal digests."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file's bytes, read in chunks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class Shard:
    """One file of raw little-endian token ids."""

    file: str
    tokens: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """A prepared corpus, described by its content alone. It contains no path of any machine.

    `splits` maps `train` and `val` to their shards in order. `text_bytes` (UTF-8 bytes before tokenization, to
    convert nats per token into bits per byte) and `documents` are counts per split. `source` and `tokenizer` are the
    origin of the tokens. `directory` is the name of the prepared folder and is not part of the hash.
    """

    vocab_size: int
    dtype: Dtype
    splits: Mapping[str, tuple[Shard, ...]]
    text_bytes: Mapping[str, int]
    documents: Mapping[str, int]
    source: Mapping[str, Any]
    tokenizer: Mapping[str, Any]
    directory: str

    @cached_property
    def hash(self) -> str:
        """First 16 hex digits of the sha256 of everything that determines the tokens."""
        return canonical_sha256(self._content())[:16]

    def tokens(self, split: str) -> int:
        """Number of tokens in a split, document separators included."""
        return sum(shard.tokens for shard in self.splits[split])

    def write(self, directory: Path) -> None:
        """Write `manifest.json` into `directory`. It is the last file of a preparation."""
        text = json.dumps({"hash": self.hash, **self._content()}, indent=1, sort_keys=True)
        (directory / MANIFEST_FILE).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, directory: Path) -> "Manifest":
        """Read a prepared directory's manifest.

        Raises `UserError` if the file is missing, unreadable, of another format version, or does not match the hash
        recorded in it.
        """
        path = directory / MANIFEST_FILE
        way_out = f"delete the folder {directory} and prepare the data again"
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            if record["format"] != FORMAT_VERSION:
                raise UserError(f"{path}: format {record['format']}, this version reads {FORMAT_VERSION}; {way_out}")
            manifest = cls(
                vocab_size=record["vocab_size"],
                dtype=record["dtype"],
                splits={name: tuple(Shard(**shard) for shard in shards) for name, shards in record["splits"].items()},
                text_bytes=record["text_bytes"],
                documents=record["documents"],
                source=record["source"],
                tokenizer=record["tokenizer"],
                directory=directory.name,
            )
            recorded_hash = record["hash"]
        except FileNotFoundError:
            raise UserError(f"{path}: missing; {way_out}") from None
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UserError(f"{path}: not a valid manifest; {way_out}") from None
        if manifest.hash != recorded_hash:
            raise UserError(f"{path}: records hash {recorded_hash} but its content has {manifest.hash}; {way_out}")
        return manifest

    def _content(self) -> dict[str, Any]:
        return {
            "format": FORMAT_VERSION,
            "vocab_size": self.vocab_size,
            "dtype": self.dtype,
            "splits": {name: [asdict(shard) for shard in shards] for name, shards in self.splits.items()},
            "text_bytes": dict(self.text_bytes),
            "documents": dict(self.documents),
            "source": dict(self.source),
            "tokenizer": dict(self.tokenizer),
        }
