"""A directory or one file of the user: .txt (one document per file), .jsonl and .parquet (one document per row)."""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass, replace
from pathlib import Path

from sweeper.data import passages
from sweeper.data.document import Document, Split
from sweeper.data.manifest import canonical_sha256, file_sha256
from sweeper.errors import UserError

# Bytes of text in one unit: about two seconds of work on one core. A kill loses no more than that.
UNIT_BYTES = 16_000_000
_ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class Part:
    """Consecutive documents of one file.

    Attributes:
        file: absolute path.
        version: modification time of the file, nanoseconds; a changed file is another part.
        start: first row group of a .parquet, first byte of a .jsonl; 0 for a .txt.
        stop: one after the last. A line of a .jsonl belongs to the part in which it begins.
        size: approximate bytes of text.
    """

    file: str
    version: int
    start: int
    stop: int
    size: int


@dataclass(frozen=True)
class Files:
    """Parts of files, in order: a `Unit`. With `in_passages`, its documents are passages (`sweeper.data.passages`)."""

    parts: tuple[Part, ...]
    text_column: str
    val_fraction: float
    in_passages: bool = False

    @property
    def size(self) -> int:
        """Approximate bytes of text."""
        return sum(part.size for part in self.parts)

    @property
    def key(self) -> object:
        """Differs whenever the documents may differ."""
        settings = [[astuple(part) for part in self.parts], self.text_column, self.val_fraction]
        return [*settings, passages.NAME] if self.in_passages else settings

    def documents(self) -> Iterator[Document]:
        """Every document that is not blank, with its split.

        Raises `UserError`, naming the file, for text that is missing, null or not UTF-8.
        """
        for part in self.parts:
            for text in _READERS[Path(part.file).suffix](part, self.text_column):
                for piece in passages.cut(text) if self.in_passages else (text,):
                    if piece.strip():
                        yield Document(split_of(piece, self.val_fraction), piece)


def split_of(text: str, val_fraction: float) -> Split:
    """`val` for a share `val_fraction` of all texts, decided by a hash of the text.

    A row's id is not used: the same text under two ids must not be in both splits. Nothing else is hashed. So a text
    stays in its split when the corpus grows, and a larger fraction only adds texts to `val`.
    """
    draw = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64
    return "val" if draw < val_fraction else "train"


def files(path: str) -> list[Path]:
    """The file, or the readable files below a directory, by relative name. Raises `UserError` for none."""
    directory = Path(path).expanduser().resolve()
    if directory.suffix in _READERS and directory.is_file():
        return [directory]
    if not directory.is_dir():
        raise UserError(
            f"data.path={path}: not a directory or a file of text; give a .txt, .jsonl or .parquet file, "
            "or a directory of them"
        )
    found = [file for file in directory.rglob("*") if file.suffix in _READERS and file.is_file()]
    if not found:
        raise UserError(f"data.path={path}: no .txt, .jsonl or .parquet file in it; put at least one there")
    return sorted(found, key=lambda file: file.relative_to(directory).as_posix())


def units(found: list[Path], text_column: str, val_fraction: float) -> list[Files]:
    """Units of about `UNIT_BYTES`: one of many small files, or many of one large file.

    Raises `UserError` for a parquet file that is truncated or lacks the column.
    """
    chosen: list[list[Part]] = [[]]
    room = UNIT_BYTES
    for file in found:
        for part in _PARTS[file.suffix](file, text_column):
            if part.size > room and chosen[-1]:
                chosen.append([])
                room = UNIT_BYTES
            before = chosen[-1].pop() if chosen[-1] and chosen[-1][-1].file == part.file else None
            chosen[-1].append(_joined(before, part) if before else part)
            room -= part.size
    return [Files(tuple(parts), text_column, val_fraction) for parts in chosen]


def with_both_splits(found: list[Files]) -> list[Files]:
    """The units as they are, or in passages if all of their documents fall into one split.

    Of a large corpus only the first documents are read.
    """
    seen: set[Split] = set()
    for unit in found:
        for document in unit.documents():
            seen.add(document.split)
            if len(seen) > 1:
                return found
    fraction = max([passages.SHARE, *(unit.val_fraction for unit in found)])
    return [replace(unit, val_fraction=fraction, in_passages=True) for unit in found]


def fingerprint(path: str) -> str:
    """Hash of relative names, sizes and modification times: changed files are detected without reading them."""
    directory = Path(path).expanduser().resolve()
    directory = directory.parent if directory.is_file() else directory
    stats = [(file.relative_to(directory).as_posix(), file.stat()) for file in files(path)]
    return canonical_sha256([(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats])


def provenance(path: str) -> dict[str, object]:
    """The origin of the text, for the manifest: the files' content, without names and paths."""
    digests = [file_sha256(file) for file in files(path)]
    return {"name": "local", "files": len(digests), "sha256": canonical_sha256(digests)}


def _joined(first: Part, second: Part) -> Part:
    return Part(first.file, first.version, first.start, second.stop, first.size + second.size)


def _by_bytes(file: Path, _text_column: str) -> Iterator[Part]:
    stat = file.stat()
    step = UNIT_BYTES if file.suffix == ".jsonl" else max(stat.st_size, 1)
    for start in range(0, stat.st_size, step):
        stop = min(start + step, stat.st_size)
        yield Part(str(file), stat.st_mtime_ns, start, stop, stop - start)


def _by_row_groups(file: Path, text_column: str) -> Iterator[Part]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    stat = file.stat()
    try:
        with pq.ParquetFile(file) as table:
            metadata, names = table.metadata, table.schema_arrow.names
    except (pa.ArrowException, OSError) as error:
        raise _not_parquet(str(file), error) from None
    if text_column not in names:
        raise _no_column(str(file), text_column, ", ".join(names))
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        columns = (group.column(i) for i in range(group.num_columns))
        size = sum(c.total_uncompressed_size for c in columns if c.path_in_schema.split(".")[0] == text_column)
        yield Part(str(file), stat.st_mtime_ns, number, number + 1, size)


def _txt(part: Part, _text_column: str) -> Iterator[str]:
    try:
        yield Path(part.file).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{part.file}: not UTF-8 at byte {error.start}; convert the file, or remove it from data.path"
        ) from None


def _jsonl(part: Part, text_column: str) -> Iterator[str]:
    with Path(part.file).open("rb") as lines:
        if part.start:
            lines.seek(part.start - 1)
            lines.readline()
        while (start := lines.tell()) < part.stop and (line := lines.readline()):
            if line.strip():
                yield _json_text(line, part.file, start, text_column)


def _json_text(line: bytes, file: str, start: int, text_column: str) -> str:
    """The text of one line, which starts at byte `start` of the file."""
    try:
        row = json.loads(line)
    except ValueError:
        place = _line(file, start)
        raise UserError(f"{place}: not JSON; a .jsonl file has one object per line") from None
    if not isinstance(row, dict) or text_column not in row:
        columns = ", ".join(row) if isinstance(row, dict) else f"a {type(row).__name__}"
        raise _no_column(_line(file, start), text_column, columns)
    if not isinstance(text := row[text_column], str):
        raise _not_text(_line(file, start), text_column, text)
    # JSON can contain half a surrogate pair, which UTF-8 cannot encode.
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _parquet(part: Part, text_column: str) -> Iterator[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    groups = range(part.start, part.stop)
    try:
        # Without pre_buffer a row group is read while it is decoded, so large row groups take little memory.
        with pq.ParquetFile(part.file, pre_buffer=False, buffer_size=2**20) as table:
            row = sum(table.metadata.row_group(i).num_rows for i in range(part.start))
            for batch in table.iter_batches(_ROWS_AT_ONCE, row_groups=groups, columns=[text_column], use_threads=False):
                for text in batch.column(0).to_pylist():
                    row += 1
                    if not isinstance(text, str):
                        raise _not_text(f"{part.file}, row {row}", text_column, text)
                    yield text
    except (pa.ArrowException, OSError) as error:
        raise _not_parquet(part.file, error) from None


def _line(file: str, start: int) -> str:
    number = 1
    with Path(file).open("rb") as lines:
        while lines.tell() < start:
            lines.readline()
            number += 1
    return f"{file}, line {number}"


def _not_text(place: str, text_column: str, value: object) -> UserError:
    what = "null" if value is None else f"a {type(value).__name__}"
    return UserError(f"{place}: {text_column!r} is {what}, must be text; drop the row or set data.text_column=NAME")


def _no_column(place: str, text_column: str, columns: str) -> UserError:
    return UserError(f"{place}: no column {text_column!r}, it has {columns}; set data.text_column=NAME")


def _not_parquet(file: str, error: Exception) -> UserError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return UserError(f"{file}: not a readable parquet file ({reason}); replace or remove it")


_PARTS: dict[str, Callable[[Path, str], Iterator[Part]]] = {
    ".txt": _by_bytes,
    ".jsonl": _by_bytes,
    ".parquet": _by_row_groups,
}
_READERS: dict[str, Callable[[Part, str], Iterator[str]]] = {
    ".txt": _txt,
    ".jsonl": _jsonl,
    ".parquet": _parquet,
}
