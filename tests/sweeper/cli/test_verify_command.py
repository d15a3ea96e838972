"""`loopsweep verify` on records of the smoke sweep: trains cells again, and catches a loss that nobody measured."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from sweeper.__main__ import main
from sweeper.records.verify import drawn, repeatable
from tests.sweeper.conftest import SweepDir

Verify = Callable[[], tuple[int, str]]


@pytest.fixture
def records(tmp_path: Path, finished_sweep: SweepDir) -> Path:
    """The tables of the finished smoke sweep."""
    main(["export", "--runs", str(finished_sweep.runs), "--out", str(tmp_path / "records")])
    return tmp_path / "records"


@pytest.fixture
def verify(records: Path, finished_sweep: SweepDir, capfd: pytest.CaptureFixture[str]) -> Verify:
    """The exit status and output of `loopsweep verify` with one cell."""

    def call() -> tuple[int, str]:
        capfd.readouterr()
        status = 0
        try:
            main(["verify", str(records), "--cells", "1", "--data", str(finished_sweep.path / "data")])
        except SystemExit as end:
            status = int(end.code or 0)
        return status, capfd.readouterr().out

    return call


def change(table: Path, run_id: str) -> None:
    """Add 0.05 nats to the final validation loss of a run in a table of records."""
    rows = pd.read_parquet(table)
    last = rows.index[(rows["run_id"] == run_id) & rows["val_loss"].notna()]
    if table.stem == "curves":
        last = last[-1:]
    rows.loc[last, "val_loss"] += 0.05
    rows.to_parquet(table)


def test_cells_trained_again_pass_and_one_changed_in_all_tables_fails(records: Path, verify: Verify) -> None:
    status, out = verify()
    assert status == 0, out
    assert "0 of them contradict themselves" in out
    assert "1 of 1 cells pass" in out
    assert "pass  lr_transfer-smoke" in out
    [run_id] = drawn(repeatable(pd.read_parquet(records / "cells.parquet")), 1, 0)["run_id"]
    for name in ("cells", "curves"):
        change(records / f"{name}.parquet", run_id)
    status, out = verify()
    assert status == 1
    assert "0 of them contradict themselves" in out
    assert "difference 0.05" in out
    assert "0 of 1 cells pass" in out


def test_records_without_trainings_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["verify", "results/paper-init"])
    assert end.value.code == 2
    assert capsys.readouterr().err == (
        "error: results/paper-init has no finished training; give records such as results/quick\n"
    )
