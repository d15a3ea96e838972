"""The tasks by name, and their examples as the data of a training. A new task is one more row of `TASKS`."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from sweeper.data.addition import Addition
from sweeper.data.manifest import Manifest
from sweeper.data.phop import PHop
from sweeper.data.task import Examples, Rows, Task
from sweeper.errors import UserError

TASKS: dict[str, type[Task]] = {kind.NAME: kind for kind in (PHop, Addition)}


def make_task(name: str, parameters: Mapping[str, Any]) -> Task:
    """The task `name` of conf/data. Parameters of other tasks have to be None.

    Raises:
        UserError: for a parameter that is missing, belongs to another task, or is not allowed.
    """
    kind = TASKS[name]
    known = [field.name for field in fields(kind)]
    for key, value in parameters.items():
        if (value is None) == (key in known):
            wanted = "needs a value" if value is None else f"is no parameter of data={name}; set it to null"
            raise UserError(f"data.task.{key}={'null' if value is None else value} {wanted}")
    task = kind(**{key: tuple(v) if isinstance(v := parameters[key], Sequence) else v for key in known})
    if wrong := task.wrong():
        raise UserError(f"data.task.{wrong}")
    return task


def task_of(manifest: Manifest) -> Task | None:
    """The task whose examples a manifest stands for; None for text."""
    source = dict(manifest.source)
    if (name := source.pop("task", None)) is None:
        return None
    version = source.pop("version")
    if name not in TASKS or version != TASKS[name].VERSION:
        raise UserError(f"{manifest.directory}: task {name} of version {version}, which this version cannot make")
    return make_task(name, source)


def manifest_of(task: Task, directory: str) -> Manifest:
    """The manifest of a task: nothing beside its name, version and parameters."""
    return Manifest(task.vocab_size, "uint16", {}, {}, {}, task.provenance(), {}, directory)


class TaskData:
    """The examples of a task as the data of a training. Its rows are (2, T): the inputs and their targets.

    Args:
        manifest: of the task.
        task: the one that the manifest stands for.
    """

    def __init__(self, manifest: Manifest, task: Task) -> None:
        self.manifest, self.task = manifest, task

    def sequences(self, first: int, count: int, seq_len: int, seed: int) -> Rows:
        """Training examples `first` … `first + count - 1` of the endless sequence of `seed`: (count, 2, T)."""
        return _stacked(self.task.training(first, count, seed))

    def validation(self, seq_len: int, max_tokens: int) -> Rows:
        """Validation examples of the trained levels with `max_tokens` in all: (n, 2, T)."""
        return _stacked(self.task.validation(max_tokens // seq_len))

    def validation_at(self, level: int, count: int) -> Rows:
        """`count` validation examples of one level, trained or not: (count, 2, T)."""
        return _stacked(self.task.validation_at(level, count))


def _stacked(examples: Examples) -> Rows:
    return np.stack([examples.inputs, examples.targets], axis=1)
