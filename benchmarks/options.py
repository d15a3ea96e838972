"""Options of the benchmarks, checked before anything is measured."""

import argparse
from pathlib import Path

from sweeper.cli.options import count
from sweeper.errors import UserError
from sweeper.files import check_writable, check_writable_file


def output_file(text: str) -> Path:
    """A file that can be written; its directory is made."""
    try:
        check_writable_file(text, Path(text))
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    Path(text).parent.mkdir(parents=True, exist_ok=True)
    return Path(text)


def directory(text: str) -> Path:
    """A directory that can be written; it is made."""
    try:
        check_writable(text, Path(text))
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    Path(text).mkdir(parents=True, exist_ok=True)
    return Path(text)


def counts(text: str) -> list[int]:
    """A comma list of whole numbers of at least 1."""
    return [count(part) for part in text.split(",")]
