"""The memory estimate counts what autograd keeps, and decides about recomputation."""

from dataclasses import replace

import pytest
import torch

from model import BLOCKS, ModelConfig, loss
from model.transformer import Block, LoopedTransformer
from sweeper.run import memory
from sweeper.run.memory import GIB, needs_recompute, training_bytes


def kept_bytes(module: torch.nn.Module, call) -> int:
    """Bytes of distinct storages, the module's own aside, that autograd keeps after `call`."""
    own = {tensor.untyped_storage().data_ptr() for tensor in module.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor  # alive, so that no storage is counted for another
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        call()
    return sum(tensor.untyped_storage().nbytes() for pointer, tensor in kept.items() if pointer not in own)


@pytest.mark.parametrize(("precision", "rel"), [("fp32", 0.02), ("bf16", 0.1)])
def test_a_blocks_activations_are_those_that_autograd_keeps(literal_run, precision, rel) -> None:
    """Up to a few numbers a token and, in bf16, the weights' own copies."""
    shape = replace(literal_run.model, d_model=64, n_heads=2, mlp_dim=176, max_seq_len=128)
    block, stream = Block(shape), torch.randn(16, 128, 64, requires_grad=True)
    rotary = LoopedTransformer(shape).rotary

    def forward() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            block(stream, rotary)

    found = kept_bytes(block, forward) / (16 * 128)
    assert found == pytest.approx(BLOCKS["pre_norm"].activation_bytes(shape, precision), rel=rel)


def test_a_chunk_of_logits_is_as_large_as_the_models() -> None:
    assert memory.CHUNK_LOGITS == loss.CHUNK_LOGITS


def test_with_recomputation_memory_hardly_grows_with_n(literal_run) -> None:
    """At the paper's width, depth and vocabulary, 128 tokens."""

    def needed(n_loops: int, *, recompute: bool) -> int:
        shape = ModelConfig(128_256, 768, n_heads=12, mlp_dim=2048, n_layers=12, n_loops=n_loops)
        return training_bytes(replace(literal_run, model=shape), 4, recompute=recompute)

    assert needed(64, recompute=True) < 1.1 * needed(8, recompute=True)
    assert needed(64, recompute=False) > 2 * needed(8, recompute=False)


def test_recomputation_starts_where_the_budget_ends(literal_run) -> None:
    needed = training_bytes(literal_run, 4, recompute=False) / GIB
    assert not needs_recompute(literal_run, 4, needed * 1.01)
    assert needs_recompute(literal_run, 4, needed * 0.99)
    assert not needs_recompute(literal_run, 4, None)
