"""Runs and manifests from elsewhere: read with limits, and checked before any of their files is used.

Nothing in them is trusted. Names are matched against a pattern, files are plain and small enough, only JSON and plain
YAML are read, and a run's files have to agree with each other and with its id.
"""

import json
import math
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sweeper.records.metrics import SCORES
from sweeper.records.sweep_manifest import Sweep
from sweeper.run.base import Run
from sweeper.run.execution import Execution
from sweeper.run.identity import digest
from sweeper.run.spec import KINDS, run_from_dict

MIB = 2**20
# The files of a finished run that travel, and the bytes that each may have.
LIMITS = {"config.yaml": MIB, "metrics.jsonl": 256 * MIB, "readouts.json": 64 * MIB, "result.json": MIB}
REQUIRED = ("config.yaml", "metrics.jsonl", "result.json")
MANIFEST_LIMIT = 64 * MIB
RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]{0,150}-[0-9a-f]{12}")
SWEEP_NAME = re.compile(r"[\w=,+-][\w.=,+-]{0,220}")
STATES = ("done", "diverged")
_CELL_KEYS = ("panel", "rule", "n_layers", "n_loops", "base_lr", "seed", "steps")


class Refused(Exception):
    """A run or manifest is not what it says it is. The message is the reason, in one line."""


@dataclass(frozen=True)
class Finished:
    """A finished run that passed all checks.

    Attributes:
        files: content by name, byte for byte as it was read.
        config: what the run is.
        result: its result.json.
        lines: of its metrics.
    """

    files: Mapping[str, bytes]
    config: Run
    result: dict[str, Any]
    lines: list[dict[str, Any]]


def read_finished(directory: Path) -> Finished:
    """Read and check the run in a directory, whose name is the run's id. Its checkpoints and log are not read.

    Raises:
        Refused: if a file is missing, too large, a link or malformed, if the id is not that of the configuration, if
            the run is not finished, or if its metrics do not lead to its result.
    """
    files = {name: content for name in LIMITS if (content := read_plain(directory / name, LIMITS[name])) is not None}
    if missing := [name for name in REQUIRED if name not in files]:
        raise Refused(f"{missing[0]} is missing")
    config = _config(directory.name, files["config.yaml"])
    result = _result(directory.name, files["result.json"])
    lines = list(_lines(files["metrics.jsonl"]))
    _check_end(config, result, lines)
    if "readouts.json" in files:
        _check_readouts(_json("readouts.json", files["readouts.json"]))
    return Finished(files, config, result, lines)


def read_plain(path: Path, limit: int) -> bytes | None:
    """Content of a plain file of at most `limit` bytes; None if there is no such file.

    Raises:
        Refused: for a link, anything else that is not a plain file, and a larger file.
    """
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(found.st_mode):
        raise Refused(f"{path.name} is not a plain file")
    with path.open("rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise Refused(f"{path.name} has more than {limit // MIB} MiB")
    return content


def read_sweep(name: str, content: bytes) -> Sweep:
    """A manifest from elsewhere.

    Raises:
        Refused: if it is malformed, or has names that are no names of a sweep or a run.
    """
    try:
        sweep = Sweep.from_record(_json(f"{name}.json", content))
        _check_sweep(sweep)
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise Refused(f"sweep {name[:80]!r} is no manifest ({' '.join(str(error).split())})") from error
    if sweep.name != name:
        raise Refused(f"sweep {name!r} has the name {sweep.name!r} in its manifest")
    return sweep


def _check_sweep(sweep: Sweep) -> None:
    texts = [sweep.name, sweep.experiment, sweep.preset, sweep.title, sweep.id, *sweep.commands]
    if not all(isinstance(text, str) and (text.isprintable()) for text in texts):
        raise ValueError("a text in it is not one line of plain text")
    if not SWEEP_NAME.fullmatch(sweep.name):
        raise ValueError(f"{sweep.name[:80]!r} is no name of a sweep")
    if not sweep.cells or not isinstance(sweep.base, dict):
        raise ValueError("it has no cells")
    for cell in sweep.cells:
        if missing := [key for key in _CELL_KEYS if key not in cell]:
            raise ValueError(f"a cell has no {missing[0]}")
        if not (isinstance(cell["run_id"], str) and RUN_ID.fullmatch(cell["run_id"])):
            raise ValueError(f"{str(cell['run_id'])[:80]!r} is no run's id")
        if not isinstance(cell.get("values", {}), dict):
            raise ValueError("the values of a cell are no mapping")


def _config(run_id: str, content: bytes) -> Run:
    try:
        text = content.decode()
        if "*" in text and any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
            raise ValueError("it has YAML aliases")  # a few of them can stand for gigabytes
        record = yaml.safe_load(text)
        fields = record["run"]
        if (found := digest(fields)) != run_id.rpartition("-")[2]:
            raise Refused(f"config.yaml has the hash {found}, which is not that of its id: it was edited")
        config = run_from_dict(fields)
        Execution.from_dict(record["execution"])
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError, yaml.YAMLError) as error:
        raise Refused(f"config.yaml cannot be read ({' '.join(str(error).split())[:200]})") from error
    if config.run_id != run_id:
        raise Refused(f"this version gives its configuration the id {config.run_id}")
    return config


def _result(run_id: str, content: bytes) -> dict[str, Any]:
    result = _json("result.json", content)
    try:
        loss, seconds, origin = result["val_loss"], result["seconds"], result["provenance"]
        sound = (
            result.get("run_id", run_id) == run_id
            and result["state"] in STATES
            and (loss is None or _is_number(loss))
            and isinstance(result["step"], int)
            and isinstance(result["reason"], str)
            and result["reason"].isprintable()
            and _is_number(seconds["step"])
            and all(map(_is_number, seconds.values()))
            and all(_is_number(result.get(name, 0.0)) for name in ("unigram_entropy", *SCORES))
            and all(isinstance(version, str) for version in origin["packages"].values())
            and all(isinstance(origin[name], str) for name in ("python", "processor"))
            and isinstance(origin["commit"], str | None)
            and isinstance(origin.get("gpu", ""), str)
            and isinstance(origin.get("gpus", 0), int)
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise Refused(f"result.json is not complete ({error})") from error
    if not sound:
        raise Refused("result.json has values that no result has, or is of another run")
    checked: dict[str, Any] = result
    return checked


def _lines(content: bytes) -> Iterator[dict[str, Any]]:
    if not content.endswith(b"\n"):
        raise Refused("metrics.jsonl ends within a line")
    step = -1
    for number, text in enumerate(content.splitlines(), start=1):
        line = _json(f"line {number} of metrics.jsonl", text)
        if not (isinstance(line, dict) and all(value is None or _is_number(value) for value in line.values())):
            raise Refused(f"line {number} of metrics.jsonl is no line of metrics")
        if not (isinstance(line.get("step"), int) and line["step"] >= step):
            raise Refused(f"line {number} of metrics.jsonl is not in the order of steps")
        step = line["step"]
        yield line


def _check_end(config: Run, result: Mapping[str, Any], lines: list[dict[str, Any]]) -> None:
    """Whether the metrics lead to the result: a run that is done was logged to its last step."""
    last = lines[-1]["step"] if lines else 0
    if result["state"] == "done" and result["step"] != config.steps:
        raise Refused(f"result.json says done at step {result['step']} of {config.steps}")
    if last > result["step"] or (result["state"] == "done" and last != config.steps):
        raise Refused(f"metrics.jsonl ends at step {last}, result.json at {result['step']}")
    if not KINDS[config.KIND].has_val_loss or result["val_loss"] is None:
        return
    losses = [line["val_loss"] for line in lines if "val_loss" in line]
    if not losses or losses[-1] != result["val_loss"]:
        found = losses[-1] if losses else "none"
        raise Refused(f"val_loss is {result['val_loss']} in result.json and {found} in metrics.jsonl")


def _check_readouts(readouts: Any) -> None:
    if not isinstance(readouts, dict):
        raise Refused("readouts.json is no mapping")
    for name, values in readouts.items():
        parts = values if isinstance(values, dict) else {}
        if not ({"mean", "std"} <= set(parts) <= {"mean", "std", "counts"} and name.isprintable()):
            raise Refused("readouts.json has other fields than read-outs have")
        counts = parts.get("counts") or parts["mean"]
        rows = (parts["mean"], parts["std"], counts)
        if not all(isinstance(part, list) and len(part) == len(counts) for part in rows):
            raise Refused(f"readouts.json: mean and std of {name[:40]} differ in length")
        if not all(isinstance(count, int) for count in parts.get("counts") or ()):
            raise Refused(f"readouts.json: the counts of {name[:40]} are no whole numbers")
        for mean, std in zip(parts["mean"], parts["std"], strict=True):
            means, stds = (part if isinstance(part, list) else [part] for part in (mean, std))
            numbers = all(value is None or _is_number(value) for value in (*means, *stds))
            if not (numbers and len(means) == len(stds) and isinstance(mean, list) == isinstance(std, list)):
                raise Refused(f"readouts.json: {name[:40]} has entries that are no numbers")


def _json(name: str, content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise Refused(f"{name} is not JSON ({' '.join(str(error).split())})") from error


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
