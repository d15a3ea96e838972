"""The sources by name: what each yields, and what identifies it. A new source is one more case in each."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sweeper.data import hub, text_files, wikipedia
from sweeper.data.document import Unit
from sweeper.data.pypi import Report
from sweeper.data.spec import DataSpec


def units(spec: DataSpec, root: Path, report: Report) -> Sequence[Unit]:
    """All documents of the source in units, in an order that depends on its content alone.

    What has to be fetched is cached below `root`. Raises `UserError` when it cannot be had or read.
    """
    match spec.source:
        case "wikipedia":
            return [wikipedia.unit(root, report)]
        case "fineweb_edu":
            return text_files.units(
                hub.fetch(hub.chosen(spec.files), root, report), spec.text_column, spec.val_fraction
            )
        case _:
            return text_files.units(text_files.files(str(spec.path)), spec.text_column, spec.val_fraction)


def provenance(spec: DataSpec) -> dict[str, Any]:
    """What the text is made from, by content: goes into the manifest."""
    match spec.source:
        case "wikipedia":
            return wikipedia.provenance()
        case "fineweb_edu":
            return hub.provenance(hub.chosen(spec.files))
        case _:
            return text_files.provenance(str(spec.path))


def fingerprint(spec: DataSpec) -> dict[str, Any]:
    """What tells one preparation of the source from another without reading the text."""
    match spec.source:
        case "wikipedia":
            return wikipedia.provenance()
        case "fineweb_edu":
            source = hub.provenance(hub.chosen(spec.files))
        case _:
            source = {"files": text_files.fingerprint(str(spec.path))}
    return {**source, "text_column": spec.text_column, "val_fraction": spec.val_fraction}
