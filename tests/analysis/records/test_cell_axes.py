"""An axis that a figure cannot lay out is named, with the way to select; nothing is drawn as one that is not."""

import importlib
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from analysis.records import cell_axes
from analysis.records.result_sets import find_records
from sweeper.errors import UserError

Tables = Callable[..., tuple[pd.DataFrame, pd.DataFrame]]
NAMES = ("fig2", "fig3", "fig4", "fig6", "fig7", "fig8", "fig9", "exponent", "theory")  # Figure 5 lays out every axis


@pytest.fixture(scope="module")
def folder(results: Path, store: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stored results of every experiment, each sweep at two weight decays."""
    tables = {name: pd.read_parquet(results / f"{name}.parquet") for name in ("cells", "curves", "readouts")}
    both = [tables["cells"].assign(**{"optimizer.weight_decay": value}) for value in (0.0, 0.1)]
    return store(tmp_path_factory.mktemp("varied"), pd.concat(both), tables["curves"], tables["readouts"])


@pytest.mark.parametrize("name", NAMES)
def test_a_figure_that_does_not_lay_out_an_axis_names_it_and_draws_what_is_selected(
    name: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = importlib.import_module(f"analysis.plot_{name}")
    (tmp_path / f"{name}.csv").write_text("the good one")
    options = ["--results", str(folder), "--out", str(tmp_path), "--format", "png"]
    assert script.main(options) == 2
    error = capsys.readouterr().err
    assert error.endswith(
        " varies optimizer.weight_decay (0, 0.1), which this figure cannot tell apart; "
        "choose one: --where optimizer.weight_decay=0\n"
    )
    assert error.count("\n") == 1
    assert [path.read_text() for path in tmp_path.iterdir()] == ["the good one"]
    assert script.main([*options, "--where", "optimizer.weight_decay=0.1"]) == 0
    assert (tmp_path / f"{name}.csv").read_text() != "the good one"


@pytest.mark.parametrize(
    ("experiment", "name", "column", "value"),
    [
        ("init_probe", "fig2", "rule", "cubic"),
        ("init_probe", "fig4", "rule", "cubic"),
        ("increments", "fig3", "n_layers", 24),
        ("lr_transfer", "fig6", "panel", "e"),
        ("lr_transfer", "fig7", "ref_layers", 1),
        ("exponent", "exponent", "n_layers", 5),
        ("theory", "theory", "seed", 1),
        ("theory", "theory", "rule", "alpha=0.1"),
    ],
)
def test_a_base_axis_that_varies_in_one_point_is_refused_too(
    experiment: str,
    name: str,
    column: str,
    value: object,
    results: Path,
    store: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cells = pd.read_parquet(results / "cells.parquet").query("experiment == @experiment")
    panels = ("fig2e", "fig3b", "b", "shared")
    twice = pd.concat([cells, cells[cells["panel"].isin(panels)].assign(**{column: value})])
    curves, readouts = (pd.read_parquet(results / f"{table}.parquet") for table in ("curves", "readouts"))
    store(tmp_path / "in", twice, curves, readouts)
    script = importlib.import_module(f"analysis.plot_{name}")
    assert script.main(["--results", str(tmp_path / "in"), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert f" varies {column} (" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_claims_are_judged_on_sweeps_without_further_axes(folder: Path, results: Path, tmp_path: Path) -> None:
    """The other sweeps of the same experiments are left to the figures that are asked for them."""
    assert find_records(None, folder) == []
    cells = pd.read_parquet(results / "cells.parquet").query("experiment == 'lr_transfer'")
    more = [cells.assign(sweep="add", architecture="add"), cells.assign(sweep="b2", **{"optimizer.beta2": 0.9})]
    pd.concat([cells.iloc[:-1], *more]).to_parquet(tmp_path / "cells.parquet")
    [found] = find_records(None, tmp_path)
    assert set(found.cells["lr_transfer"]["sweep"]) == set(cells["sweep"])


def test_contexts_come_in_order_of_their_values(cell_table: Callable[..., pd.DataFrame]) -> None:
    parts = [cell_table().assign(**{"batch.seq_len": length, "d_model": 32}) for length in (128, 32)]
    contexts = [context for context, _ in cell_axes.contexts(pd.concat(parts))]
    assert contexts == [{"batch.seq_len": 32}, {"batch.seq_len": 128}]
    assert [context for context, _ in cell_axes.contexts(cell_table())] == [{}]


def test_a_selection_that_a_shell_would_split_is_quoted(cell_table: Callable[..., pd.DataFrame]) -> None:
    cells = pd.concat([cell_table().assign(rule=f"alpha={alpha} beta=0.5") for alpha in (0.75, 1)])
    with pytest.raises(UserError, match=r"--where 'rule=alpha=0.75 beta=0.5'$"):
        cell_axes.refuse_beyond(cells, ["panel", "n_loops", "base_lr", "seed"])
