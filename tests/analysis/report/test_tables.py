"""Optimum tables: the control of Figure 5 beside it, and a row per stabiliser and N with collapsed runs as diverged."""

from collections.abc import Callable

import pandas as pd

from analysis.records.result_sets import ARCHITECTURES, NO_DECAY, Records
from analysis.report.tables import OPTIMA, Table, optimum_tables, unfinished_table

CellTable = Callable[..., pd.DataFrame]
ENTROPY = 4.0


def column(table: Table, heading: str) -> list[str]:
    return [row[list(table.headings).index(heading)].text for row in table.rows]


def test_control_without_weight_decay_has_a_table_of_its_own(cell_table: CellTable) -> None:
    moved = cell_table().assign(base_lr=lambda cells: 2 * cells["base_lr"])
    records = Records("quick", "here", cells={"lr_transfer": cell_table(), NO_DECAY: moved})
    tables = {table.caption: table for table in optimum_tables(records)}
    default, control = tables[OPTIMA["lr_transfer"]], tables[OPTIMA[NO_DECAY]]
    assert set(column(default, "optimum (grid)")[-4:]) == {"0.00125"}
    assert set(column(control, "optimum (grid)")[-4:]) == {"0.0025"}


def test_every_stabiliser_has_its_optima_and_a_collapsed_run_is_no_optimum(cell_table: CellTable) -> None:
    linear = cell_table(seeds=(0, 1)).query("panel == 'b'").assign(unigram_entropy=ENTROPY)
    parts = [linear.assign(architecture=name, run_id=name + linear["run_id"]) for name in ("plain", "FLT")]
    cells = pd.concat(parts, ignore_index=True)
    cells.loc[(cells["architecture"] == "FLT") & (cells["n_loops"] == 8), "val_loss"] = ENTROPY
    [table] = optimum_tables(Records("quick", "here", cells={ARCHITECTURES: cells}))
    assert table.caption == "Optimum per stabiliser and N"
    assert "a collapsed run counts as diverged" in table.notes
    flags = dict(zip(zip(column(table, "panel"), column(table, "N"), strict=True), column(table, "flag"), strict=True))
    assert {key for key, flag in flags.items() if flag == "all finished runs diverged"} == {("FLT, linear", "8")}
    assert len(flags) == 8


def test_points_without_a_result_are_told_by_their_architecture(cell_table: CellTable) -> None:
    linear = cell_table().query("panel == 'b'").assign(architecture="FLT", state="failed", reason="out of memory")
    table = unfinished_table(Records("quick", "here", cells={ARCHITECTURES: linear}))
    assert set(column(table, "panel")) == {"FLT, linear"}
