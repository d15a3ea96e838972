"""A manifest gains cells and forgets none; sweeps of other values stay apart; a sweep is found by what one types."""

import json
import shlex
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sweeper.errors import UserError
from sweeper.records.sweep_manifest import Cell, Sweep, add, find, joined, placed, remove, sweeps_beside

BASE = {"preset": "smoke", "optimizer.weight_decay": 0.1, "data.path": None, "data": "hash"}


def cell(panel: str, n_loops: int, values: dict[str, Any] | None = None, run: str = "") -> Cell:
    axes = {"panel": panel, "rule": "linear", "architecture": "plain", "n_layers": 1, "n_loops": n_loops, "seed": 0}
    run_id = f"{panel}{n_loops}{json.dumps(values or {})}{run}"
    return {**axes, "run_id": run_id, "steps": 12} | ({"values": values} if values else {})


def asked(*cells: Cell, command: str = "first", **fields: Any) -> Sweep:
    named = {"name": "s", "experiment": "lr_transfer", "preset": "smoke", "base": BASE, "commands": (command,)}
    return Sweep(**named | fields, cells=cells)


def places(sweep: Sweep) -> list[tuple[str, int]]:
    return [(one["panel"], one["n_loops"]) for one in sweep.cells]


FULL = [cell(panel, n) for panel in "ab" for n in (1, 2)]


class TestAdding:
    def test_a_part_leaves_the_rest_and_a_wider_grid_joins_it_in_order(self, tmp_path: Path) -> None:
        add(tmp_path, asked(*FULL))
        before = (tmp_path / "s.json").read_bytes()
        whole, changed = add(tmp_path, asked(FULL[0], command="part"))
        assert (places(whole), changed) == ([("a", 1), ("a", 2), ("b", 1), ("b", 2)], False)
        assert (tmp_path / "s.json").read_bytes() == before
        whole, changed = add(tmp_path, asked(cell("a", 16), FULL[1], command="wider"))
        assert (places(whole), changed) == ([("a", 1), ("a", 2), ("a", 16), ("b", 1), ("b", 2)], True)
        assert Sweep.load(tmp_path / "s.json") == whole

    def test_the_commands_that_added_cells_are_kept_and_no_others(self, tmp_path: Path) -> None:
        for command, cells in {"all": FULL, "again": FULL, "more": [cell("b", 16)], "part": FULL[:1]}.items():
            whole, _ = add(tmp_path, asked(*cells, command=command))
        assert whole.commands == ("all", "more")

    def test_submissions_at_the_same_time_lose_no_cell(self, tmp_path: Path) -> None:
        with ThreadPoolExecutor(8) as pool:
            for done in [pool.submit(add, tmp_path, asked(cell("b", n), command=str(n))) for n in range(1, 41)]:
                done.result()
        assert places(Sweep.load(tmp_path / "s.json")) == [("b", n) for n in range(1, 41)]

    def test_placing_writes_nothing(self, tmp_path: Path) -> None:
        assert placed(tmp_path / "none", asked(*FULL)).name == "s"
        assert list(tmp_path.iterdir()) == []

    def test_the_id_is_short_and_stays(self, tmp_path: Path) -> None:
        first, _ = add(tmp_path, asked(FULL[0]))
        wider, _ = add(tmp_path, asked(*FULL))
        assert (len(first.id), wider.id) == (6, first.id)


class TestApart:
    @pytest.mark.parametrize(
        "fields",
        [
            {"base": BASE | {"optimizer.weight_decay": 0.0}},
            {"base": BASE | {"data": "other text, same folder's name"}},
            {"experiment": "runs"},
            {"title": "s"},
        ],
    )
    def test_what_is_of_other_values_or_kind_gets_a_name_of_its_own_and_finds_it_again(
        self, fields: dict[str, Any], tmp_path: Path
    ) -> None:
        add(tmp_path, asked(*FULL))
        other, _ = add(tmp_path, asked(FULL[0], **fields))
        assert other.name == f"s-{other.id}"
        again, changed = add(tmp_path, asked(FULL[0], FULL[3], **fields))
        assert (again.name, len(again.cells), changed) == (other.name, 2, True)
        assert len(Sweep.load(tmp_path / "s.json").cells) == 4

    def test_a_cell_never_changes_its_run(self, tmp_path: Path) -> None:
        add(tmp_path, asked(*FULL))
        other, _ = add(tmp_path, asked(cell("a", 1, run="with another panel file")))
        assert other.name != "s"
        assert Sweep.load(tmp_path / "s.json").cells[0]["run_id"] == FULL[0]["run_id"]

    def test_other_values_of_a_swept_key_are_another_sweep_without_a_title(self, tmp_path: Path) -> None:
        add(tmp_path, asked(cell("a", 1), cell("a", 1, {"data.path": "x/texts"})))
        other, _ = add(tmp_path, asked(cell("a", 1), cell("a", 1, {"data.path": "y/texts"})))
        assert other.name != "s"

    def test_a_key_that_only_one_of_them_knows_had_its_neutral_value(self, tmp_path: Path) -> None:
        add(tmp_path, asked(*FULL))
        whole, _ = add(tmp_path, asked(cell("b", 16), base=BASE | {"model.new_choice": "neutral"}))
        assert (whole.name, whole.base["model.new_choice"], whole.extra_axes) == ("s", "neutral", [])


class TestTitled:
    def test_a_key_that_differs_becomes_an_axis_of_the_earlier_cells_too(self, tmp_path: Path) -> None:
        add(tmp_path, asked(*FULL[:2], title="t"))
        later = BASE | {"optimizer.weight_decay": 0.0}
        whole, _ = add(tmp_path, asked(cell("a", 1, run="wd"), FULL[2], title="t", base=later))
        assert whole.extra_axes == ["optimizer.weight_decay"]
        rows = [(row["panel"], row["n_loops"], row["optimizer.weight_decay"]) for row in whole.rows()]
        assert sorted(rows) == [("a", 1, 0.0), ("a", 1, 0.1), ("a", 2, 0.1), ("b", 1, 0.0)]
        again, changed = add(tmp_path, asked(cell("a", 1, run="wd"), title="t", base=later))
        assert (len(again.cells), changed) == (4, False)

    def test_the_hash_of_the_data_is_no_axis_beside_its_path(self) -> None:
        first = asked(FULL[0], title="t")
        second = asked(cell("a", 1, run="y"), title="t", base=BASE | {"data.path": "y/texts", "data": "other"})
        whole = joined(first, second)
        assert whole is not None
        assert whole.extra_axes == ["data.path"]
        changed = joined(first, asked(cell("a", 1, run="y"), title="t", base=BASE | {"data": "other"}))
        assert changed is not None
        assert changed.extra_axes == ["data"]

    def test_what_a_preset_sets_goes_without_saying(self) -> None:
        quick = {"preset": "quick", "optimizer.weight_decay": 0.0}
        sweep = asked(cell("a", 1), cell("a", 1, quick), cell("a", 2, quick | {"data.path": "x"}))
        assert sweep.extra_axes == ["data.path", "preset"]


class TestEarlierVersions:
    def old(self, directory: Path, *cells: Cell) -> None:
        kept = [{key: value for key, value in one.items() if key not in ("architecture", "values")} for one in cells]
        (directory / "s.json").write_text(
            json.dumps({"name": "s", "experiment": "lr_transfer", "preset": "smoke", "cells": kept})
        )

    def test_a_manifest_of_before_is_read(self, tmp_path: Path) -> None:
        self.old(tmp_path, *FULL)
        sweep = Sweep.load(tmp_path / "s.json")
        assert (sweep.extra_axes, sweep.columns, sweep.commands) == ([], [], ())
        assert list(sweep.cells) == FULL
        assert [set(row) for row in sweep.rows()] == [set(one) - {"architecture"} for one in FULL]

    def test_it_is_taken_over_where_cells_in_common_show_that_it_is_the_same(self, tmp_path: Path) -> None:
        self.old(tmp_path, *FULL)
        whole, changed = add(tmp_path, asked(FULL[0], cell("a", 16), command="now"))
        assert (whole.name, whole.base, changed) == ("s", BASE, True)
        assert places(whole) == [("a", 1), ("a", 2), ("a", 16), ("b", 1), ("b", 2)]
        assert whole.commands == ("# cells from before commands were recorded", "now")

    def test_it_is_left_alone_otherwise(self, tmp_path: Path) -> None:
        self.old(tmp_path, *FULL)
        for new in (cell("a", 16), cell("a", 1, run="other")):
            other, _ = add(tmp_path, asked(new))
            assert other.name != "s"
        assert len(Sweep.load(tmp_path / "s.json").cells) == 4

    def test_two_values_in_cells_that_no_axis_told_apart_are_told_apart(self, tmp_path: Path) -> None:
        """As manifests of `optimizer.weight_decay=0,0.1` were written."""
        variants = [cell("a", 1), cell("a", 1, {"optimizer.weight_decay": 0.0})]
        self.old(tmp_path, *variants)
        whole, _ = add(tmp_path, asked(*variants))
        assert list(whole.cells) == variants
        self.old(tmp_path, *variants, cell("b", 1))
        other, _ = add(tmp_path, asked(*variants))
        assert other.name != "s"  # which of the two panel b is, nobody knows


class TestRemoving:
    def test_cells_that_meet_all_conditions_go_and_the_command_is_kept(self, tmp_path: Path) -> None:
        add(tmp_path, asked(*FULL))
        path = tmp_path / "s.json"
        assert remove(path, ["panel=a", "model.n_loops=2"], check=True) == [FULL[1]]
        assert len(Sweep.load(path).cells) == 4
        remove(path, ["panel=a", "model.n_loops=2"])
        assert places(Sweep.load(path)) == [("a", 1), ("b", 1), ("b", 2)]
        assert Sweep.load(path).commands == ("first", "loopsweep remove s panel=a model.n_loops=2")

    def test_the_command_that_is_kept_can_be_typed_again(self, tmp_path: Path) -> None:
        add(tmp_path, asked(*FULL, {**FULL[0], "rule": "alpha=0.75 beta=0.5", "run_id": "x"}))
        remove(tmp_path / "s.json", ["rule=alpha=0.75 beta=0.5"])
        command = Sweep.load(tmp_path / "s.json").commands[-1]
        assert shlex.split(command) == ["loopsweep", "remove", "s", "rule=alpha=0.75 beta=0.5"]

    def test_by_an_extra_axis_too(self, tmp_path: Path) -> None:
        add(tmp_path, asked(*FULL, cell("a", 1, {"optimizer.weight_decay": 0.0})))
        remove(tmp_path / "s.json", ["optimizer.weight_decay=0"])
        assert Sweep.load(tmp_path / "s.json").cells == tuple(FULL)

    @pytest.mark.parametrize(
        ("conditions", "named"),
        [
            (["seed=0"], "that is every cell of s; delete"),
            (["panel=c"], "remove panel=c: no cell has c; there are a, b"),
            (["beta=1"], "beta is no axis of these cells; they have panel"),
            (["panel"], "give key=value"),
        ],
    )
    def test_what_would_remove_nothing_or_everything_is_refused(
        self, conditions: list[str], named: str, tmp_path: Path
    ) -> None:
        add(tmp_path, asked(*FULL))
        with pytest.raises(UserError, match=named):
            remove(tmp_path / "s.json", conditions)
        assert len(Sweep.load(tmp_path / "s.json").cells) == 4


def test_a_sweep_is_found_by_its_name_the_beginning_of_it_or_its_id(tmp_path: Path) -> None:
    for name, number in {"my-quick": "0a1b2c", "my-quick-b": "3d4e5f", "other": "6a7b8c"}.items():
        replace(asked(*FULL), name=name, id=number).save(tmp_path)
    assert find(tmp_path, "my-quick").stem == "my-quick"  # a whole name is never ambiguous
    assert find(tmp_path, "my-quick-").stem == "my-quick-b"
    assert find(tmp_path, "6a7b8c").stem == "other"
    with pytest.raises(UserError, match=r"several sweeps in .* begin with 'my': my-quick, my-quick-b"):
        find(tmp_path, "my")
    (tmp_path / "broken.json").write_text("{}")
    assert find(tmp_path, "my-quick").stem == "my-quick"  # whatever else lies there
    (tmp_path / "broken.json").unlink()
    with pytest.raises(UserError, match=r"no sweep 'yours' in .*; known: my-quick, my-quick-b, other"):
        find(tmp_path, "yours")


def test_manifests_lie_beside_the_runs() -> None:
    assert sweeps_beside(Path("runs")) == Path("sweeps")
    assert sweeps_beside(Path("/scratch/me/runs")) == Path("/scratch/me/sweeps")
