"""What the page shows of each run when one of its points is pointed at."""

import math
import os
from pathlib import Path
from typing import Any

from analysis.figures import EXPERIMENTS
from analysis.plotting.trained import tokens_a_step
from analysis.records.result_sets import Records
from analysis.records.run_details import RunDetails, run_details
from analysis.report.retrain import command
from sweeper.records.axes import PLAIN
from sweeper.records.presets import name_today

LOGGED = ("failed", "timeout", "lost")  # states of which the end of the log is in the page


def run_table(records: Records, out: Path | None) -> dict[str, Any]:
    """Every run of a place that a figure shows, by experiment and id, and what the runs of one sweep share.

    Args:
        records: of the place.
        out: the page's directory, to which links are relative. None for a page without one: paths are absolute.

    Returns:
        By experiment: name, machine, commit, data and link of its sweep, `hours` of a run on average, and `runs`. They
        have by id seed, state, loss (nats per token), step, steps, tokens, hours, command, reason, and what the run
        itself knows: machine, commit, data, link, log. None where it is not recorded.
    """
    found: dict[str, dict[str, Any]] = {}
    for experiment, cells in records.cells.items():
        if experiment not in EXPERIMENTS:  # no figure shows it
            continue
        origin = records.provenance.get(experiment, {})
        option, place, *_ = records.arguments[experiment]
        runs: dict[str, list[Any]] = {}
        found[experiment] = {
            "name": str(cells["sweep"].iloc[0]),
            "machine": ", ".join(origin.get("processor", [])),
            "commit": ", ".join(commit[:10] for commit in origin.get("commit", []) if commit != "None"),
            "data": str(origin.get("values", {}).get("data", "")),
            "link": relative(Path(place) / "cells.parquet" if option == "--results" else Path(place), out),
            "hours": origin["run_hours"] / origin["finished"] if origin.get("finished") else None,
            "runs": runs,
        }
        details = run_details(Path(place), cells["run_id"].unique()) if option == "--runs" else {}
        preset = name_today(str(cells["preset"].iloc[0]), int(cells["steps"].max()))
        of_step = tokens_a_step(preset, origin.get("values", {}))
        for row in cells.drop_duplicates("run_id").to_dict("records"):
            cell: dict[str, Any] = {"architecture": PLAIN, **{str(name): value for name, value in row.items()}}
            known = details.get(cell["run_id"], RunDetails())
            recorded = cell.get("step_seconds", math.nan) / 3600
            trained = not math.isnan(cell["val_loss"]) or records.cells[experiment]["val_loss"].notna().any()
            tokens = known.tokens if not math.isnan(known.tokens) else of_step * cell["steps"]
            hours = known.hours if not math.isnan(known.hours) else recorded
            own = [known.machine, known.commit[:10], known.data]
            own.append(relative(Path(place) / cell["run_id"], out) + "/" if details else "")
            own.append(known.log if cell["state"] in LOGGED else "")
            runs[cell["run_id"]] = [
                *(_plain(cell[name]) for name in ("seed", "state", "val_loss", "step", "steps")),
                _plain(tokens if trained else math.nan),
                _plain(hours),
                command(cell, str(origin.get("command", ""))),
                cell["reason"],
                *(own if any(own) else []),
            ]
    return found


def relative(path: Path, out: Path | None) -> str:
    """A path as the page in `out` links to it; absolute without `out`."""
    if out is None:
        return path.absolute().as_posix()
    return Path(os.path.relpath(path.absolute(), out.absolute())).as_posix()


def _plain(value: Any) -> Any:
    """A value of a cell for JSON; None for NaN."""
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and math.isnan(value) else value
