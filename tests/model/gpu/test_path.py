"""The Python path that a GPU takes, on a CPU in bf16: near fp32, and the same whatever the micro-batch."""

from typing import Any

import pytest
import torch

from model import ModelConfig, parameter_table
from model.gpu.enable import enable
from model.initialization import initialize_
from model.optimizer import make_optimizer
from model.transformer import LoopedTransformer

SEQUENCES = 8


def gradient(micro_batch: int, *, bf16: bool, **kinds: Any) -> tuple[float, torch.Tensor]:
    """Loss and whole gradient of eight sequences, in fp32 plainly, or in bf16 by the path of a GPU."""
    shape = {"vocab_size": 300, "d_model": 64, "n_heads": 2, "mlp_dim": 176, "n_layers": 2, "n_loops": 8}
    config = ModelConfig(**shape, max_seq_len=64, residual_scale=1 / 8, **kinds)
    base = {"base_lr": 1e-3, "init_std": 0.07, "eps": 1e-8, "weight_decay": 0.1, "depth_multiplier": 1}
    of_kinds = {"loop": config.loop, "block": config.block, "parts": config.parts}
    table = parameter_table(**base, applications=16, **of_kinds)
    model = LoopedTransformer(config)
    initialize_(model, table, 0)
    if bf16:
        optimizer = make_optimizer(model, table, (0.9, 0.95))
        enable(model, optimizer, compiled=False, fused_loss=True, bf16_weights=True)
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
    rows = torch.randint(300, (SEQUENCES, 65), generator=torch.Generator().manual_seed(3))
    loss = 0.0
    for part in rows.split(micro_batch):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            part_loss = model(part[:, :-1], part[:, 1:]) * (len(part) / SEQUENCES)
        part_loss.backward()
        loss += part_loss.item()
    return loss, torch.cat([p.grad.flatten() for p in model.parameters()])


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("kinds", [{}, {"loop": "FLT"}, {"block": "sandwich"}, {"loop": "parcae"}], ids=str)
def test_it_is_near_fp32_and_does_not_depend_on_the_micro_batch(kinds) -> None:
    """Sums over loops and micro-batches are fp32, and products go into them unrounded, but for Parcae's matrix B.

    That stands outside the blocks, where autocast rounds.
    """
    loss, whole = gradient(SEQUENCES, bf16=False, **kinds)
    in_bf16, of_bf16 = gradient(SEQUENCES, bf16=True, **kinds)
    by_ones, of_ones = gradient(1, bf16=True, **kinds)
    assert abs(in_bf16 / loss - 1) < 1e-2
    assert relative(of_bf16, whole) < 3e-2
    assert abs(by_ones / in_bf16 - 1) < 1e-3
    assert relative(of_ones, of_bf16) < (1e-3 if kinds.get("loop") == "parcae" else 1e-6)
