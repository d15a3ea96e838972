"""From a source's documents to a prepared directory: tokenizer, tokenized units, shards, and the manifest last."""

import errno
import fcntl
import shutil
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path

import numpy as np

from sweeper.data import passages, pypi, sources
from sweeper.data.document import SPLITS, Unit
from sweeper.data.manifest import FORMAT_VERSION, MANIFEST_FILE, Manifest, Shard, canonical_sha256, file_sha256
from sweeper.data.shards import TokenizeUnit, shard_tasks
from sweeper.data.spec import DataSpec
from sweeper.data.task import Task
from sweeper.data.task_pool import Progress, Watch, run_tasks
from sweeper.data.tasks import manifest_of
from sweeper.data.tokenizer import build_tokenizer, load_tokenizer
from sweeper.errors import UserError
from sweeper.files import no_space, replacing

# More training text hardly changes the merges of a small vocabulary, and training takes only seconds.
_BPE_TRAINING_BYTES = 20_000_000


def unwatched(_: Progress) -> None:
    """A `Watch` that does nothing."""


def find_data(spec: DataSpec, root: Path) -> Manifest | None:
    """The manifest of the data that `spec` describes, or None if it is not prepared yet.

    Reads no text and downloads nothing. Raises `UserError` if `data.path` contains no text, or if the prepared
    directory's manifest is damaged.
    """
    if spec.task is not None:
        return _find(root / _task_directory(spec.task))
    return _find(_directory(spec, root))


def prepare_data(
    spec: DataSpec, root: Path, report: pypi.Report, watch: Watch = unwatched, workers: int | None = None
) -> Manifest:
    """Prepare the data that `spec` describes, in its own directory below `root`. Returns at once if it is prepared.

    Several processes may call it at the same time. On one machine one of them works and the others wait. The finished
    parts of a process that died or failed are kept and not made again. They are never taken for prepared data.

    Args:
        spec: what to prepare.
        root: directory of prepared data.
        report: called with one line at each stage.
        watch: called with the progress of long stages.
        workers: maximum number of processes; None for one per core.

    Raises:
        UserError: if the text cannot be fetched or read, a split is empty, or the disk is full.
    """
    if spec.task is not None:
        return _task_manifest(spec.task, root)
    directory, work = _directory(spec, root), work_directory(spec, root)
    manifest = _find(directory)
    if manifest is None:
        with naming_a_full_disk(root), _alone(work, report):
            # Another process may have prepared the data while this one waited for the lock.
            if _find(directory) is None:
                try:
                    _prepare(spec, root, directory, report, watch, workers)
                except FileNotFoundError:
                    # Without file locks, another process may have finished first and removed the work directory.
                    if _find(directory) is None:
                        raise
        manifest = Manifest.read(directory)
        report(
            f"prepared {manifest.directory}: {manifest.tokens('train'):,} training tokens in "
            f"{manifest.documents['train']:,} documents, {manifest.tokens('val'):,} for validation"
        )
    shutil.rmtree(work, ignore_errors=True)
    return manifest


def tokenize_tasks(spec: DataSpec, root: Path, report: pypi.Report) -> list[TokenizeUnit]:
    """The tasks that tokenize all text, to be run on this machine or on a cluster. Downloads their inputs.

    Raises `UserError` if the text or the tokenizer cannot be loaded.
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
    """Directory of a preparation's finished parts. It stays the same when the user corrects a text file."""
    settings = asdict(with_absolute_paths(spec))
    del settings["task"]  # the name of a text's directory is from before there were tasks
    return root.resolve() / f".preparing-{spec.source}-{canonical_sha256([FORMAT_VERSION, settings])[:8]}"


def with_absolute_paths(spec: DataSpec) -> DataSpec:
    """`spec` with absolute paths, valid in any working directory."""
    tokenizer = replace(spec.tokenizer, path=_absolute(spec.tokenizer.path))
    return replace(spec, path=_absolute(spec.path), tokenizer=tokenizer)


def _absolute(path: str | None) -> str | None:
    return None if path is None else str(Path(path).expanduser().resolve())


@contextmanager
def naming_a_full_disk(root: Path) -> Iterator[None]:
    """Turn the system's error for a full disk into a `UserError` that names the data folder."""
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
    """The directory of a spec. Its name shows source and tokenizer, then a fingerprint of everything else."""
    kind, size = spec.tokenizer.format, spec.tokenizer.vocab_size
    settings: list[object] = [FORMAT_VERSION, kind, size, spec.shard_tokens]
    if spec.tokenizer.path is not None:
        settings.append(_file_fingerprint(spec.tokenizer.path))
    fingerprint = canonical_sha256([settings, sources.fingerprint(spec)])[:8]
    return root / f"{spec.source}-{kind}{size}-{fingerprint}"


def _task_directory(task: Task) -> str:
    return f"{task.NAME}-{canonical_sha256([FORMAT_VERSION, task.provenance()])[:8]}"


def _task_manifest(task: Task, root: Path) -> Manifest:
    """Examples are drawn when they are needed, so a manifest is all that a task has below `root`."""
    directory = root / _task_directory(task)
    manifest = _find(directory)
    if manifest is None:
        manifest = manifest_of(task, directory.name)
        with naming_a_full_disk(root):
            unfinished = root / f".preparing-{directory.name}-{uuid.uuid4().hex[:8]}"
            unfinished.mkdir()
            manifest.write(unfinished)
            _publish(unfinished, directory)
            shutil.rmtree(unfinished, ignore_errors=True)
    return manifest


def _prepare(
    spec: DataSpec, root: Path, directory: Path, report: pypi.Report, watch: Watch, workers: int | None
) -> None:
    """Run the remaining tasks and give the result its final name."""
    tasks = tokenize_tasks(spec, root, report)
    tokenizer = load_tokenizer(tasks[0].kind, tasks[0].tokenizer)
    if in_passages := any(getattr(task.unit, "in_passages", False) for task in tasks):
        share = f"{100 * max(passages.SHARE, spec.val_fraction):g}%"
        report(f"too few documents to hold one out: their passages are split, {share} for validation")
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
        pieces = [(task.file(split), count[split]["tokens"]) for task, count in zip(tasks, counts, strict=True)]
        shards[split] = shard_tasks(pieces, spec.shard_tokens, token_bytes, prepared / split, work / "shards")
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
        source={**sources.provenance(spec), **({"split": passages.NAME} if in_passages else {})},
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
        f"{spec.path or spec.name}: no document or passage falls into the {split} split at "
        f"data.val_fraction={spec.val_fraction}; give more text or change the fraction"
    )


def _sample(units: Iterable[Unit]) -> list[str]:
    """The training texts of a BPE: the first `_BPE_TRAINING_BYTES`."""
    texts: list[str] = []
    n_bytes = 0
    for document in chain.from_iterable(unit.documents() for unit in units):
        if document.split == "train":
            texts.append(document.text)
            n_bytes += len(document.text.encode())
        if n_bytes >= _BPE_TRAINING_BYTES:
            break
    return texts


def _file_fingerprint(path: str) -> str:
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(f"data.tokenizer.path={path}: no such file; give a tokenizer.json or a tokenizer.model")
    return file_sha256(file)


@contextmanager
def _alone(work: Path, report: pypi.Report) -> Iterator[None]:
    """Lock out other processes of this machine. Without file locks all of them work, and the first one publishes."""
    with work.with_name(f"{work.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report("waiting for another process, which prepares the same data")
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
        yield


def _publish(folder: Path, directory: Path) -> None:
    """Give a finished folder its final name in one step, unless another process was first."""
    try:
        folder.rename(directory)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
