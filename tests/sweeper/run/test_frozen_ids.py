"""Run ids are for good: those of every preset's sweeps, and those under which `results/` was computed.

Commit b873428 wrote frozen_ids.json, on data with a made-up hash, and with its real hash for `results/`. Another id for
the same run would orphan every finished one. A new field with a neutral default (`model.config.neutral`) changes none.
The toy model's sweep is the same at every preset, and is tested at two.
"""

import hashlib
import json
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hydra.core.global_hydra import GlobalHydra

import sweeper.train
from sweeper.config.resolve import ResolvedRun, resolve
from sweeper.grid.compose import compose_jobs

REPOSITORY = Path(sweeper.train.__file__).resolve().parents[1]
FROZEN = json.loads((Path(__file__).parent / "frozen_ids.json").read_text())
AXES = ["panel", "rule", "architecture", "n_layers", "ref_layers", "n_loops", "base_lr", "d_model", "seed"]


@cache
def composed(sweep: str, *overrides: str) -> list[ResolvedRun]:
    """The grid of a sweep, as it is handed to the launcher."""
    grids: list[list[ResolvedRun]] = []

    def launch(context: Any, config: Any, jobs: Any, **_: Any) -> None:
        grids.append([resolve(job, FROZEN["data"]) for job in compose_jobs(context, config, jobs)])

    GlobalHydra.instance().clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sweeper.execution.local.launch_local", launch)
        patch.setattr(sys, "argv", ["sweeper.train", "--multirun", f"+sweep={sweep}", *overrides])
        sweeper.train.main()
    [grid] = grids
    return grid


@pytest.mark.parametrize("name", FROZEN["sweeps"])
def test_the_ids_of_every_presets_sweeps_are_those_of_before(name) -> None:
    preset, sweep = name.split("/")
    ids = sorted(run.config.run_id for run in composed(sweep, f"preset={preset}", "design=full"))
    digest = hashlib.sha256("\n".join(ids).encode()).hexdigest()
    assert {"cells": len(ids), "first": ids[0], "last": ids[-1], "sha256": digest} == FROZEN["sweeps"][name]


def stored_sweeps() -> list[tuple[str, str]]:
    return [(name, sweep) for name, stored in FROZEN["results"].items() for sweep in stored["sweeps"]]


@pytest.mark.parametrize(("directory", "sweep"), stored_sweeps())
def test_the_ids_in_results_are_recomputed_from_conf(directory, sweep) -> None:
    """Its overrides, on the hash of its data."""
    stored = FROZEN["results"][directory]
    cells = pd.read_parquet(REPOSITORY / directory / "cells.parquet").query("sweep == @sweep")
    [experiment] = cells["experiment"].unique()
    runs = [
        run.on_data(stored["data"])
        for overrides in stored["sweeps"][sweep]
        for run in composed(experiment, f"preset={stored['preset']}", "design=full", *overrides)
    ]
    found = {tuple(run.axes[name] for name in AXES): run.config.run_id for run in runs}
    architecture = cells["architecture"].fillna("plain") if "architecture" in cells else "plain"
    cells = cells.assign(architecture=architecture)
    expected = {tuple(row[name] for name in AXES): row["run_id"] for row in cells.to_dict("records")}
    assert len(found) == len(expected) == len(cells) > 0
    assert found == expected


def test_no_stored_sweep_is_left_out() -> None:
    stored = {
        (str(file.parent.relative_to(REPOSITORY)), sweep)
        for file in REPOSITORY.glob("results/*/cells.parquet")
        for sweep in pd.read_parquet(file, columns=["sweep"])["sweep"].unique()
    }
    assert stored == set(stored_sweeps())
