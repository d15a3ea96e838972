"""The command that the page shows for a point trains that very run: composed again, it has the run's id."""

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hydra.core.global_hydra import GlobalHydra

import sweeper.train
from analysis.records.result_sets import find_records
from analysis.report.runs import run_table
from sweeper.config.resolve import ResolvedRun, resolve
from sweeper.grid.compose import compose_jobs

REPOSITORY = Path(sweeper.train.__file__).resolve().parents[1]
FROZEN = json.loads((REPOSITORY / "tests" / "sweeper" / "run" / "frozen_ids.json").read_text())


def composed(command: str, data: str) -> list[ResolvedRun]:
    """The runs that a command line would train, on the data with this hash."""
    found: list[ResolvedRun] = []

    def launch(context: Any, config: Any, jobs: Any, **_: Any) -> None:
        found.extend(resolve(job, data) for job in compose_jobs(context, config, jobs))

    words = shlex.split(command)
    assert words[:2] == ["loopsweep", "submit"]
    GlobalHydra.instance().clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sweeper.execution.local.launch_local", launch)
        patch.setattr(sys, "argv", ["sweeper.train", "--multirun", *words[2:]])
        sweeper.train.main()
    return found


@pytest.mark.parametrize("directory", sorted(FROZEN["results"]))
def test_the_command_of_a_stored_run_has_its_id(directory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    [records] = find_records(None, Path(directory))
    for experiment, of_sweep in run_table(records, Path("figures")).items():
        for run_id in pd.Series(list(of_sweep["runs"])).sample(2, random_state=3):
            command = of_sweep["runs"][run_id][7]
            runs = composed(command, FROZEN["results"][directory]["data"])
            assert [run.config.run_id for run in runs] == [run_id], f"{experiment}: {command}"
