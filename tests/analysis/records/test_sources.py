"""What a figure reads: the newest sweep, a named one or stored results; anything else is one clear line."""

import argparse
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from analysis.records import sources
from sweeper.errors import UserError

CellTable = Callable[..., pd.DataFrame]


def load(*options: str) -> pd.DataFrame:
    parser = argparse.ArgumentParser()
    sources.add_arguments(parser)
    return sources.load_cells(parser.parse_args(options), "lr_transfer", "make sweep-lr-transfer")


@pytest.fixture
def records(monkeypatch: pytest.MonkeyPatch, cell_table: CellTable) -> list[tuple[Path, Path]]:
    """Stands in for `sweeper.records.status`; lists the (manifest, runs) that were asked for."""
    asked: list[tuple[Path, Path]] = []

    def sweep_table(manifest: Path, runs: Path) -> pd.DataFrame:
        asked.append((manifest, runs))
        return cell_table()

    module = types.ModuleType("sweeper.records.status")
    module.sweep_table = sweep_table  # type: ignore[attr-defined]
    module.latest_sweep = lambda sweeps, _: max(sweeps.glob("*.json"), default=None)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sweeper.records.status", module)
    return asked


def test_newest_sweep_beside_the_runs_is_the_default(records: list[tuple[Path, Path]], tmp_path: Path) -> None:
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "first.json").touch()
    (tmp_path / "sweeps" / "second.json").touch()
    load("--runs", str(tmp_path / "runs"))
    load("--runs", str(tmp_path / "runs"), "--sweep", "first")
    assert [manifest.stem for manifest, _ in records] == ["second", "first"]


@pytest.mark.usefixtures("records")
def test_missing_sweep_names_the_command_to_type(tmp_path: Path) -> None:
    runs = ("--runs", str(tmp_path / "runs"))
    with pytest.raises(UserError, match="make sweep-lr-transfer"):
        load(*runs)
    (tmp_path / "sweeps").mkdir()
    with pytest.raises(UserError, match="make sweep-lr-transfer"):
        load(*runs)
    (tmp_path / "sweeps" / "mine.json").touch()
    with pytest.raises(UserError, match=r"'yours'.*known: mine"):
        load(*runs, "--sweep", "yours")


def test_stored_results_are_read_from_file_or_directory(cell_table: CellTable, tmp_path: Path) -> None:
    file = tmp_path / "cells.parquet"
    cell_table().sample(frac=1.0, random_state=0).to_parquet(file)
    from_file, from_directory = load("--results", str(file)), load("--results", str(tmp_path))
    pd.testing.assert_frame_equal(from_file, from_directory)
    assert list(from_file) == list(sources.COLUMN_TYPES)
    assert from_file[sources.CELL_KEY].apply(tuple, axis=1).is_monotonic_increasing


def test_stored_results_hold_other_experiments_and_sweeps_apart(cell_table: CellTable, tmp_path: Path) -> None:
    other = cell_table().assign(experiment="depth", sweep="depth-1")
    second = cell_table().assign(sweep="second")
    pd.concat([cell_table(), other]).to_parquet(tmp_path / "cells.parquet")
    assert len(load("--results", str(tmp_path))) == len(cell_table())
    pd.concat([cell_table(), second]).to_parquet(tmp_path / "cells.parquet")
    with pytest.raises(UserError, match="--sweep NAME"):
        load("--results", str(tmp_path))
    assert set(load("--results", str(tmp_path), "--sweep", "second")["sweep"]) == {"second"}
    with pytest.raises(UserError, match="no sweep 'third'"):
        load("--results", str(tmp_path), "--sweep", "third")


def test_missing_or_broken_results_are_named(tmp_path: Path) -> None:
    (tmp_path / "known").mkdir()
    (tmp_path / "known" / "cells.parquet").write_text("not parquet")
    with pytest.raises(UserError, match=r"no .*cells.parquet.*known: .*known"):
        load("--results", str(tmp_path))
    with pytest.raises(UserError, match="cannot read"):
        load("--results", str(tmp_path / "known"))


@pytest.mark.parametrize(
    ("break_table", "named"),
    [
        (lambda cells: cells.drop(columns=["val_loss", "rule"]), "missing column rule, val_loss"),
        (lambda cells: cells.iloc[:0], "no cell"),
        (lambda cells: cells.assign(n_loops="many"), "wrong type"),
        (lambda cells: cells.assign(experiment="depth"), "a sweep of depth"),
        (lambda cells: cells.assign(state="asleep"), "asleep is not one of pending, running, done"),
        (lambda cells: cells.assign(base_lr=0.0), "not positive"),
        (
            lambda cells: pd.concat([cells, cells.iloc[:1]]),
            "panel a, sqrt, L = 2, N = 1, base_lr = 0.0005, seed 0 appears twice",
        ),
        (lambda cells: cells.assign(val_loss=float("nan")), "is done but has no val_loss"),
    ],
)
def test_broken_table_is_refused_in_one_line(
    break_table: Callable[[pd.DataFrame], pd.DataFrame], named: str, cell_table: CellTable
) -> None:
    with pytest.raises(UserError, match=named) as caught:
        sources.validated(break_table(cell_table()), "lr_transfer")
    assert "\n" not in str(caught.value)


def test_formats_are_pdf_png_and_svg_only() -> None:
    assert sources.parse_formats("png, pdf") == ("pdf", "png")
    assert sources.parse_formats("png") == ("png",)
    with pytest.raises(UserError, match="'jpg' is not one of pdf, png, svg"):
        sources.parse_formats("png,jpg")
