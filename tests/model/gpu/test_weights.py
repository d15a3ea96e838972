"""bf16 copies of fp32 weights: gradients add up where they are and are not rounded, and checkpoints do not differ."""

import re
from contextlib import AbstractContextManager
from copy import deepcopy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch._inductor.async_compile import AsyncCompile
from torch._inductor.utils import run_and_get_code

from model import parameter_table
from model.gpu.enable import enable
from model.gpu.weights import Bf16Linear
from model.layers import Linear
from model.optimizer import Optimizer, make_optimizer
from model.transformer import LoopedTransformer
from sweeper.training.gradients import FlatGradients

TABLE = {"base_lr": 1e-2, "init_std": 0.2, "eps": 1e-8, "weight_decay": 0.1, "depth_multiplier": 1}
KINDS: list[dict[str, Any]] = [
    {},
    {"loop": "FLT"},
    {"block": "sandwich"},
    {"parts": "nanochat"},
    {"loop": "parcae"},
    {"recompute": True},
]


def optimizer_of(model: LoopedTransformer) -> Optimizer:
    kinds = {"block": model.config.block, "loop": model.config.loop, "parts": model.config.parts}
    applications = model.config.n_layers * model.config.n_loops
    return make_optimizer(model, parameter_table(**TABLE, applications=applications, **kinds), (0.9, 0.95))


def with_copies(model: LoopedTransformer, *, compiled: bool = False) -> Optimizer:
    optimizer = optimizer_of(model)
    enable(model, optimizer, compiled=compiled, fused_loss=False, bf16_weights=True)
    return optimizer


def autocast() -> AbstractContextManager[None]:
    """Without its cache, in which the gradients of a cast matrix add up in bf16."""
    return torch.autocast("cpu", torch.bfloat16, cache_enabled=False)


def to_zero(model: LoopedTransformer) -> None:
    """Give it gradients to add to, which are parts of one buffer."""
    FlatGradients(model, optimizer_of(model))


def losses(model: LoopedTransformer, optimizer: Optimizer, tokens: torch.Tensor, n: int, *, add: bool) -> list[float]:
    """Of `n` steps of two micro-batches. To `add` is to have gradients to add to."""
    found = []
    for _ in range(n):
        if add:
            to_zero(model)
        for part in tokens.split(1):
            with autocast():
                loss = model(part, part.roll(1))
            loss.backward()
            found.append(loss.item())
        optimizer.step()
        optimizer.zero_grad()
    return found


def gradient(model: LoopedTransformer, tokens: torch.Tensor) -> torch.Tensor:
    to_zero(model)
    with autocast():
        model(tokens, tokens.roll(1)).backward()
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


@pytest.mark.parametrize("rows", [(0, None), (0, 3), (3, None)], ids=str)
def test_a_matrix_adds_to_its_gradient_the_products_of_bf16_numbers_in_fp32(rows) -> None:
    generator = torch.Generator().manual_seed(0)
    matrix = Linear(4, 7)
    one = Bf16Linear(matrix)
    one.weight.grad = before = torch.randn(7, 4, generator=generator)
    expected = before.clone()
    for _ in range(2):
        x = torch.randn(2, 5, 4, generator=generator, requires_grad=True)
        y = one.rows(x, *rows)
        g = torch.randn(y.shape, generator=generator).bfloat16()
        weight = matrix.weight.bfloat16()[slice(*rows)]
        assert torch.equal(y, F.linear(x.bfloat16(), weight))
        y.backward(g)
        assert torch.equal(x.grad, (g @ weight).float())
        expected[slice(*rows)] += g.float().flatten(0, 1).T @ x.detach().bfloat16().float().flatten(0, 1)
    assert one.weight.grad is before
    torch.testing.assert_close(before, expected, rtol=1e-6, atol=1e-6)  # fp32 sums in another order


@pytest.mark.parametrize("kinds", KINDS, ids=str)
def test_without_gradients_to_add_to_it_is_autocast_bit_for_bit(make_model, tokens, kinds) -> None:
    one, other = make_model(n_loops=3, **kinds), make_model(n_loops=3, **kinds)
    for parameter, expected in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(parameter, expected)
    with_copies(one)
    for model in (one, other):
        with autocast():
            model(tokens, tokens.roll(1)).backward()
    for (name, parameter), expected in zip(one.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(parameter.grad, expected.grad), name


@pytest.mark.parametrize("kinds", KINDS, ids=str)
def test_gradients_are_those_of_autocast_up_to_its_rounding(make_model, tokens, kinds) -> None:
    """To bf16, of up to 2^-8, in each product."""
    one, other = make_model(n_loops=3, **kinds), make_model(n_loops=3, **kinds)
    with_copies(one)
    found, expected = gradient(one, tokens), gradient(other, tokens)
    assert 0 < (found - expected).norm() < 2**-8 * expected.norm()


def test_recomputation_leaves_the_gradient_bit_for_bit(make_model, tokens) -> None:
    plain, recomputed = make_model(n_loops=8), make_model(n_loops=8, recompute=True)
    for model in (plain, recomputed):
        with_copies(model)
    assert torch.equal(gradient(plain, tokens), gradient(recomputed, tokens))


def test_gradients_stay_where_they_are(make_model, tokens) -> None:
    model = make_model(n_loops=2)
    with_copies(model)
    to_zero(model)
    before = [parameter.grad for parameter in model.parameters()]
    with autocast():
        model(tokens, tokens).backward()
    assert all(parameter.grad is one for parameter, one in zip(model.parameters(), before, strict=True))
    assert all(one.any() for one in before)


def of_block(model: LoopedTransformer) -> list[torch.Tensor]:
    """Gradients by one block's matrices, of two passes. Its queries come from elsewhere."""
    generator = torch.Generator().manual_seed(0)
    x, queries = (torch.randn(2, 16, 24, generator=generator, requires_grad=True) for _ in range(2))
    to_zero(model)
    for _ in range(2):
        with autocast():
            model.blocks[0](x, model.rotary, queries).square().sum().backward()
    return [parameter.grad for parameter in model.blocks.parameters() if parameter.ndim == 2]


def test_a_traced_block_adds_to_gradients_what_an_untraced_one_does(make_model) -> None:
    models = [make_model(n_layers=1, loop="FLT") for _ in range(2)]
    for model in models:
        with_copies(model)
    models[1].blocks[0].compile(dynamic=False, fullgraph=True, backend="aot_eager")
    for found, expected in zip(*map(of_block, models), strict=True):
        assert (found - expected).norm() < 1e-2 * expected.norm()  # sums in bf16 are in another order


def test_a_compiler_reads_and_writes_gradients_in_the_products_alone(make_model, monkeypatch) -> None:
    """By the code that it writes: behind the checks of shapes nothing else names a gradient. Kernels are left out."""
    monkeypatch.setattr(AsyncCompile, "cpp_pybinding", lambda *_, **__: lambda *_: None)
    model = make_model(n_layers=1, loop="FLT")
    with_copies(model)
    model.blocks[0].compile(dynamic=False, fullgraph=True)
    without_caches = torch._functorch.config.patch(enable_autograd_cache=False)
    with without_caches, torch._inductor.config.patch(fx_graph_cache=False):
        codes = run_and_get_code(of_block, model)[1]
    [backward] = [code for code in codes if "add_product_" in code]
    lines = [line.strip() for line in backward.partition("def call(")[2].partition("return (")[0].splitlines()]
    totals = [found[1] for line in lines if (found := re.search(r"add_product_\.default\((\w+),", line))]
    assert (len(totals), len(set(totals))) == (5, 4)  # queries apart from keys and values
    others = ("#", "assert_size_stride(", "del ", "torch.ops.loopsweep.add_product_.default(")
    for line in lines:
        if not line.startswith(others) and not line.endswith("= args"):
            assert not set(totals) & set(re.findall(r"\w+", line))


@pytest.mark.parametrize("kinds", [{}, {"parts": "nanochat"}], ids=["AdamW", "Muon"])
def test_a_checkpoint_goes_both_ways_and_copies_follow(make_model, tokens, kinds) -> None:
    first, second, plain = (make_model(seed=seed, **kinds) for seed in range(3))
    trained, resumed, plain_optimizer = with_copies(first), with_copies(second), optimizer_of(plain)
    losses(first, trained, tokens, 2, add=True)
    weights, moments = deepcopy(first.state_dict()), deepcopy(trained.state_dict())
    assert {name: weight.dtype for name, weight in weights.items()} == dict.fromkeys(plain.state_dict(), torch.float32)
    second.load_state_dict(weights)
    resumed.load_state_dict(deepcopy(moments))
    plain.load_state_dict(weights)
    plain_optimizer.load_state_dict(moments)
    expected = losses(first, trained, tokens, 2, add=True)
    assert losses(second, resumed, tokens, 2, add=True) == expected
    assert losses(plain, plain_optimizer, tokens, 2, add=False)[:2] == expected[:2]
    for module in first.modules():
        if isinstance(module, Bf16Linear):
            assert torch.equal(module.bf16, module.weight.bfloat16())
