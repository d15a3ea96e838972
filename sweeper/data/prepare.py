"""From a source's documents to a prepared directory: tokenizer, shards, and the manifest last."""

import errno
import fcntl
import hashlib
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import IO, BinaryIO

import numpy as np

from sweeper.data import sources, wheels
from sweeper.data.document import Document
from sweeper.data.manifest import FORMAT_VERSION, MANIFEST_FILE, Dtype, Manifest, Shard, canonical_sha256
from sweeper.data.spec import DataSpec
from sweeper.data.tokenizer import Tokenizer, build_tokenizer
from sweeper.errors import UserError

# The first 20 MB of training text settle the merges of a small vocabulary, and training stays within seconds.
_BPE_TRAINING_BYTES = 20_000_000
# Text handed to the tokenizer at once: enough to keep every core busy, little against a worker's memory.
_BATCH_CHARACTERS = 4_000_000
_REPORT_CHARACTERS = 100_000_000


def find_data(spec: DataSpec, root: Path) -> Manifest | None:
    """The manifest of what `spec` asks for, or None when it is not prepared yet.

    Reads no text and downloads nothing. Raises `UserError` when `data.path` holds no text, or when the
    prepared directory's manifest is damaged.
    """
    return _find(_directory(spec, root))


def prepare_data(spec: DataSpec, root: Path, report: wheels.Report) -> Manifest:
    """Prepare what `spec` asks for in a directory of its own below `root`; returns at once when it is there.

    `report` gets a line of progress at each stage. Any number of processes may call it together: one works,
    the others wait for it. A process that dies leaves nothing that passes for prepared data. Raises
    `UserError` when the text cannot be had or read, a split stays empty, or the disk is full.
    """
    directory = _directory(spec, root)
    found = _find(directory)
    if found:
        return found
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _unfinished(directory, report) as folder:
            # Another process may have prepared it while this one waited for the lock.
            if not _find(directory):
                _prepare_into(folder, spec, root, report)
                _publish(folder, directory)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(f"{root}: the disk is full; free some space there or choose another data folder") from None
    manifest = Manifest.read(directory)
    report(
        f"prepared {manifest.directory}: {manifest.tokens('train'):,} training tokens in "
        f"{manifest.documents['train']:,} documents, {manifest.tokens('val'):,} for validation"
    )
    return manifest


def _find(directory: Path) -> Manifest | None:
    return Manifest.read(directory) if (directory / MANIFEST_FILE).is_file() else None


def _directory(spec: DataSpec, root: Path) -> Path:
    """The directory of a spec: its name tells source and tokenizer, and a fingerprint of everything else."""
    settings = [FORMAT_VERSION, spec.tokenizer.kind, spec.tokenizer.vocab_size, spec.shard_tokens]
    fingerprint = canonical_sha256([settings, sources.fingerprint(spec)])[:8]
    return root / f"{spec.source}-{spec.tokenizer.kind}{spec.tokenizer.vocab_size}-{fingerprint}"


def _prepare_into(directory: Path, spec: DataSpec, root: Path, report: wheels.Report) -> None:
    report(f"reading {spec.source} text")
    documents = sources.documents(spec, root, report)
    sample = _sample(documents)
    training = [document.text for document in sample if document.split == "train"]
    if not training:
        raise _empty(spec, "train")
    tokenizer = build_tokenizer(spec.tokenizer, training, root, report)
    (directory / tokenizer.file).write_bytes(tokenizer.content)
    dtype: Dtype = "uint16" if tokenizer.vocab_size <= 2**16 else "uint32"
    writers = {split: _ShardWriter(directory, split, dtype, spec.shard_tokens) for split in ("train", "val")}
    report(f"tokenizing {spec.source} with {spec.tokenizer.kind} {spec.tokenizer.vocab_size}")
    done = 0
    for batch in _batches(chain(sample, documents)):
        _write_batch(batch, tokenizer, writers)
        before, done = done, done + sum(len(document.text) for document in batch)
        if done // _REPORT_CHARACTERS > before // _REPORT_CHARACTERS:
            report(f"tokenized {done / 1e6:,.0f} million characters")
    for split, writer in writers.items():
        if not writer.documents:
            raise _empty(spec, split)
    Manifest(
        vocab_size=tokenizer.vocab_size,
        dtype=dtype,
        splits={split: writer.close() for split, writer in writers.items()},
        text_bytes={split: writer.text_bytes for split, writer in writers.items()},
        documents={split: writer.documents for split, writer in writers.items()},
        source=sources.provenance(spec),
        tokenizer=tokenizer.provenance(),
        directory=directory.name,
    ).write(directory)


def _empty(spec: DataSpec, split: str) -> UserError:
    return UserError(
        f"data.path={spec.path}: no document falls into the {split} split at "
        f"data.val_fraction={spec.val_fraction}; give more documents or change the fraction"
    )


def _sample(documents: Iterator[Document]) -> list[Document]:
    """Take documents until they hold the training text that a BPE is trained on."""
    taken = []
    n_bytes = 0
    for document in documents:
        taken.append(document)
        n_bytes += len(document.text.encode()) if document.split == "train" else 0
        if n_bytes >= _BPE_TRAINING_BYTES:
            break
    return taken


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


def _write_batch(batch: list[Document], tokenizer: Tokenizer, writers: dict[str, "_ShardWriter"]) -> None:
    for document, tokens in zip(batch, tokenizer.encode([document.text for document in batch]), strict=True):
        writer = writers[document.split]
        writer.write([tokenizer.bos, *tokens])
        writer.documents += 1
        writer.text_bytes += len(document.text.encode())


class _ShardWriter:
    """Writes one split as files of `shard_tokens` tokens each, the last one shorter."""

    def __init__(self, directory: Path, split: str, dtype: Dtype, shard_tokens: int) -> None:
        self.documents = 0
        self.text_bytes = 0
        self._directory = directory
        self._split = split
        self._dtype = np.dtype(dtype).newbyteorder("<")
        self._shard_tokens = shard_tokens
        self._shards: list[Shard] = []
        self._file: BinaryIO | None = None
        self._tokens = 0
        self._digest = hashlib.sha256()

    def write(self, tokens: list[int]) -> None:
        """Append tokens, across as many files as they take."""
        rest = np.array(tokens, dtype=self._dtype)
        while len(rest):
            if self._file is None:
                self._file = (self._directory / self._name()).open("wb")
            part, rest = np.split(rest, [self._shard_tokens - self._tokens])
            content = part.tobytes()
            self._file.write(content)
            self._digest.update(content)
            self._tokens += len(part)
            if self._tokens == self._shard_tokens:
                self.close()

    def close(self) -> tuple[Shard, ...]:
        """Close the file being written, if any; returns all shards so far."""
        if self._file is not None:
            self._file.close()
            self._shards.append(Shard(self._name(), self._tokens, self._digest.hexdigest()))
            self._file, self._tokens, self._digest = None, 0, hashlib.sha256()
        return tuple(self._shards)

    def _name(self) -> str:
        return f"{self._split}-{len(self._shards):05d}.bin"


@contextmanager
def _unfinished(directory: Path, report: wheels.Report) -> Iterator[Path]:
    """A folder to prepare `directory` in, locked against others; gone afterwards, unless renamed."""
    prefix = f".preparing-{directory.name}"
    with (directory.parent / f"{prefix}.lock").open("w") as lock:
        if _lock(lock, report):
            for left_behind in directory.parent.glob(f"{prefix}-*"):
                shutil.rmtree(left_behind, ignore_errors=True)
        folder = directory.parent / f"{prefix}-{secrets.token_hex(4)}"
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _lock(file: IO[str], report: wheels.Report) -> bool:
    """Hold the lock until `file` is closed; False where there are none: all prepare then, one publishes."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        report("waiting for another process that prepares the same data")
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError:
        return False
    return True


def _publish(folder: Path, directory: Path) -> None:
    """Give a finished folder its name in one step, unless another process was first."""
    try:
        folder.rename(directory)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
