"""A directory of one's own: .txt (a document a file), .jsonl and .parquet (a document a row)."""

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

from sweeper.data.document import Document, Split
from sweeper.data.manifest import canonical_sha256, file_sha256
from sweeper.errors import UserError

_ROWS_AT_ONCE = 1024


def documents(path: str, text_column: str, val_fraction: float) -> Iterator[Document]:
    """Every document below `path` that is not blank, files in sorted order, split by the hash of its text.

    The hash is of the text even where a row has an id: the same text under two ids must not stand in both
    splits. Raises `UserError`, naming the file, for text that is missing, null or not UTF-8.
    """
    for file in files(path):
        for text in _READERS[file.suffix](file, text_column):
            if text.strip():
                yield Document(split_of(text, val_fraction), text)


def split_of(text: str, val_fraction: float) -> Split:
    """`val` for a share `val_fraction` of all texts, told by the text alone."""
    draw = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64
    return "val" if draw < val_fraction else "train"


def files(path: str) -> list[Path]:
    """The readable files below a directory, sorted by relative name; `UserError` when there are none."""
    directory = Path(path).expanduser()
    if not directory.is_dir():
        raise UserError(f"data.path={path}: not a directory; give one with .txt, .jsonl or .parquet files in it")
    found = [file for file in directory.rglob("*") if file.suffix in _READERS and file.is_file()]
    if not found:
        raise UserError(f"data.path={path}: no .txt, .jsonl or .parquet file in it; put at least one there")
    return sorted(found, key=lambda file: file.relative_to(directory).as_posix())


def fingerprint(path: str) -> str:
    """Digest of relative names, sizes and times of change: tells changed files without reading them."""
    directory = Path(path).expanduser()
    stats = [(file.relative_to(directory).as_posix(), file.stat()) for file in files(path)]
    return canonical_sha256([(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats])


def provenance(path: str) -> dict[str, object]:
    """What the text is made from, for the manifest: the files' content, not their names or their place."""
    digests = [file_sha256(file) for file in files(path)]
    return {"name": "local", "files": len(digests), "sha256": canonical_sha256(digests)}


def _txt(file: Path, _text_column: str) -> Iterator[str]:
    try:
        yield file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not UTF-8 at byte {error.start}; convert it, or leave it out of data.path") from None


def _jsonl(file: Path, text_column: str) -> Iterator[str]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError:
                raise UserError(f"{file}, line {number}: not JSON; a .jsonl file holds one object a line") from None
            if not isinstance(row, dict) or text_column not in row:
                has = ", ".join(row) if isinstance(row, dict) else f"a {type(row).__name__}"
                raise _no_column(f"{file}, line {number}", text_column, has)
            text = _checked(row[text_column], f"{file}, line {number}", text_column)
            # JSON can spell half a surrogate pair, which no UTF-8 text can hold.
            yield text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _parquet(file: Path, text_column: str) -> Iterator[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as table:
            if text_column not in table.schema_arrow.names:
                raise _no_column(str(file), text_column, ", ".join(table.schema_arrow.names))
            row = 0
            for batch in table.iter_batches(batch_size=_ROWS_AT_ONCE, columns=[text_column]):
                for value in batch.column(0).to_pylist():
                    row += 1
                    yield _checked(value, f"{file}, row {row}", text_column)
    except pa.ArrowInvalid:
        raise UserError(f"{file}: not a parquet file that can be read; replace it, or leave it out") from None


def _checked(value: object, place: str, text_column: str) -> str:
    if not isinstance(value, str):
        what = "null" if value is None else f"a {type(value).__name__}"
        raise UserError(f"{place}: {text_column!r} is {what}, must be text; drop the row or set data.text_column=NAME")
    return value


def _no_column(place: str, text_column: str, has: str) -> UserError:
    return UserError(f"{place}: no column {text_column!r}, it has {has}; set data.text_column=NAME")


_READERS: dict[str, Callable[[Path, str], Iterator[str]]] = {
    ".txt": _txt,
    ".jsonl": _jsonl,
    ".parquet": _parquet,
}
