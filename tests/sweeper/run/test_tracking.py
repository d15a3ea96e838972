"""Tracking is part of how a run is carried out, and of nothing else."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

import sweeper.train
from sweeper.config.resolve import ResolvedRun, resolve
from sweeper.errors import UserError
from sweeper.grid.build import sweep_name
from sweeper.run.execution import Execution, Tracking
from sweeper.tracking.wandb_run import MAX_ID, Entry, wandb_id

CONF = Path(sweeper.train.__file__).resolve().parents[1] / "conf"


def composed(*overrides: str, hydra: bool = False) -> Any:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides=list(overrides), return_hydra_config=hydra)


def resolved(*overrides: str) -> ResolvedRun:
    return resolve(composed(*overrides), "0" * 16)


@pytest.mark.parametrize("mode", ["offline", "online", "off"])
def test_it_changes_no_runs_identity_and_no_sweeps_name(mode: str) -> None:
    plain, chosen = resolved("preset=laptop"), resolved("preset=laptop", f"tracking={mode}", "tracking.entity=me")
    assert chosen.execution.tracking.mode == mode
    assert chosen.config.run_id == plain.config.run_id
    name = sweep_name(composed("preset=laptop", f"tracking={mode}", "tracking.project=mine", hydra=True), "runs")
    assert name == sweep_name(composed("preset=laptop", hydra=True), "runs")


def test_the_default_is_offline_the_tests_preset_off_and_the_server_named(monkeypatch) -> None:
    monkeypatch.delenv("WANDB_BASE_URL", raising=False)
    tracking = resolved("preset=quick").execution.tracking
    assert tracking == Tracking("offline", "loopsweep", None, "https://api.wandb.ai", 10.0, 10.0)
    assert resolved("preset=smoke").execution.tracking.mode == "off"
    monkeypatch.setenv("WANDB_BASE_URL", "http://mine")
    assert resolved("preset=quick").execution.tracking.base_url == "http://mine"


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("tracking.mode=loud", "tracking.mode=loud is unknown; allowed: offline, online, off"),
        ("tracking.init_timeout=0", "tracking.init_timeout=0 must be positive"),
    ],
)
def test_what_cannot_be_is_named(override: str, named: str) -> None:
    with pytest.raises(UserError, match=named):
        resolved("preset=smoke", override)


def test_records_carry_it_and_older_ones_are_read_as_untracked(execution: Execution) -> None:
    tracked = resolved("preset=quick").execution
    assert Execution.from_dict(json.loads(json.dumps(asdict(tracked)))) == tracked
    older = {key: value for key, value in asdict(execution).items() if key != "tracking"}
    assert Execution.from_dict(older).tracking.mode == "off"


def test_a_run_is_named_for_its_panel_and_axes() -> None:
    run = resolved("preset=paper", "panel=b", "model.n_loops=4", "seed=3").config
    entry = Entry.of_run(run, {"labels": {"panels": ["b"], "sweep": "lr_transfer-paper"}})
    assert (entry.name, entry.id, entry.group) == ("b-N4-L12-lr1.25e-3-s3", run.run_id, "lr_transfer-paper")
    assert Entry.of_run(run, {}).name == "run-N4-L12-lr1.25e-3-s3"


def test_long_names_are_cut_and_stay_apart() -> None:
    first, second = wandb_id("s" * 200 + "a"), wandb_id("s" * 200 + "b")
    assert len(first) == len(second) == MAX_ID
    assert first != second
    assert wandb_id("lr_transfer-quick") == "lr_transfer-quick"
