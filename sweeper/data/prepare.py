"""From a source's documents to a prepared directory: tokenizer, pieces, shards, and the manifest last."""

import errno
import fcntl
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path

import numpy as np

from sweeper.data import pypi, sources
from sweeper.data.document import SPLITS, Unit
from sweeper.data.manifest import FORMAT_VERSION, MANIFEST_FILE, Manifest, Shard, canonical_sha256, file_sha256
from sweeper.data.shards import TokenizeUnit, shard_tasks
from sweeper.data.spec import DataSpec
from sweeper.data.task_pool import Progress, Watch, run_tasks
from sweeper.data.tokenizer import build_tokenizer, load_tokenizer
from sweeper.errors import UserError
from sweeper.files import no_space, replacing

# The first 20 MB of training text settle the merges of a small vocabulary, and training stays within seconds.
_BPE_TRAINING_BYTES = 20_000_000


def unwatched(_: Progress) -> None:
    """A `Watch` that does nothing."""


def find_data(spec: DataSpec, root: Path) -> Manifest | None:
    """The manifest of what `spec` asks for, or None when it is not prepared yet.

    Reads no text and downloads nothing. Raises `UserError` when `data.path` holds no text, or when the
    prepared directory's manifest is damaged.
    """
    return _find(_directory(spec, root))


def prepare_data(
    spec: DataSpec, root: Path, report: pypi.Report, watch: Watch = unwatched, workers: int | None = None
) -> Manifest:
    """Prepare what `spec` asks for in a directory of its own below `root`; returns at once when it is there.

    Any number of processes may call it together, on one machine one works and the others wait for it. What a process
    that dies or fails has finished is kept, never passes for prepared data, and is not done again.

    Args:
        spec: what to prepare.
        root: where prepared data lies.
        report: gets a line at each stage.
        watch: is told the progress of the stages that take long.
        workers: processes at most; None for as many as this one has cores.

    Raises:
        UserError: when the text cannot be had or read, a split stays empty, or the disk is full.
    """
    directory, work = _directory(spec, root), work_directory(spec, root)
    manifest = _find(directory)
    if manifest is None:
        with naming_a_full_disk(root), _alone(work, report):
            # Another process may have prepared it while this one waited for the lock.
            if _find(directory) is None:
                try:
                    _prepare(spec, root, directory, report, watch, workers)
                except FileNotFoundError:
                    if _find(directory) is None:  # unless, where there are no locks, another was first and cleared up
                        raise
        manifest = Manifest.read(directory)
        report(
            f"prepared {manifest.directory}: {manifest.tokens('train'):,} training tokens in "
            f"{manifest.documents['train']:,} documents, {manifest.tokens('val'):,} for validation"
        )
    shutil.rmtree(work, ignore_errors=True)
    return manifest


def tokenize_tasks(spec: DataSpec, root: Path, report: pypi.Report) -> list[TokenizeUnit]:
    """The tasks that make all text into tokens, wherever they are then carried out; fetches what they need.

    Raises `UserError` when the text or the tokenizer cannot be had.
    """
    report(f"reading {spec.source} text")
    units = sources.units(spec, root, report)
    training = _sample(units) if spec.tokenizer.format == "bpe" else []
    if spec.tokenizer.format == "bpe" and not training:
        raise _empty(spec, "train")
    tokenizer = build_tokenizer(spec.tokenizer, training, root, report)
    work = work_directory(spec, root)
    file = work / f"{tokenizer.sha256[:16]}-{tokenizer.file}"
    work.mkdir(parents=True, exist_ok=True)
    with replacing(file) as copy:
        copy.write(tokenizer.content)
    return [TokenizeUnit(unit, tokenizer.kind, file, work / "pieces") for unit in units]


def work_directory(spec: DataSpec, root: Path) -> Path:
    """Where a preparation keeps what it has finished: the same place after a file of one's own was put right."""
    settings = asdict(with_absolute_paths(spec))
    return root.resolve() / f".preparing-{spec.source}-{canonical_sha256([FORMAT_VERSION, settings])[:8]}"


def with_absolute_paths(spec: DataSpec) -> DataSpec:
    """`spec`, meaning the same in any folder."""
    tokenizer = replace(spec.tokenizer, path=_absolute(spec.tokenizer.path))
    return replace(spec, path=_absolute(spec.path), tokenizer=tokenizer)


def _absolute(path: str | None) -> str | None:
    return None if path is None else str(Path(path).expanduser().resolve())


@contextmanager
def naming_a_full_disk(root: Path) -> Iterator[None]:
    """Turn the system's error into a `UserError` that names the data folder."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise no_space(root) from None


def _find(directory: Path) -> Manifest | None:
    return Manifest.read(directory) if (directory / MANIFEST_FILE).is_file() else None


def _directory(spec: DataSpec, root: Path) -> Path:
    """The directory of a spec: its name tells source and tokenizer, and a fingerprint of everything else."""
    kind, size = spec.tokenizer.format, spec.tokenizer.vocab_size
    settings: list[object] = [FORMAT_VERSION, kind, size, spec.shard_tokens]
    if spec.tokenizer.path is not None:
        settings.append(_file_fingerprint(spec.tokenizer.path))
    fingerprint = canonical_sha256([settings, sources.fingerprint(spec)])[:8]
    return root / f"{spec.source}-{kind}{size}-{fingerprint}"


def _prepare(
    spec: DataSpec, root: Path, directory: Path, report: pypi.Report, watch: Watch, workers: int | None
) -> None:
    """Do whatever is not done yet, and give the result its name."""
    tasks = tokenize_tasks(spec, root, report)
    tokenizer = load_tokenizer(tasks[0].kind, tasks[0].tokenizer)
    report(f"tokenizing {spec.source} with {tokenizer.kind} {tokenizer.vocab_size}")
    counts = [record["splits"] for record in run_tasks("tokenizing", tasks, watch, workers)]
    totals = {split: _sum(count[split] for count in counts) for split in SPLITS}
    for split in SPLITS:
        if not totals[split]["documents"]:
            raise _empty(spec, split)
    work, token_bytes = work_directory(spec, root), np.dtype(tokenizer.dtype).itemsize
    prepared = work / directory.name
    shards = {}
    for split in SPLITS:
        made = [(task.file(split), count[split]["tokens"]) for task, count in zip(tasks, counts, strict=True)]
        shards[split] = shard_tasks(made, spec.shard_tokens, token_bytes, prepared / split, work / "shards")
    records = iter(run_tasks("writing shards", [*shards["train"], *shards["val"]], watch, workers))
    report("writing the manifest")
    with replacing(prepared / tokenizer.file) as copy:
        copy.write(tokenizer.content)
    Manifest(
        vocab_size=tokenizer.vocab_size,
        dtype=tokenizer.dtype,
        splits={split: tuple(Shard(task.file.name, **next(records)) for task in shards[split]) for split in SPLITS},
        text_bytes={split: totals[split]["text_bytes"] for split in SPLITS},
        documents={split: totals[split]["documents"] for split in SPLITS},
        source=sources.provenance(spec),
        tokenizer=tokenizer.provenance(),
        directory=directory.name,
    ).write(prepared)
    _publish(prepared, directory)


def _sum(counts: Iterable[dict[str, int]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return total


def _empty(spec: DataSpec, split: str) -> UserError:
    return UserError(
        f"{spec.path or spec.name}: no document falls into the {split} split at "
        f"data.val_fraction={spec.val_fraction}; give more documents or change the fraction"
    )


def _sample(units: Iterable[Unit]) -> list[str]:
    """The first training texts, as many as a BPE is trained on."""
    taken: list[str] = []
    n_bytes = 0
    for document in chain.from_iterable(unit.documents() for unit in units):
        if document.split == "train":
            taken.append(document.text)
            n_bytes += len(document.text.encode())
        if n_bytes >= _BPE_TRAINING_BYTES:
            break
    return taken


def _file_fingerprint(path: str) -> str:
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(f"data.tokenizer.path={path}: no such file; give a tokenizer.json or a tokenizer.model")
    return file_sha256(file)


@contextmanager
def _alone(work: Path, report: pypi.Report) -> Iterator[None]:
    """Keep other processes of this machine out; where there are no locks all of them work, and one publishes."""
    with work.with_name(f"{work.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report("waiting for another process that prepares the same data")
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
        yield


def _publish(folder: Path, directory: Path) -> None:
    """Give a finished folder its name in one step, unless another process was first."""
    try:
        folder.rename(directory)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
