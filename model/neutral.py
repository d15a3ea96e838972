"""Fields that can be added to the values of a run without a change of its identity."""

from dataclasses import field
from typing import Any


def neutral(value: Any) -> Any:
    """A dataclass field with a default that changes nothing: a run with it is the run from before the field existed.

    Fields that are added to a run's configuration are declared so. A field at its neutral value is left out of the
    run's record and of its identity, so a new choice changes no id.
    """
    return field(default=value, metadata={"neutral": True})
