"""A sweep: a named list of cells, and the run of each. Runs may belong to many sweeps.

Submissions under one name add up. Submitting a part of a grid, or a wider grid, adds cells to the manifest and changes
no other cell. Only `remove` takes cells out.
"""

import hashlib
import itertools
import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from sweeper.errors import UserError
from sweeper.files import read_json, write_json
from sweeper.records.axes import BASE_AXES, DATA, PLAIN, as_text, same, select
from sweeper.records.lock import Guard

Cell = dict[str, Any]
MAX_NAME = 120  # bytes of a sweep's name, which is the name of files
GUARD = "manifests.guard"  # serialises the changes of all manifests of one directory
_SORTED_BY = ("architecture", "n_layers", "ref_layers", "d_model", "rule", "n_loops", "base_lr", "seed")


@dataclass(frozen=True)
class Sweep:
    """A named list of cells.

    Attributes:
        name: of the manifest file, unique among sweeps.
        experiment: the kind of sweep, such as `lr_transfer`, by which figures find it. `runs` without `+sweep=`.
        preset: scale of the runs.
        cells: one per grid point, with the base axes (see `sweeper.records.axes`), `run_id`, `steps` and `flops` (of
            the whole run, attention included; earlier versions did not write it). `values` has the configuration keys
            whose value differs from `base`.
        title: the user's name for the sweep. Empty if the name was derived from the command line.
        base: values of all configuration keys that determine a result, except the base axes. Empty in manifests of
            earlier versions.
        commands: the command lines that added or removed cells, in order. The only path in them is `data.path`.
        id: a short name for the command line, unique. Empty in manifests of earlier versions.
        rounds: of `loopsweep refine`, in order: `round`, `reason` and the number of `cells`. Their cells have `round`.
    """

    name: str
    experiment: str
    preset: str
    cells: tuple[Cell, ...]
    title: str = ""
    base: dict[str, Any] = field(default_factory=dict)
    commands: tuple[str, ...] = ()
    id: str = ""
    rounds: tuple[dict[str, Any], ...] = ()

    @property
    def run_ids(self) -> list[str]:
        """Distinct runs, in grid order: cells that are the same run count once."""
        return list(dict.fromkeys(cell["run_id"] for cell in self.cells))

    def panels(self, run_id: str) -> list[str]:
        """The figure panels that show a run."""
        return list(dict.fromkeys(cell["panel"] for cell in self.cells if cell["run_id"] == run_id))

    @property
    def extra_axes(self) -> list[str]:
        """Configuration keys beside the base axes in which the cells differ."""
        keys = sorted({key for cell in self.cells for key in cell.get("values", {})})
        found = [key for key in keys if len({as_text(self.value(cell, key)) for cell in self.cells}) > 1]
        if "preset" in found:  # leave out the keys that follow from the preset
            pairs = {key: {(self.value(c, "preset"), as_text(self.value(c, key))) for c in self.cells} for key in found}
            found = [key for key in found if key == "preset" or len(pairs[key]) > len(pairs["preset"])]
        if any(key.startswith(f"{DATA}.") for key in found):
            found = [key for key in found if key != DATA]
        return found

    def value(self, cell: Cell, key: str) -> Any:
        """The value of a configuration key in a cell. None if the record does not have it."""
        return cell.get("values", {}).get(key, self.base.get(key))

    @property
    def columns(self) -> list[str]:
        """The axes that not every sweep shows: `architecture`, if one is not plain, and the extra axes."""
        plain = all(cell.get("architecture", PLAIN) == PLAIN for cell in self.cells)
        return [*([] if plain else ["architecture"]), *self.extra_axes]

    def rows(self, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """The cells with a value for every axis.

        `columns` is the property of that name. For a part of a sweep, pass the columns of the whole sweep.
        """
        shown = self.columns if columns is None else columns
        first: Cell = {"round": 0} if any("round" in cell for cell in self.cells) else {}
        return [
            first
            | {key: value for key, value in cell.items() if key not in ("values", "architecture")}
            | {key: cell.get(key, PLAIN) if key == "architecture" else self.value(cell, key) for key in shown}
            for cell in self.cells
        ]

    def with_rows(self, kept: Sequence[bool]) -> "Sweep":
        """The sweep with only the cells for which `kept` is true."""
        return replace(self, cells=tuple(itertools.compress(self.cells, kept)))

    def to_record(self) -> dict[str, Any]:
        """Plain values, as they are written to the file."""
        record = asdict(self)
        return record if self.rounds else {key: value for key, value in record.items() if key != "rounds"}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Inverse of `to_record`. Manifests of earlier versions lack some fields.

        Raises:
            TypeError, KeyError: if it is not one.
        """
        cells = tuple(cell if "architecture" in cell else {**cell, "architecture": PLAIN} for cell in record["cells"])
        listed = {name: tuple(record.get(name, ())) for name in ("commands", "rounds")}
        return cls(**{**record, "cells": cells, **listed})

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a manifest.

        Raises:
            UserError: if there is none, or it is malformed.
        """
        record = read_json(path, "move it away and submit the sweep again")
        if record is None:
            known = ", ".join(sorted(p.stem for p in path.parent.glob("*.json"))) or "none yet"
            raise UserError(f"no sweep {path.stem!r} in {path.parent}; known: {known}")
        try:
            return cls.from_record(record)
        except (TypeError, KeyError) as error:
            raise UserError(f"{path} is not a sweep manifest ({error}); submit the sweep again") from error

    def save(self, directory: Path) -> bool:
        """Write or replace the manifest. Returns False if its content is the same as before."""
        directory.mkdir(parents=True, exist_ok=True)
        target = directory / f"{self.name}.json"
        before = target.read_bytes() if target.exists() else b""
        write_json(target, self.to_record())
        return target.read_bytes() != before


def placed(directory: Path, asked: Sweep) -> Sweep:
    """The sweep that a submission makes or extends, in a directory of manifests. Writes nothing.

    Its name may be taken by a sweep that it cannot extend (see `joined`). Then a short hash is appended to the name.
    """
    for attempt in itertools.count():
        short = _digest(asked, attempt)
        name = f"{asked.name}-{short}" if attempt else asked.name
        path = directory / f"{name}.json"
        if not path.exists():
            return replace(asked, name=name, id=asked.id or short)
        if (whole := joined(Sweep.load(path), asked)) is not None:
            return whole
    raise AssertionError("unreachable")


def add(directory: Path, asked: Sweep) -> tuple[Sweep, bool]:
    """Add the cells of `asked` to the manifests in a directory. Several processes may do so at the same time.

    Returns:
        The whole sweep as it is on disk now, see `placed`, and whether its manifest has changed.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with Guard(directory / GUARD):
        whole = placed(directory, asked)
        return whole, whole.save(directory)


def remove(path: Path, conditions: Sequence[str], *, check: bool = False) -> list[Cell]:
    """Remove the cells that meet all conditions (see `sweeper.records.axes.select`) from a manifest.

    Their runs stay on disk.

    Args:
        path: of the manifest.
        conditions: `key=value` each.
        check: only return the cells, and change nothing.

    Raises:
        UserError: if no cell meets the conditions, or every one does.
    """
    with Guard(path.parent / GUARD):
        sweep = Sweep.load(path)
        chosen = select(sweep.rows(), conditions, "remove")
        if all(chosen):
            raise UserError(f"remove {' '.join(conditions)}: that is every cell of {sweep.name}; delete {path} instead")
        if not check:
            command = shlex.join(["loopsweep", "remove", sweep.name, *conditions])
            left = sweep.with_rows([not one for one in chosen])
            replace(left, commands=(*sweep.commands, command)).save(path.parent)
        return list(itertools.compress(sweep.cells, chosen))


def joined(existing: Sweep, asked: Sweep) -> Sweep | None:
    """`existing` with the cells of `asked` added, or None if they cannot be one sweep.

    Kind, preset and title must be the same, and no cell may get another run. Under a title, configuration values may
    differ: their keys become axes. Without a title they must be the same.
    """
    if (existing.experiment, existing.preset, existing.title) != (asked.experiment, asked.preset, asked.title):
        return None
    if not existing.base:
        return _taken_over(existing, asked)
    if not asked.title and not (_agree(existing.base, asked.base) and _variants(existing) == _variants(asked)):
        return None
    # A key that one of them does not know had its neutral value there.
    base = existing.base | {key: value for key, value in asked.base.items() if key not in existing.base}
    known = {_place(cell): cell["run_id"] for cell in existing.cells}
    cells = [_based_on(base, cell, asked.base) for cell in asked.cells]
    if any(known.get(_place(cell), cell["run_id"]) != cell["run_id"] for cell in cells):
        return None
    new = [cell for cell in cells if _place(cell) not in known]
    if not new:
        return replace(existing, base=base)
    added = _in_order([*existing.cells, *new])
    rounds = existing.rounds + asked.rounds
    return replace(existing, base=base, commands=existing.commands + asked.commands, cells=added, rounds=rounds)


def find(directory: Path, text: str, experiment: str | None = None) -> Path:
    """The manifest of a sweep, found by its name, the beginning of the name, or the id.

    Args:
        directory: of the manifests.
        text: what the user typed.
        experiment: preferred if several names begin so.

    Raises:
        UserError: if there is none, or several.
    """
    if (directory / f"{text}.json").is_file():
        return directory / f"{text}.json"
    sweeps = [Sweep.load(path) for path in manifests(directory)]
    by_id = {sweep.id: sweep.name for sweep in sweeps if sweep.id}
    kinds = {sweep.name: sweep.experiment for sweep in sweeps}
    name = meant(by_id.get(text, text), kinds, experiment, f"in {directory}")
    return directory / f"{name}.json"


def meant(text: str, kinds: Mapping[str, str], experiment: str | None, where: str) -> str:
    """The name of the sweep that `text` names, in full or by its beginning; see `find`.

    Args:
        text: what the user typed.
        kinds: the experiment of every sweep, by name.
        experiment: preferred if several names begin so.
        where: the place of the sweeps, for the error.
    """
    if text in kinds:
        return text
    fitting = sorted(name for name in kinds if name.startswith(text))
    of_kind = [name for name in fitting if kinds[name] == experiment]
    if len(fitting) > 1 and of_kind:
        fitting = of_kind
    if len(fitting) > 1:
        raise UserError(f"several sweeps {where} begin with {text!r}: {', '.join(fitting)}; give more of the name")
    if not fitting:
        raise UserError(f"no sweep {text!r} {where}; known: {', '.join(sorted(kinds)) or 'none yet'}")
    return fitting[0]


def manifests(directory: Path) -> list[Path]:
    """The manifests of all sweeps, the one last written last."""
    return sorted(directory.glob("*.json"), key=lambda path: (path.stat().st_mtime, path.name))


def sweeps_beside(runs: Path) -> Path:
    """The default directory of manifests: `sweeps/` beside the directory of runs."""
    return runs.parent / "sweeps"


def _place(cell: Cell) -> str:
    """The identity of a cell in its sweep: all of its axes."""
    axes = [cell.get(axis) for axis in BASE_AXES]
    return json.dumps([axes, cell.get("values", {})], sort_keys=True)


def _based_on(base: Mapping[str, Any], cell: Cell, former: Mapping[str, Any]) -> Cell:
    """The cell with `values` that differ from `base` instead of `former`."""
    full = {**base, **former, **cell.get("values", {})}
    return _with_values(cell, {key: value for key, value in full.items() if not same(value, base.get(key))})


def _with_values(cell: Cell, values: Mapping[str, Any]) -> Cell:
    plain = {key: value for key, value in cell.items() if key != "values"}
    return {**plain, "values": dict(values)} if values else plain


def _agree(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    return all(same(first[key], second[key]) for key in first.keys() & second.keys())


def _variants(sweep: Sweep) -> set[str]:
    return {json.dumps(cell.get("values", {}), sort_keys=True) for cell in sweep.cells}


def _digest(asked: Sweep, attempt: int) -> str:
    content = [asked.experiment, asked.preset, asked.title, asked.base, sorted(_variants(asked)), attempt]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:6]


def _taken_over(existing: Sweep, asked: Sweep) -> Sweep | None:
    """`joined` for a manifest of an earlier version, which has no configuration values.

    Cells in common, with the same runs, show that the values are the same.
    """
    runs: dict[str, set[str]] = {}
    for cell in existing.cells:
        runs.setdefault(_place(cell), set()).add(cell["run_id"])
    shared = [cell for cell in asked.cells if _place(_with_values(cell, {})) in runs]
    if not shared or any(cell["run_id"] not in runs[_place(_with_values(cell, {}))] for cell in shared):
        return None
    there = {(_place(_with_values(cell, {})), cell["run_id"]) for cell in asked.cells}
    others = [cell for cell in existing.cells if (_place(cell), cell["run_id"]) not in there]
    if others and len(_variants(asked)) > 1:
        return None  # the values of these cells are not known
    earlier = ("# cells from before commands were recorded",) if others else ()
    cells = _in_order([*asked.cells, *others]) if others else asked.cells
    return replace(asked, name=existing.name, id=_digest(asked, 0), cells=cells, commands=earlier + asked.commands)


def _in_order(cells: Iterable[Cell]) -> tuple[Cell, ...]:
    """Sorted by panel, in order of appearance, then by the other axes."""
    cells = list(cells)
    panels = list(dict.fromkeys(cell.get("panel") for cell in cells))

    def rank(cell: Cell) -> tuple[Any, ...]:
        values = json.dumps(cell.get("values", {}), sort_keys=True)
        return (
            panels.index(cell.get("panel")),
            values,
            *((cell.get(axis) is not None, cell.get(axis)) for axis in _SORTED_BY),
        )

    return tuple(sorted(cells, key=rank))
