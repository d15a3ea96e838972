"""Which losses make a training lost, and that the rule ends a real one, resumed or not, at the same step."""

import json
import math
from dataclasses import replace

import pytest
import torch

from sweeper.run.schedule import Schedule
from sweeper.training.blow_up import BlowUp

from .interruptions import DiesAt, StopAfter
from .test_trainer import at_rate

STEPS, WINDOW = 200, 10
FALLING = [6 - step / STEPS for step in range(STEPS)]


@pytest.fixture
def planted(literal_run):
    return replace(literal_run, schedule=Schedule(STEPS, 30, 40), diverged_above=4.0, stop_lost=True)


def lost_at(config, losses) -> int | None:
    rule = BlowUp(config, torch.device("cpu"))
    return next((step for step, loss in enumerate(losses, 1) if rule.lost(step, torch.tensor(loss))), None)


def windows(*means: float) -> list[float]:
    return [mean for mean in means for _ in range(WINDOW)]


def test_a_slow_run_and_one_on_a_plateau_are_never_lost(planted) -> None:
    assert lost_at(planted, FALLING) is None
    assert lost_at(planted, windows(*[5.0] * 20)) is None
    assert lost_at(planted, windows(5.0, *[5.4, 5.45] * 9)) is None


def test_it_is_lost_at_the_end_of_the_second_window_above(planted) -> None:
    assert lost_at(planted, windows(*[3.8] * 6, *[4.4] * 4)) == 80
    assert lost_at(planted, windows(*[3.8] * 6, 4.4, 3.9, 4.4, 4.4)) == 100
    assert lost_at(planted, windows(*[3.8] * 6, 4.4, 3.9, 4.4)) is None


def test_a_rise_below_the_threshold_loses_nothing(planted) -> None:
    assert lost_at(planted, windows(*[2.0] * 6, *[3.9] * 14)) is None


def test_windows_within_warmup_do_not_count(planted) -> None:
    assert lost_at(planted, windows(3.0, *[9.0] * 19)) == 50
    assert lost_at(replace(planted, schedule=Schedule(STEPS, 0, 0)), windows(3.0, *[9.0] * 19)) == 30


def test_losses_that_are_not_finite_are_above(planted) -> None:
    assert lost_at(planted, windows(*[3.0] * 6, math.nan, math.inf)) == 80


@pytest.fixture(scope="module")
def losing(run_config):
    """Its loss goes above the threshold after the first step."""
    return replace(at_rate(run_config, 3.0), schedule=Schedule(12, 1, 0), diverged_above=6.0, stop_lost=True)


def test_a_lost_training_ends_as_diverged_with_its_step_and_loss(runs, losing) -> None:
    rundir, result = runs.train(losing)
    last = rundir.read_metrics()[-1]
    assert (result["state"], result["reason"]) == ("diverged", f"the loss has blown up at step {result['step']}")
    assert 3 <= result["step"] < 12
    assert (last["step"], last["val_loss"]) == (result["step"], result["val_loss"])
    assert result["val_loss"] > losing.diverged_above


def test_without_the_rule_it_trains_to_its_last_step_on_the_same_losses(runs, losing) -> None:
    short, _ = runs.train(losing)
    whole, result = runs.train(replace(losing, stop_lost=False))
    assert (result["state"], result["step"]) == ("diverged", 12)
    common = [row["loss"] for row in short.read_metrics() if "loss" in row]
    assert common == [row["loss"] for row in whole.read_metrics() if "loss" in row][: len(common)]


@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_resumed_training_is_lost_at_the_same_step(runs, losing, run_data, step) -> None:
    losing = replace(losing, schedule=Schedule(80, 1, 0))  # windows of four steps
    rundir, result = runs.train(losing)
    undisturbed = rundir.metrics.read_bytes()
    other = replace(runs, root=runs.root / "other")
    assert other.train(losing, stop=StopAfter(step))[1] is None
    assert other.train(losing)[1]["step"] == result["step"]
    assert (other.root / losing.run_id / "metrics.jsonl").read_bytes() == undisturbed
    third = replace(runs, root=runs.root / "third")
    with pytest.raises(KeyboardInterrupt):
        third.train(losing, data=DiesAt(run_data, 4 + step))
    assert third.train(losing)[1]["step"] == result["step"]


def test_the_rule_makes_another_run_and_its_absence_none(literal_run) -> None:
    assert replace(literal_run, stop_lost=True).run_id != literal_run.run_id
    assert "stop_lost" not in json.dumps(literal_run.to_dict())
