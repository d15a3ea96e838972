"""What a GPU would be asked to do, traced at the paper's sizes on tensors without memory."""

import functools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch._dynamo.utils import counters
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from model import ModelConfig, parameter_table
from model.gpu.enable import enable
from model.optimizer import make_optimizer
from model.transformer import LoopedTransformer
from sweeper.run.flops import attention_flops, training_flops
from sweeper.training.gradients import FlatGradients, Gradients

SEQ_LEN = 1024  # not the paper's 2,048: that is the width of its MLP too, and would hide a square
PAPER = {"vocab_size": 128_256, "d_model": 768, "n_heads": 12, "mlp_dim": 2048}


class FlashAttention(TorchFunctionMode):
    """Attention by the operation that a GPU is told to use; without one torch would take another."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            return torch.ops.aten._scaled_dot_product_flash_attention(*args, is_causal=True)[0]
        return func(*args, **(kwargs or {}))


class Squares(TorchDispatchMode):
    """Operations that returned a matrix of scores, T × T."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, torch.Tensor) and tensor.shape[-2:] == (SEQ_LEN, SEQ_LEN):
                self.seen.add(str(func))
        return out


def optimizer_of(model: LoopedTransformer) -> Any:
    base = {"base_lr": 1e-3, "init_std": 0.02, "eps": 1e-8, "weight_decay": 0.1, "depth_multiplier": 1}
    return make_optimizer(model, parameter_table(**base, applications=1), (0.9, 0.95))


def traced(n_layers: int, n_loops: int, attention: Any) -> tuple[dict[Any, int], set[str]]:
    """FLOPs by operation, and operations that made scores, of one forward and backward pass of one sequence."""
    config = ModelConfig(**PAPER, n_layers=n_layers, n_loops=n_loops, max_seq_len=SEQ_LEN)
    with torch.device("meta"), Squares() as squares, FlopCounterMode(display=False) as counter, attention:
        model = LoopedTransformer(config)
        enable(model, optimizer_of(model), compiled=False, fused_loss=True, bf16_weights=False)
        tokens = torch.zeros(1, SEQ_LEN, dtype=torch.int64)
        model(tokens, tokens).backward()
    return counter.get_flop_counts()["Global"], squares.seen


@pytest.mark.parametrize("n_layers", [12, 24, 48])
@pytest.mark.parametrize("n_loops", [1, 2, 4, 8])
def test_a_cell_of_the_paper_does_the_counted_flops_and_holds_no_scores(n_layers: int, n_loops: int) -> None:
    config = ModelConfig(**PAPER, n_layers=n_layers, n_loops=n_loops, max_seq_len=SEQ_LEN)
    found, squares = traced(n_layers, n_loops, FlashAttention())
    of_attention = sum(flops for op, flops in found.items() if "attention" in str(op))
    assert not squares
    of_gains = 6 * 2 * config.d_model * n_layers * n_loops * SEQ_LEN  # 6 a parameter, but they are in no product
    assert sum(found.values()) - of_attention == training_flops(config, SEQ_LEN) - of_gains
    # The counter takes whole squares, and sees the backward pass make scores again: 7 products, of which 6 count here.
    assert 6 * of_attention == 14 * attention_flops(config, SEQ_LEN, SEQ_LEN)


def test_the_trace_sees_scores_where_they_are_made() -> None:
    class ByHand(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is F.scaled_dot_product_attention:
                q, k, v = args
                return (q @ k.mT).softmax(-1) @ v
            return func(*args, **(kwargs or {}))

    assert traced(1, 1, ByHand())[1]


@pytest.mark.parametrize(("kind", "recompute"), [(Gradients, False), (FlatGradients, False), (FlatGradients, True)])
def test_forty_eight_blocks_compile_to_one_graph_for_training_and_one_without_gradients(
    monkeypatch, kind, recompute
) -> None:
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    torch._dynamo.reset()
    counters.clear()
    config = ModelConfig(vocab_size=61, d_model=16, n_heads=2, mlp_dim=24, n_layers=48, n_loops=2, max_seq_len=8)
    model = LoopedTransformer(config, recompute=recompute)
    optimizer = optimizer_of(model)
    enable(model, optimizer, compiled=True, fused_loss=False, bf16_weights=True)
    gradients = kind(model, optimizer)
    tokens = torch.zeros(2, 8, dtype=torch.int64)
    with torch.autocast("cpu", torch.bfloat16):
        for _ in range(2):
            model(tokens, tokens).backward()
            with torch.no_grad():
                model(tokens, tokens)
            optimizer.step()
            gradients.zero_()
    assert counters["stats"]["unique_graphs"] == 2
    assert not counters["graph_break"]
    torch._dynamo.reset()
