"""What a figure reads: the newest sweep, a named one or stored results; anything else is one clear line."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis.records import cell_axes, sources
from sweeper.errors import UserError
from sweeper.records.sweep_manifest import Sweep

CellTable = Callable[..., pd.DataFrame]


def load(*options: str) -> pd.DataFrame:
    parser = argparse.ArgumentParser()
    sources.add_arguments(parser)
    return sources.load_cells(parser.parse_args(options), "lr_transfer", "make sweep-lr-transfer")


Submit = Callable[..., None]


@pytest.fixture
def submit(cell_table: CellTable, tmp_path: Path) -> Submit:
    """`submit(name, …)`: a manifest beside tmp_path/runs, and the directories of its runs."""

    def write(name: str, cells: pd.DataFrame | None = None, *, run_directories: bool = True, **fields: Any) -> None:
        table = cell_table() if cells is None else cells
        rows = table.drop(columns=["sweep", "experiment", "preset", "state", "val_loss", "step", "reason"])
        records = tuple(rows.to_dict("records"))
        experiment = fields.pop("experiment", "lr_transfer")
        Sweep(name, experiment, "quick", records, **fields).save(tmp_path / "sweeps")
        for run_id in table["run_id"].unique() if run_directories else ():
            (tmp_path / "runs" / run_id).mkdir(parents=True, exist_ok=True)

    return write


def test_newest_sweep_beside_the_runs_is_the_default(submit: Submit, tmp_path: Path) -> None:
    for age, name in enumerate(["first", "second"]):
        submit(name)
        os.utime(tmp_path / "sweeps" / f"{name}.json", (1000 + age, 1000 + age))
    runs = ("--runs", str(tmp_path / "runs"))
    assert set(load(*runs)["sweep"]) == {"second"}
    assert set(load(*runs, "--sweep", "first")["sweep"]) == {"first"}


def test_missing_sweep_names_the_command_to_type(submit: Submit, tmp_path: Path) -> None:
    runs = ("--runs", str(tmp_path / "runs"))
    with pytest.raises(UserError, match="make sweep-lr-transfer"):
        load(*runs)
    (tmp_path / "sweeps").mkdir()
    with pytest.raises(UserError, match="make sweep-lr-transfer"):
        load(*runs)
    submit("mine")
    with pytest.raises(UserError, match=r"'yours'.*known: mine"):
        load(*runs, "--sweep", "yours")


def test_a_sweep_is_found_by_the_beginning_of_its_name_or_its_id(submit: Submit, tmp_path: Path) -> None:
    submit("mytext-lr_transfer-quick", id="0a1b2c")
    submit("mytext-exponent-quick", experiment="exponent", id="3d4e5f")
    submit("mytext-lr_transfer-quick-b", id="6a7b8c")
    runs = ("--runs", str(tmp_path / "runs"))
    assert set(load(*runs, "--sweep", "0a1b2c")["sweep"]) == {"mytext-lr_transfer-quick"}
    assert set(load(*runs, "--sweep", "mytext-lr_transfer-quick")["sweep"]) == {"mytext-lr_transfer-quick"}
    assert set(load(*runs, "--sweep", "mytext-e")["sweep"]) == {"mytext-exponent-quick"}
    with pytest.raises(UserError, match=r"several sweeps .*begin with 'mytext': mytext-lr_transfer-quick, mytext-lr"):
        load(*runs, "--sweep", "mytext")
    (tmp_path / "sweeps" / "mytext-lr_transfer-quick-b.json").unlink()
    assert set(load(*runs, "--sweep", "mytext")["sweep"]) == {"mytext-lr_transfer-quick"}  # this figure's experiment


def test_a_named_sweep_of_any_experiment_that_trains_is_read(
    cell_table: CellTable, submit: Submit, tmp_path: Path
) -> None:
    submit("mine-quick", experiment="runs")
    submit("probes", cell_table().assign(run_id="probe-" + cell_table()["run_id"]), experiment="init_probe")
    runs = ("--runs", str(tmp_path / "runs"))
    assert len(load(*runs, "--sweep", "mine"))
    with pytest.raises(UserError, match="a sweep of init_probe"):
        load(*runs, "--sweep", "probes")
    with pytest.raises(UserError, match="no lr_transfer sweep"):
        load(*runs)


@pytest.mark.parametrize("options", [[], ["--sweep", "mine"]])
def test_runs_that_are_not_there_are_named_instead_of_drawn_as_pending(
    options: list[str], submit: Submit, tmp_path: Path
) -> None:
    submit("mine", run_directories=False)
    with pytest.raises(UserError, match=r"--runs .*NOWHERE: none of the runs of sweep mine is there"):
        load("--runs", str(tmp_path / "NOWHERE"), *options)


def test_of_several_stored_sweeps_the_one_without_a_title_is_drawn_and_the_others_are_named(
    cell_table: CellTable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, results = tmp_path / "cells.parquet", ("--results", str(tmp_path))
    names = ("lr_transfer-quick", "lr_transfer-quick-optimizer.weight_decay=0", "other-lr_transfer-quick")
    pd.concat([cell_table().assign(sweep=name) for name in names]).to_parquet(file)
    assert set(load(*results)["sweep"]) == {names[0]}
    assert capsys.readouterr().err == (
        f"{file} also has {names[1]}, {names[2]}; --sweep NAME draws it instead of {names[0]}\n"
    )
    assert set(load(*results, "--sweep", names[1])["sweep"]) == {names[1]}
    assert capsys.readouterr().err == ""
    pd.concat([cell_table().assign(sweep=name) for name in names[1:]]).to_parquet(file)
    with pytest.raises(UserError, match="several sweeps"):
        load(*results)


def test_selected_cells_only_are_read(cell_table: CellTable, tmp_path: Path) -> None:
    cell_table().to_parquet(tmp_path / "cells.parquet")
    results = ("--results", str(tmp_path))
    chosen = load(*results, "--where", "panel=a,b", "model.n_loops=8", "--where", "optimizer.base_lr=1e-3,0.002")
    assert {(row.panel, row.n_loops, row.base_lr) for row in chosen.itertuples()} == {
        (panel, 8, rate) for panel in "ab" for rate in (1e-3, 2e-3)
    }
    for condition, named in (
        ("panel", "give key=value"),
        ("optimizer.beta2=0.9", "optimizer.beta2 is no axis of these cells; they have panel, rule"),
        ("panel=e", "no cell has e; there are a, b, c, d"),
    ):
        with pytest.raises(UserError, match=f"--where {condition}: {named}"):
            load(*results, "--where", condition)
    with pytest.raises(UserError, match="--where panel=a rule=linear: no cell has all of these"):
        load(*results, "--where", "panel=a", "rule=linear")


def test_stored_results_are_read_from_file_or_directory(cell_table: CellTable, tmp_path: Path) -> None:
    file = tmp_path / "cells.parquet"
    cell_table().sample(frac=1.0, random_state=0).to_parquet(file)
    from_file, from_directory = load("--results", str(file)), load("--results", str(tmp_path))
    pd.testing.assert_frame_equal(from_file, from_directory)
    assert list(from_file) == list(sources.COLUMN_TYPES)
    assert from_file[cell_axes.cell_key(from_file)].apply(tuple, axis=1).is_monotonic_increasing


def test_an_extra_axis_is_a_column_and_tells_cells_apart(cell_table: CellTable, tmp_path: Path) -> None:
    """Beside a sweep without it in the same file, whose table stays as it is."""
    plain = cell_table().assign(sweep="plain")
    clipped = [cell_table().assign(sweep="clipped", **{"optimizer.grad_clip": value}) for value in (0.5, None)]
    pd.concat([plain, *clipped]).to_parquet(tmp_path / "cells.parquet")
    found = load("--results", str(tmp_path), "--sweep", "clipped")
    assert found["optimizer.grad_clip"].value_counts().to_dict() == {"0.5": len(plain), "null": len(plain)}
    assert list(load("--results", str(tmp_path), "--sweep", "plain")) == list(sources.COLUMN_TYPES)
    selected = load("--results", str(tmp_path), "--sweep", "clipped", "--where", "optimizer.grad_clip=null")
    assert len(selected) == len(plain)


def test_an_architecture_is_a_column_where_one_is_not_plain(cell_table: CellTable) -> None:
    both = pd.concat([cell_table().assign(architecture=name) for name in (None, "post_norm")])
    assert set(sources.validated(both, "lr_transfer")["architecture"]) == {"plain", "post_norm"}
    plain = sources.validated(cell_table().assign(architecture="plain"), "lr_transfer")
    pd.testing.assert_frame_equal(plain, sources.validated(cell_table(), "lr_transfer"))


def test_what_was_measured_beside_the_loss_is_a_column_where_it_is_recorded(cell_table: CellTable) -> None:
    cells = cell_table()
    measured = cells.assign(step_seconds=[2.0] + [None] * (len(cells) - 1), unigram_entropy=None)
    read = sources.validated(measured, "lr_transfer")
    assert read["step_seconds"].dropna().tolist() == [2.0]
    assert "unigram_entropy" not in read
    pd.testing.assert_frame_equal(read.drop(columns="step_seconds"), sources.validated(cells, "lr_transfer"))


def test_stored_results_hold_other_experiments_and_sweeps_apart(cell_table: CellTable, tmp_path: Path) -> None:
    other = cell_table().assign(experiment="depth", sweep="depth-1")
    second = cell_table().assign(sweep="second")
    pd.concat([cell_table(), other]).to_parquet(tmp_path / "cells.parquet")
    assert len(load("--results", str(tmp_path))) == len(cell_table())
    pd.concat([cell_table(), second]).to_parquet(tmp_path / "cells.parquet")
    with pytest.raises(UserError, match="--sweep NAME"):
        load("--results", str(tmp_path))
    assert set(load("--results", str(tmp_path), "--sweep", "second")["sweep"]) == {"second"}
    with pytest.raises(UserError, match=r"no sweep 'third' in .*; known: lr_transfer-quick-0123abcd, second"):
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


def test_two_sweeps_are_one_table_with_an_axis_for_what_differs(
    submit: Submit, cell_table: CellTable, tmp_path: Path
) -> None:
    other = cell_table().assign(run_id=lambda cells: cells["run_id"] + "-decay")
    submit("plain", base={"optimizer.weight_decay": 0.0, "optimizer.beta2": 0.95, "preset": "quick"})
    submit("decay", other, base={"optimizer.weight_decay": 0.1, "optimizer.beta2": 0.95, "preset": "quick"})
    both = load("--runs", str(tmp_path / "runs"), "--sweep", "plain", "--sweep", "decay", "--panels", "a,b")
    assert cell_axes.extra_axes(both) == ["optimizer.weight_decay"]
    assert both.groupby("optimizer.weight_decay").size().to_dict() == {"0": 64, "0.1": 64}
    assert set(both["panel"]) == {"a", "b"}
    assert set(both["sweep"]) == {"plain + decay"}


def test_sweeps_that_no_value_tells_apart_are_told_by_name_and_shared_runs_are_drawn_once(
    cell_table: CellTable, store: Callable[..., Path], tmp_path: Path
) -> None:
    first, second = cell_table().assign(sweep="one"), cell_table(loop_counts=(1, 2, 4)).assign(sweep="two")
    stored = store(tmp_path / "same", pd.concat([first, second]))
    both = load("--results", str(stored), "--sweep", "one", "--sweep", "two")
    assert len(both) == len(first)
    assert cell_axes.extra_axes(both) == []
    second["run_id"] += "-again"
    both = load(
        "--results", str(store(tmp_path / "other", pd.concat([first, second]))), "--sweep", "one", "--sweep", "two"
    )
    assert cell_axes.extra_axes(both) == ["sweep.name"]
    assert len(both) == len(first) + len(second)
