"""A training with the second paper's parts and two optimizers: it learns, and comes back bit for bit."""

import json
from dataclasses import replace

import pytest
import torch

from model import ModelConfig, parameter_table
from sweeper.records.run_dir import RunDir
from sweeper.run.spec import ProbeConfig, RunConfig
from sweeper.run.stop import StopFlag
from sweeper.training.probe import Probe
from sweeper.training.trainer import Trainer

from .interruptions import StopAfter

BASE = {"base_lr": 0.02, "init_std": 0.25, "eps": 1e-10, "weight_decay": 0.0, "depth_multiplier": 1}
KINDS = {"parts": "nanochat", "optimizer": "muon"}


@pytest.fixture
def flt(run_config) -> RunConfig:
    """Twelve steps of FLT."""
    return replace(
        run_config,
        model=ModelConfig(300, 16, 1, 64, 2, 3, max_seq_len=32, rope_theta=10_000.0, loop="FLT", parts="nanochat"),
        table=parameter_table(**BASE, **KINDS, d_model=16),
        betas=(0.8, 0.95),
    )


@pytest.mark.parametrize("step", [3, 7])
def test_a_run_stopped_and_resumed_equals_one_left_alone(runs, reference_runs, flt, step) -> None:
    alone, result = reference_runs.train(flt)
    assert result["state"] == "done"
    assert runs.train(flt, stop=StopAfter(step))[1] is None
    rundir, resumed = runs.train(flt)
    assert resumed["val_loss"] == result["val_loss"]
    assert rundir.metrics.read_bytes() == alone.metrics.read_bytes()


def test_it_learns_and_logs_the_base_rate(runs, flt) -> None:
    rundir, result = runs.train(flt)
    lines = [json.loads(line) for line in rundir.metrics.read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < losses[0] - 0.5
    assert result["val_loss"] < losses[0] - 0.5
    rates = [line["base_lr"] for line in lines if "loss" in line]
    assert rates == [pytest.approx(0.02 * flt.schedule.factor(step)) for step in range(12)]


def test_clipping_is_over_the_parameters_of_both_optimizers(runs, flt, execution, run_data, monkeypatch) -> None:
    trainer = Trainer(RunDir(runs.root), replace(flt, grad_clip=1e-3), execution, run_data)
    step, norms = trainer.optimizer.step, []

    def record() -> None:
        gradients = [parameter.grad for parameter in trainer.model.parameters()]
        norms.append(float(torch.nn.utils.get_total_norm(gradients)))
        step()

    monkeypatch.setattr(trainer.optimizer, "step", record)
    for _ in range(3):
        trainer.train_step()
    assert norms == [pytest.approx(1e-3, rel=1e-3)] * 3


def test_a_probe_takes_its_steps_with_both_optimizers(tmp_path, execution) -> None:
    config = ProbeConfig(
        model=ModelConfig(64, 16, 1, 64, 1, 2, max_seq_len=16, loop="LT", parts="nanochat"),
        table=parameter_table(**BASE, **KINDS, d_model=16),
        betas=(0.8, 0.95),
        steps=3,
        sequences=1,
        seq_len=16,
        seed=0,
        increment_layers=None,
    )
    rundir = RunDir(tmp_path / config.run_id)
    rundir.write_config(config, execution, {})
    result = Probe(rundir, config, execution).run(StopFlag(), lambda progress: None)
    assert result is not None
    lines = rundir.read_metrics()
    assert [line["step"] for line in lines] == [0, 1, 2, 3]
    assert lines[-1]["loss"] < lines[0]["loss"]


def test_a_sweep_of_the_preset_trains_from_the_command_line(sweep_dir) -> None:
    """flt_quick on its fast path, shrunk to seconds."""
    shrunk = ["schedule.steps=6", "schedule.decay=2", "model.d_model=16", "model.mlp_dim=64", "batch.seq_len=32"]
    shrunk += ["validation.tokens=512", "diverged_above=7", "hydra.launcher.workers=1", "tracking=off"]
    cells = ["panel=loops", "model.loop=LT,FLT", "model.n_loops=2", "optimizer.base_lr=0.02"]
    done = sweep_dir.run("preset=flt_quick", *shrunk, *cells)
    assert done.returncode == 0, done.stderr
    assert [result["state"] for result in sweep_dir.results().values()] == ["done", "done"]
