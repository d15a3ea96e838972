"""Every architecture trains, and resumes bit for bit."""

from dataclasses import replace

import pytest
import torch

from model import BLOCKS, LOOPS, parameter_table
from sweeper.records.checkpoint import load_checkpoint
from sweeper.run.schedule import Schedule
from sweeper.run.stop import StopFlag
from sweeper.training.trainer import Trainer

from .interruptions import StopAfter

ROWS = [*((loop, "pre_norm") for loop in LOOPS), *(("plain", block) for block in BLOCKS if block != "pre_norm")]


@pytest.mark.parametrize(("loop", "block"), ROWS)
def test_every_architecture_trains_and_resumes_bit_for_bit(
    runs, reference_runs, run_config, execution, loop, block
) -> None:
    """Twenty steps with diagnostics, stopped between two checkpoints, against the same left alone."""
    base = {"base_lr": 8e-3, "init_std": 0.139, "eps": 1e-8, "weight_decay": 0.1, "depth_multiplier": 1}
    model = replace(run_config.model, n_layers=2, n_loops=3, loop=loop, block=block)
    table = parameter_table(**base, applications=6, loop=loop, block=block)
    schedule = Schedule(steps=20, warmup=2, decay=4)
    config = replace(run_config, model=model, table=table, schedule=schedule, diagnostics=True)

    def train(place, stop):
        rundir = place.write_config(config, execution)
        return rundir, Trainer(rundir, config, execution, place.data).run(stop, lambda progress: None)

    alone, result = train(reference_runs, StopFlag())
    assert train(runs, StopAfter(10))[1] is None
    resumed, result_again = train(runs, StopFlag())
    assert result["state"] == result_again["state"] == "done"
    lines = alone.read_metrics()
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 21))
    assert lines[-2]["loss"] < lines[0]["loss"] - 0.2
    assert resumed.metrics.read_bytes() == alone.metrics.read_bytes()
    assert resumed.readouts() == alone.readouts()
    weights, others = (load_checkpoint(place.checkpoints, torch.device("cpu"))["model"] for place in (resumed, alone))
    assert all(torch.equal(weight, others[name]) for name, weight in weights.items())
