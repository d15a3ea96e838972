"""The text sources by name: their documents and their identity. A new source is one more case in each function."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sweeper.data import hub, text_files, wikipedia
from sweeper.data.document import Unit
from sweeper.data.pypi import Report
from sweeper.data.spec import DataSpec


def units(spec: DataSpec, root: Path, report: Report) -> Sequence[Unit]:
    """All documents of the source in units. Their order depends on the content alone.

    Downloads are cached below `root`. Raises `UserError` if the text cannot be fetched or read.
    """
    match spec.source:
        case "wikipedia":
            return [wikipedia.unit(root, report)]
        case "fineweb_edu":
            return text_files.units(
                hub.fetch(hub.chosen(spec.files), root, report), spec.text_column, spec.val_fraction
            )
        case _:
            found = text_files.units(text_files.files(str(spec.path)), spec.text_column, spec.val_fraction)
            return text_files.with_both_splits(found)


def provenance(spec: DataSpec) -> dict[str, Any]:
    """The origin of the text, identified by its content. Part of the manifest."""
    match spec.source:
        case "wikipedia":
            return wikipedia.provenance()
        case "fineweb_edu":
            return hub.provenance(hub.chosen(spec.files))
        case _:
            return text_files.provenance(str(spec.path))


def fingerprint(spec: DataSpec) -> dict[str, Any]:
    """Identifies a state of the source without reading the text."""
    match spec.source:
        case "wikipedia":
            return wikipedia.provenance()
        case "fineweb_edu":
            source = hub.provenance(hub.chosen(spec.files))
        case _:
            source = {"files": text_files.fingerprint(str(spec.path))}
    return {**source, "text_column": spec.text_column, "val_fraction": spec.val_fraction}
