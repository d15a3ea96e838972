"""The tables of a report as plain values, laid out by both templates."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from analysis.claims.verdict import number_text
from analysis.records import sources
from analysis.records.result_sets import ARCHITECTURES, NO_DECAY, Records
from analysis.stats import comparison, transfer

UNFINISHED = [state for state in sources.STATES if state not in transfer.FINISHED]


@dataclass(frozen=True)
class Cell:
    """Text of a cell, the number that it sorts by (NaN: it sorts as text), and its interval, if it has one."""

    text: str
    number: float = math.nan
    interval: str = ""

    @property
    def key(self) -> str:
        """For sorting in the page: the number, or the text."""
        return self.text if math.isnan(self.number) else repr(self.number)


@dataclass(frozen=True)
class Table:
    """A caption, column headings and rows."""

    caption: str
    headings: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    notes: Sequence[str] = field(default_factory=tuple)


NOTHING = Cell("–", math.inf)  # sorts last


OPTIMA = {
    "lr_transfer": "Optimum per panel and N",
    NO_DECAY: "Optimum per panel and N without weight decay",
    "exponent": "Optimum per exponent and N",
}


def optimum_tables(records: Records) -> Iterator[Table]:
    """Optima, shifts and regrets of the sweeps of rates, and the gain of linear over sqrt."""
    for kind in (kind for kind in OPTIMA if kind in records.cells):
        cells = records.cells[kind]
        points = transfer.average_seeds(cells)
        noise = transfer.pooled_noise(cells, points)
        yield _optima(transfer.transfer_table(points, noise), OPTIMA[kind])
        gains = transfer.gain_table(points, noise)
        if len(gains):
            yield _gains(gains)
    if ARCHITECTURES in records.cells:
        panels = comparison.as_panels(records.cells[ARCHITECTURES])
        found = [_of_stabiliser(of_one) for _, of_one in panels.groupby("panel", sort=False)]
        yield _optima(pd.concat(found), "Optimum per stabiliser and N", ("a collapsed run counts as diverged",))


def _of_stabiliser(cells: pd.DataFrame) -> pd.DataFrame:
    """The transfer table of one stabiliser, with its own noise."""
    points = transfer.average_seeds(cells)
    return transfer.transfer_table(points, transfer.pooled_noise(cells, points))


def _optima(table: pd.DataFrame, title: str, more_notes: Sequence[str] = ()) -> Table:
    headings = (
        "panel", "rule", "L", "N", "points", "optimum (grid)", "loss", "optimum (fitted)", "shift from N = 1",
        "shift from L_ref", "regret", "flag",
    )  # fmt: skip
    shallowest = table["n_layers"].min()
    rows = [
        (
            Cell(row["panel"]),
            Cell(row["rule"]),
            _number(row["n_layers"], "d"),
            _number(row["n_loops"], "d"),
            Cell(f"{row['finished']}/{row['expected']}", row["finished"]),
            _estimate(row, "optimum_lr", ".3g"),
            _number(row["optimum_loss"], ".4f"),
            _estimate(row, "fitted_lr", ".3g"),
            _estimate(row, "fitted_shift_octaves", "+.2f") if row["n_loops"] != transfer.REFERENCE_LOOPS else NOTHING,
            _estimate(row, "depth_shift_octaves", "+.2f") if row["n_layers"] != shallowest else NOTHING,
            _estimate(row, "regret_nats", ".4f") if row["n_loops"] != transfer.REFERENCE_LOOPS else NOTHING,
            Cell(row["flag"]),
        )
        for row in table.to_dict("records")
    ]
    several = table["seeds"].max() > 1
    interval = "below them 95% intervals, each seed's common offset removed" if several else "1 seed, no intervals"
    notes = (
        "Optima are base rates η0",
        "shifts of the optimum (fitted) in octaves",
        "loss at the optimum (grid) and regret in nats per token",
        "regret: of keeping N = 1's optimum (grid)",
        interval,
        *more_notes,
    )
    return Table(title, headings, rows, notes)


def _gains(table: pd.DataFrame) -> Table:
    headings = ("L", "N", "at each rule's optimum (grid)", "at N = 1's optimum (grid)", "that rate")
    rows = [
        (
            _number(row["n_layers"], ".0f"),
            _number(row["n_loops"], ".0f"),
            _estimate(row, "best_gain_nats", "+.4f"),
            _estimate(row, "reference_gain_nats", "+.4f"),
            _number(row["reference_lr"], ".3g"),
        )
        for row in table.to_dict("records")
    ]
    return Table("Gain of linear over sqrt", headings, rows, ("Nats per token, positive where linear is better",))


def progress_table(records: Records) -> Table:
    """Per experiment, how many points are in each state."""
    states = [state for state in sources.STATES if any((of["state"] == state).any() for of in records.cells.values())]
    rows = []
    for experiment, cells in records.cells.items():
        counts = cells["state"].value_counts()
        seeds = sorted(set(cells["seed"]))
        rows.append(
            [
                Cell(experiment),
                Cell(str(cells["sweep"].iloc[0])),
                Cell(", ".join(map(str, seeds)), len(seeds)),
                _number(len(cells), "d"),
                *(_number(int(counts.get(state, 0)), "d") for state in states),
            ]
        )
    return Table("Points", ("experiment", "sweep", "seeds", "points", *states), rows)


def unfinished_table(records: Records) -> Table:
    """Every point that diverged or has no result, with its seeds."""
    rows = []
    for experiment, cells in records.cells.items():
        odd = cells[cells["state"] != "done"]
        key = ["architecture" if "architecture" in odd else "panel", "rule", "n_layers", "n_loops", "base_lr", "state"]
        for values, of_point in odd.groupby(key):
            panel, rule, n_layers, n_loops, base_lr, state = values
            reason = next((str(text) for text in of_point["reason"] if text), "")
            rows.append(
                (
                    Cell(experiment),
                    Cell(f"{panel}, {rule}"),
                    _number(n_layers, "d"),
                    _number(n_loops, "d"),
                    _number(base_lr, ".3g"),
                    Cell(", ".join(map(str, sorted(of_point["seed"])))),
                    Cell(str(state)),
                    Cell(reason),
                )
            )
    headings = ("experiment", "panel", "L", "N", "η0", "seeds", "state", "reason")
    return Table("Diverged or without a result", headings, rows)


def provenance_table(records: Records) -> Table:
    """Per experiment: the command that made the records, its packages and machine, and its cost."""
    rows = []
    for experiment, origin in records.provenance.items():
        packages = ", ".join(f"{name} {version}" for name, version in origin.get("packages", {}).items())
        python = f"Python {origin['python']}" if origin.get("python") else ""
        rows.append(
            (
                Cell(experiment),
                Cell(str(origin.get("command", "not recorded"))),
                Cell(", ".join(_short(commit) for commit in origin.get("commit", []))),
                Cell(", ".join(filter(None, [python, packages]))),
                Cell(", ".join(origin.get("processor", []))),
                Cell(
                    f"{origin['finished']}/{origin['runs']}" if "runs" in origin else "",
                    origin.get("finished", math.nan),
                ),
                _number(origin.get("run_hours", math.nan), ".2f"),
                _number(origin.get("core_hours", math.nan), ".2f"),
                _number(origin.get("gpu_hours", math.nan), ".2f"),
            )
        )
    headings = (
        "experiment", "command", "commit", "packages", "processor", "runs finished",
        "run hours", "core-hours", "GPU-hours",
    )  # fmt: skip
    return Table("Provenance", headings, rows, ("Run hours: sum of the runs' wall times",))


def _short(commit: str) -> str:
    return "no git" if commit == "None" else commit[:10] + ("+dirty" if commit.endswith("+dirty") else "")


def _number(value: Any, spec: str) -> Cell:
    number = float(value)
    if math.isnan(number):
        return NOTHING
    return Cell(format(int(number) if spec == "d" else number, spec).replace("-", "−"), number)


def _estimate(row: dict[Any, Any], name: str, spec: str) -> Cell:
    value, low, high = row[name], row[f"{name}_low"], row[f"{name}_high"]
    interval = "" if math.isnan(low) or low == high else f"{number_text(low, spec)}…{number_text(high, spec)}"
    text = "diverged" if math.isinf(value) else number_text(value, spec)
    return Cell(text, math.inf if math.isnan(value) else value, interval)
