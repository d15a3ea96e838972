"""What a value may be: rules, and the types that carry them.

`sweeper.config.schema` gives every field one of these types, so a rule stands where its field stands.
`sweeper.config.checks` reads the rules off the types and names the key of a value that breaks one.
"""

import math
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any

INT64_MAX = 2**63 - 1  # what a column of the records holds
FLOAT32_MAX = 3.4e38  # what a tensor holds
DAY = 86_400.0  # seconds


@dataclass(frozen=True)
class Rule:
    """One rule.

    Attributes:
        allows: whether a value keeps it.
        text: what to say after `key=value` of a value that does not.
    """

    allows: Callable[[Any], bool]
    text: str


def at_least(bound: float) -> Rule:
    """Not below `bound`."""
    return Rule(lambda value: value >= bound, f"must be at least {show(bound)}")


def at_most(bound: float) -> Rule:
    """Not above `bound`."""
    return Rule(lambda value: value <= bound, f"must be at most {show(bound)}")


def below(bound: float) -> Rule:
    """Below `bound`."""
    return Rule(lambda value: value < bound, f"must be below {show(bound)}")


def one_of(choices: Collection[str]) -> Rule:
    """One of a few names."""
    return Rule(lambda value: value in choices, f"is unknown; allowed: {', '.join(choices)}")


def matching(pattern: str, wanted: str) -> Rule:
    """Text that a regular expression matches as a whole; `wanted` says in words what that is."""
    return Rule(lambda value: re.fullmatch(pattern, str(value)) is not None, f"must be {wanted}")


def show(value: Any) -> str:
    """A value as one types it on a command line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.12g}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(show, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name}: {show(item)}' for name, item in value.items())}}}"
    return repr(value) if value == "" or re.search(r"[\x00-\x1f]", str(value)) else str(value)


FINITE = Rule(math.isfinite, "must be a finite number")
POSITIVE = Rule(lambda value: value > 0, "must be positive")
FITS_INT64, FITS_FLOAT32 = at_most(INT64_MAX), at_most(FLOAT32_MAX)
NOT_EMPTY = Rule(lambda values: len(values) > 0, "is empty; give at least one value")
DISTINCT = Rule(lambda values: len(set(values)) == len(values), "has a value twice; give each value once")
INCREASING = Rule(lambda values: all(a < b for a, b in pairwise(values)), "is not strictly increasing")
TEXT = Rule(lambda value: isinstance(value, str), "must be text")
NAMED_VALUES = Rule(
    lambda options: all(
        re.fullmatch(r"[A-Za-z][\w-]*", str(name)) and isinstance(value, str | int | float | bool | None)
        for name, value in options.items()
    ),
    "must be options of sbatch by name, each with one value, such as {exclude: node7}",
)

Count = Annotated[int, at_least(1), FITS_INT64]
CountOrZero = Annotated[int, at_least(0), FITS_INT64]
Seed = Annotated[int, at_least(0), FITS_INT64]
Positive = Annotated[float, FINITE, POSITIVE, FITS_FLOAT32]
NotNegative = Annotated[float, FINITE, at_least(0), FITS_FLOAT32]
Seconds = Annotated[float, FINITE, POSITIVE, at_most(DAY)]
Exponent = Annotated[float, FINITE, at_least(-16), at_most(16)]  # a larger one makes any epsilon 0 or infinite
AverageFactor = Annotated[float, FINITE, at_least(0), below(1)]  # AdamW's beta
Share = Annotated[float, FINITE, POSITIVE, below(1)]
Line = Annotated[str, TEXT, matching(r"(?=.*\S)[^\x00-\x1f]+", "one line of text, not empty")]
Folder = Annotated[
    Line,
    Rule(lambda path: not path.startswith("~"), "begins with ~, which nothing replaces here; write $HOME"),
    Rule(lambda path: all(len(part.encode()) < 256 for part in path.split("/")), "has a part longer than 255 bytes"),
    Rule(lambda path: len(path.encode()) < 2048, "is longer than 2047 bytes"),
]
Name = Annotated[str, matching(r"\w[\w.=+-]{0,63}", "a name of at most 64 letters, digits and any of ._=+-")]
Counts = Annotated[list[Count], NOT_EMPTY, DISTINCT]
Seeds = Annotated[list[Seed], NOT_EMPTY, DISTINCT]
Rates = Annotated[list[Positive], NOT_EMPTY, INCREASING]
