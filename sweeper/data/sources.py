"""The sources by name: what each yields, and what identifies it. A new source is one more case in each."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sweeper.data import local, wikipedia
from sweeper.data.document import Document
from sweeper.data.spec import DataSpec
from sweeper.data.wheels import Report
from sweeper.errors import UserError


def documents(spec: DataSpec, root: Path, report: Report) -> Iterator[Document]:
    """All documents of the source, in an order that depends on its content alone.

    Wheels are cached below `root`.
    Raises `UserError` when the source cannot be had or holds something unreadable.
    """
    match spec.source:
        case "wikipedia":
            return wikipedia.documents(root, report)
        case "local":
            return local.documents(str(spec.path), spec.text_column, spec.val_fraction)
        case _:
            raise UserError(
                f"data.name={spec.name}: not fetched by this version; point data.path=DIR at a local copy of "
                "its parquet files (columns text, id)"
            )


def provenance(spec: DataSpec) -> dict[str, Any]:
    """What the text is made from, by content: goes into the manifest."""
    return local.provenance(str(spec.path)) if spec.source == "local" else wikipedia.provenance()


def fingerprint(spec: DataSpec) -> dict[str, Any]:
    """What tells one preparation of the source from another without reading the text."""
    match spec.source:
        case "wikipedia":
            return wikipedia.provenance()
        case "local":
            files = local.fingerprint(str(spec.path))
            return {"files": files, "text_column": spec.text_column, "val_fraction": spec.val_fraction}
        case name:
            return {"name": name, "val_fraction": spec.val_fraction}
