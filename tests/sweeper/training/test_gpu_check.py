"""The check of a GPU, on a CPU: it passes what is right, and finds a wrong gradient and a run that does not repeat."""

import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from model.gpu.enable import enable
from sweeper.training import gpu_check, trainer
from sweeper.training.gpu_check import FROZEN, RandomTokens, parity, parity_run, repeats, timed
from sweeper.training.setup import initialized


def test_bf16_on_a_cpu_is_within_the_bars_of_fp32(execution) -> None:
    """Executed as a run of another depth is: seven layers do not divide the two of the small model."""
    found = parity(replace(execution, recompute=True, recompute_layers=7), "bf16")
    assert found["passed"]
    assert 1e-5 < found["loss"] < 3e-3
    assert 1e-3 < found["gradient"] < 2e-2


@pytest.mark.parametrize("fused_loss", [False, True])
@pytest.mark.parametrize("bf16_weights", [False, True])
def test_the_python_path_of_a_gpu_is_within_the_bars(execution, fused_loss, bf16_weights, monkeypatch) -> None:
    def as_on_a_gpu(*args, **options):
        model, optimizer = initialized(*args, **options)
        enable(model, optimizer, compiled=False, fused_loss=fused_loss, bf16_weights=bf16_weights)
        return model, optimizer

    monkeypatch.setattr(trainer, "initialized", as_on_a_gpu)
    assert parity(execution, "bf16")["passed"]


def test_the_frozen_numbers_are_those_of_this_code(execution) -> None:
    """To what a CPU with other instructions rounds differently."""
    found = parity(execution, "fp32")
    assert found["loss"] < 1e-4
    assert found["gradient"] < 1e-4


def test_a_wrong_gradient_of_one_matrix_is_found(execution, tmp_path, monkeypatch) -> None:
    record = json.loads(FROZEN.read_text())
    of_matrix = record["gradient"]["blocks.1.mlp.down.weight"]
    of_matrix["onto"] = [1.5 * value for value in of_matrix["onto"]]
    monkeypatch.setattr(gpu_check, "FROZEN", tmp_path / "frozen.json")
    gpu_check.FROZEN.write_text(json.dumps(record))
    assert not parity(execution, "fp32")["passed"]


def test_a_loss_that_is_no_number_does_not_pass(execution, monkeypatch) -> None:
    record = json.loads(FROZEN.read_text())
    monkeypatch.setattr(gpu_check, "measured", lambda *_: {**record, "losses": [math.nan] * len(record["losses"])})
    assert not parity(execution, "bf16")["passed"]


def test_projections_have_the_distance_of_the_gradients() -> None:
    draw = np.random.default_rng(0)
    one, other = (torch.from_numpy(draw.normal(size=(300, 200))) for _ in range(2))
    onto = [gpu_check._projected("name", gradient)["onto"] for gradient in (one, other)]
    distance = math.sqrt(np.mean(np.subtract(*onto) ** 2))
    assert distance == pytest.approx(float((one - other).norm()), rel=0.5)  # 16 projections


def test_a_resumed_run_repeats_and_one_that_reads_other_data_does_not(execution, monkeypatch) -> None:
    assert repeats(execution, "bf16") == {"losses": True, "weights": True}
    calls, plain = itertools.count(), RandomTokens.sequences
    monkeypatch.setattr(
        RandomTokens, "sequences", lambda self, first, *others: plain(self, first + 1000 * next(calls), *others)
    )
    assert repeats(execution, "bf16") == {"losses": False, "weights": False}


def test_a_few_micro_batches_stand_for_a_step(execution) -> None:
    config = replace(parity_run("bf16"), batch_sequences=64)
    found = timed(config, replace(execution, micro_batch=2))
    assert found["sequences"] == 8
    assert found["tokens_per_second"] == pytest.approx(8 * config.seq_len / found["seconds"])
    assert "mfu" not in found  # of a CPU
