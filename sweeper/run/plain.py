"""Dataclasses as the plain values of a record, and back."""

from dataclasses import MISSING, fields, is_dataclass
from typing import Any, get_args, get_origin, get_type_hints


def to_plain(value: Any) -> Any:
    """Dataclasses as dicts and tuples as lists, all the way down.

    A field at its neutral value is left out (`model.config.neutral`), so a record that was written before the field
    existed is the record of the same run.
    """
    if is_dataclass(value):
        return {
            field.name: to_plain(getattr(value, field.name))
            for field in fields(value)
            if not (field.metadata.get("neutral") and getattr(value, field.name) == field.default)
        }
    return [to_plain(item) for item in value] if isinstance(value, tuple | list) else value


def from_plain(kind: Any, value: Any) -> Any:
    """Inverse of `to_plain`, from the type that the value had. A field that the record lacks has its default.

    Raises:
        ValueError: for a field that the type lacks, or that lacks a value; for a value that the type refuses.
    """
    if isinstance(kind, type) and is_dataclass(kind):
        types = get_type_hints(kind)
        known = [field.name for field in fields(kind)]
        required = [field.name for field in fields(kind) if field.default is field.default_factory is MISSING]
        if unknown := [name for name in value if name not in known]:
            raise ValueError(f"{kind.__name__} has no field {unknown[0]!r} here")
        if missing := [name for name in required if name not in value]:
            raise ValueError(f"{kind.__name__} needs a field {missing[0]!r}")
        return kind(**{name: from_plain(types[name], item) for name, item in value.items()})
    if get_origin(kind) is tuple:
        return tuple(from_plain(get_args(kind)[0], item) for item in value)
    return value
