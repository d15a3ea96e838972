"""What a run is called: a readable head, then a hash of everything that determines its result."""

import hashlib
import json
from typing import Any

SCHEMA_VERSION = 2  # changes whenever the same fields come to mean another result


def run_id(head: str, fields: dict[str, Any]) -> str:
    """`head`, then twelve hexadecimal digits over all of `fields`: `L12-N4-lr1.25e-3-0f3a…`."""
    return f"{head}-{digest(fields)}"


def digest(fields: dict[str, Any]) -> str:
    """The twelve digits alone. A record is not edited if its fields, as they stand in it, still give them.

    Raises:
        TypeError: for a value that no record has.
    """
    canonical = json.dumps(_rounded(fields), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def format_rate(rate: float) -> str:
    """A learning rate as people write it: 1.25e-3, not 0.00125."""
    mantissa, exponent = f"{rate:.3e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def _rounded(value: Any) -> Any:
    """Floats to 12 significant digits, so that a power's last bit cannot make a second run of the same one."""
    if isinstance(value, float):
        return float(f"{value:.12g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value
