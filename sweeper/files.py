"""Write files atomically: a reader never sees an incomplete file."""

import errno
import json
import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from sweeper.errors import UserError


def no_space(path: Path) -> UserError:
    """The error for a full disk."""
    return UserError(f"no space left for {path}: free some, or move it with paths.runs=DIR or paths.data=DIR")


def not_permitted(error: PermissionError) -> UserError:
    """The error for a file or directory that this user may not read or write."""
    path = Path(str(error.filename)) if error.filename else None
    owner = ""
    with suppress(OSError, KeyError, ValueError):
        if path is not None:
            present = next(place for place in (path, *path.parents) if place.exists())
            owner = f", which belongs to {present.owner()}"
    return UserError(
        f"no permission for {path or 'a file'}{owner}; ask for write permission of your group (chmod -R g+rwX), or "
        "give other directories: paths.runs=DIR paths.data=DIR, or --runs DIR"
    )


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a new file next to `path`. On success it is synced and replaces `path` in one step.

    Raises:
        UserError: if the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, RuntimeError) as error:
        # torch.save turns a failed write into a RuntimeError.
        origin = error if isinstance(error, OSError) else error.__context__
        if isinstance(origin, OSError) and origin.errno in (errno.ENOSPC, errno.EDQUOT):
            raise no_space(path) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def check_writable(name: str, directory: Path, *, probe: bool = True) -> None:
    """Check that `directory` can be created, or written to if it exists. Leaves nothing behind.

    Args:
        name: the user's setting, such as `paths.runs=here`, for the message.
        directory: the directory, which need not exist.
        probe: try to write. Otherwise only check that it can be read and that no file is in its place.

    Raises:
        UserError: if it cannot be used.
    """
    try:
        candidates = (directory.absolute(), *directory.absolute().parents)
        nearest = next(path for path in candidates if path.exists() or path.is_symlink())
        if not nearest.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, f"{nearest} is not a directory")
        if not os.access(nearest, os.R_OK | os.X_OK):
            raise PermissionError(errno.EACCES, f"{nearest} may not be read")
        if probe:
            with tempfile.TemporaryFile(dir=nearest):
                pass
    except OSError as error:
        raise UserError(f"{name} cannot be used ({error.strerror or error}); give another directory") from error


def check_writable_file(name: str, file: Path) -> None:
    """Check that `file` can be written: it is not a directory, and its directory is writable.

    Raises:
        UserError: if it cannot be written. See `check_writable`.
    """
    if file.is_dir():
        raise UserError(f"{name} cannot be used (it is a directory); give a file in it")
    check_writable(name, file.parent)


def write_text(path: Path, text: str) -> None:
    """Replace the file's content atomically."""
    with replacing(path) as file:
        file.write(text.encode())


def write_json(path: Path, value: Any) -> None:
    """Replace the file's content with indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def read_json(path: Path, way_out: str = "remove this one file and run the command again") -> Any | None:
    """Parsed content of a JSON file, or None if there is no such file.

    Raises:
        UserError: if the file is not JSON. The message ends with `way_out`.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); {way_out}") from error
