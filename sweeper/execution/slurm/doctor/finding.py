"""What a check found, as a row of the doctor's table and as lines for conf/site."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Self

import yaml
from rich.console import Console


class Verdict(StrEnum):
    """How a check ended."""

    OK = "ok"
    NOTE = "note"  # works, but good to know
    PROBLEM = "problem"
    SKIPPED = "skipped"


STYLES = {Verdict.OK: "green", Verdict.NOTE: "yellow", Verdict.PROBLEM: "red", Verdict.SKIPPED: "dim"}


@dataclass(frozen=True)
class Finding:
    """One row.

    Attributes:
        check: what was checked.
        verdict: how it ended.
        seen: what was seen, in one line.
        remedy: what to do about it, in one line; empty if nothing.
        site: lines for conf/site that are part of the remedy.
    """

    check: str
    verdict: Verdict
    seen: str
    remedy: str = ""
    site: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values; inverse of `from_dict`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """From plain values."""
        return cls(**{**values, "verdict": Verdict(values["verdict"])})


def ok(check: str, seen: str) -> Finding:
    """Nothing to do."""
    return Finding(check, Verdict.OK, seen)


def note(check: str, seen: str, remedy: str = "", **site: Any) -> Finding:
    """Works, but good to know."""
    return Finding(check, Verdict.NOTE, seen, remedy, site)


def problem(check: str, seen: str, remedy: str, **site: Any) -> Finding:
    """Runs would fail, be slow or be lost."""
    return Finding(check, Verdict.PROBLEM, seen, remedy, site)


def skipped(check: str, why: str) -> Finding:
    """Could not be checked, or need not be."""
    return Finding(check, Verdict.SKIPPED, why)


def print_findings(findings: Sequence[Finding], console: Console) -> None:
    """One row per finding, with its remedy below it."""
    width = max(len(finding.check) for finding in findings)
    for finding in findings:
        console.print(
            f"[{STYLES[finding.verdict]}]{finding.verdict:<7}[/]  {finding.check:<{width}}  ", end="", highlight=False
        )
        console.print(finding.seen, markup=False, highlight=False, soft_wrap=True)
        if finding.remedy:
            console.print(" " * (11 + width) + f"-> {finding.remedy}", markup=False, highlight=False, soft_wrap=True)


def site_lines(findings: Sequence[Finding]) -> str:
    """The remedies' lines for conf/site/NAME.yaml, put together; empty if there are none."""
    merged: dict[str, Any] = {}
    for finding in findings:
        for key, value in finding.site.items():
            if isinstance(value, list):
                merged[key] = merged.get(key, []) + [item for item in value if item not in merged.get(key, [])]
            elif isinstance(value, dict):
                merged[key] = merged.get(key, {}) | value
            else:
                merged[key] = value
    return "".join(f"{key}: {_in_a_line(value)}\n" for key, value in merged.items())


def _in_a_line(value: Any) -> str:
    dumped: str = yaml.safe_dump(value, sort_keys=False, default_flow_style=True, width=1e6)
    return dumped.removesuffix("...\n").strip()
