"""A recorded cell leads back to its configuration, also of a preset that has another name today."""

import json
from pathlib import Path

import pandas as pd
import pytest

from sweeper.config.recompose import recompose
from sweeper.config.resolve import resolve
from sweeper.records.verify import drawn, repeatable

REPOSITORY = Path(__file__).resolve().parents[3]
FROZEN = json.loads((REPOSITORY / "tests" / "sweeper" / "run" / "frozen_ids.json").read_text())["results"]
TRAINED = [name for name in sorted(FROZEN) if name != "results/paper-init"]


@pytest.mark.parametrize("directory", TRAINED)
def test_a_cell_that_verify_draws_has_the_recorded_id(directory) -> None:
    cells = pd.read_parquet(REPOSITORY / directory / "cells.parquet")
    described = json.loads((REPOSITORY / directory / "provenance.json").read_text())
    for cell in drawn(repeatable(cells), 3, 0).to_dict("records"):
        run = resolve(recompose(cell, described[cell["sweep"]].get("values", {})), FROZEN[directory]["data"])
        assert run.config.run_id == cell["run_id"]
