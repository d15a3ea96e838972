"""`loopsweep refine`: rounds go into the sweep that they refine, under their number and with their reason."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from sweeper.cli import refine_command
from sweeper.cli.refine_command import refine, submission
from sweeper.errors import UserError
from sweeper.records.sweep_manifest import Sweep, joined

CELL = {
    "panel": "b",
    "rule": "linear",
    "n_layers": 2,
    "n_loops": 1,
    "base_lr": 1e-3,
    "seed": 0,
    "run_id": "one-0",
    "steps": 9,
}
FIRST = "loopsweep submit +sweep=lr_transfer design=coarse preset=smoke grid.seeds=[0] optimizer.weight_decay=0"
SWEEP = Sweep("mine", "lr_transfer", "smoke", (CELL,), base={"kind": "training"}, commands=(FIRST,))
PLAN = {
    "round": 2,
    "reason": "for fig5-transfer, fig6",
    "cells": [
        {"panel": "c", "n_loops": 8, "base_lr": 2.49e-3, "seed": 4},
        {"panel": "b", "n_loops": 1, "base_lr": 1e-3, "seed": 2},
        {"panel": "b", "n_loops": 1, "base_lr": 1e-3, "seed": 1},
    ],
    "left": "1.000000h",
}


def overrides_of(typed: list[str]) -> dict[str, Any]:
    return {one.key_or_group: one.value() for one in OverridesParser.create().parse_overrides(typed)}


def test_a_round_repeats_the_command_of_the_sweep_with_its_own_cells() -> None:
    found = overrides_of(submission(SWEEP, PLAN, ["hydra/launcher=slurm"], Path("r"), Path("s")))
    assert found["sweep"] == "lr_transfer"
    assert (found["preset"], found["optimizer.weight_decay"], found["hydra/launcher"]) == ("smoke", 0, "slurm")
    assert (found["paths.runs"], found["paths.sweeps"]) == ("r", "s")
    assert (found["refine.round"], str(found["refine.reason"])) == (2, "for fig5-transfer, fig6")
    assert not {"design", "grid.seeds"} & set(found)


def test_the_cells_are_small_grids_whose_rates_ascend() -> None:
    grids = overrides_of(submission(SWEEP, PLAN, [], Path("r"), Path("s")))["hydra.sweeper.grids"]
    plain = [{str(key): str(value).strip("'") for key, value in grid.items()} for grid in grids]
    assert plain == [
        {"panel": "b", "model.n_loops": "1", "optimizer.base_lr": "0.001", "seed": "1,2"},
        {"panel": "c", "model.n_loops": "8", "optimizer.base_lr": "0.00249", "seed": "4"},
    ]


def test_a_sweep_of_records_is_made_by_its_first_command() -> None:
    records = replace(SWEEP, commands=(f"{FIRST}; loopsweep submit +sweep=lr_transfer seed=1",))
    assert submission(records, PLAN, [], Path("r"), Path("s"))[:2] == ["+sweep=lr_transfer", "preset=smoke"]
    nameless = replace(SWEEP, commands=(), title="own")
    assert submission(nameless, PLAN, [], Path("r"), Path("s"))[:3] == [
        "+sweep=lr_transfer",
        "preset=smoke",
        "title=own",
    ]


def test_the_manifest_keeps_rounds_and_the_round_of_every_cell() -> None:
    more = replace(SWEEP, cells=({**CELL, "seed": 1, "run_id": "one-1", "round": 1},), rounds=({"round": 1},))
    whole = joined(SWEEP, more)
    assert whole is not None
    assert whole.rounds == ({"round": 1},)
    assert [row["round"] for row in whole.rows()] == [0, 1]
    assert Sweep.from_record(whole.to_record()) == replace(
        whole, cells=tuple({**cell, "architecture": "plain"} for cell in whole.cells)
    )


def test_a_sweep_without_rounds_is_written_as_before() -> None:
    assert "rounds" not in SWEEP.to_record()
    assert "round" not in SWEEP.rows()[0]
    assert Sweep.from_record(SWEEP.to_record()).rounds == ()


def planned(monkeypatch: pytest.MonkeyPatch, plans: list[dict[str, Any]], status: int = 0) -> list[list[str]]:
    """Plans that `refine` gets one after the other; what it submits."""
    submitted: list[list[str]] = []

    def run(command: list[str], **_: Any) -> Any:
        submitted.append(command)
        return type("Done", (), {"returncode": status})

    monkeypatch.setattr(refine_command, "_plan", lambda *_: plans.pop(0))
    monkeypatch.setattr(refine_command.subprocess, "run", run)
    return submitted


def test_rounds_go_on_until_no_claim_asks_for_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    SWEEP.save(tmp_path)
    submitted = planned(monkeypatch, [PLAN, PLAN, {**PLAN, "cells": []}])
    refine(tmp_path / "mine.json", tmp_path, [], budget="2h", until_verdicts=True, dry_run=False)
    assert len(submitted) == 2


def test_a_dry_run_submits_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    SWEEP.save(tmp_path)
    submitted = planned(monkeypatch, [PLAN])
    refine(tmp_path / "mine.json", tmp_path, [], budget=None, until_verdicts=True, dry_run=True)
    assert submitted == []


def test_a_round_that_does_not_end_stops_the_rounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    SWEEP.save(tmp_path)
    planned(monkeypatch, [PLAN], status=3)
    with pytest.raises(UserError, match="round 2 of mine ended with runs left") as error:
        refine(tmp_path / "mine.json", tmp_path, [], budget=None, until_verdicts=True, dry_run=False)
    assert error.value.exit_status == 3


def test_on_a_cluster_one_round_is_queued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    SWEEP.save(tmp_path)
    submitted = planned(monkeypatch, [PLAN])
    launcher = ["hydra/launcher=slurm"]
    refine(tmp_path / "mine.json", tmp_path, launcher, budget=None, until_verdicts=True, dry_run=False)
    assert len(submitted) == 1
