"""A sweep: a named list of runs and the axes that made them. Runs may belong to many sweeps."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sweeper.errors import UserError
from sweeper.files import read_json, write_json


@dataclass(frozen=True)
class Sweep:
    """A named grid.

    Attributes:
        name: of the manifest file, unique among sweeps.
        experiment: what was swept, such as `lr_transfer`; figures look for it.
        preset: scale of the runs.
        cells: one a grid point: the axes (see `sweeper.config.resolve.ResolvedRun`) and `run_id`.
    """

    name: str
    experiment: str
    preset: str
    cells: tuple[dict[str, Any], ...]

    @property
    def command(self) -> str:
        """What makes a sweep of this name."""
        return f"loopsweep submit +sweep={self.experiment} preset={self.preset}"

    @property
    def run_ids(self) -> list[str]:
        """Distinct runs, in grid order: cells that are the same run count once."""
        return list(dict.fromkeys(cell["run_id"] for cell in self.cells))

    def panels(self, run_id: str) -> list[str]:
        """The figure panels that a run stands in."""
        return list(dict.fromkeys(cell["panel"] for cell in self.cells if cell["run_id"] == run_id))

    def save(self, directory: Path) -> bool:
        """Write or replace the manifest; False if it said the same before."""
        directory.mkdir(parents=True, exist_ok=True)
        target = directory / f"{self.name}.json"
        before = target.read_bytes() if target.exists() else b""
        write_json(target, asdict(self))
        return target.read_bytes() != before

    @classmethod
    def load(cls, path: Path) -> "Sweep":
        """Read a manifest.

        Raises:
            UserError: if there is none, or it is malformed.
        """
        record = read_json(path, "move it away and submit the sweep again")
        if record is None:
            known = ", ".join(sorted(p.stem for p in path.parent.glob("*.json"))) or "none yet"
            raise UserError(f"no sweep {path.stem!r} in {path.parent}; known: {known}")
        try:
            return cls(**{**record, "cells": tuple(record["cells"])})
        except (TypeError, KeyError) as error:
            raise UserError(f"{path} is not a sweep manifest ({error}); submit the sweep again") from error


def manifests(directory: Path) -> list[Path]:
    """The manifests of all sweeps, the one last written last."""
    return sorted(directory.glob("*.json"), key=lambda path: (path.stat().st_mtime, path.name))
