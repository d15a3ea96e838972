"""Kinds of block and loop against what their formulas say, written here once more in plain tensors."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from model import BLOCKS, LOOPS, ModelConfig, parameter_table
from model.initialization import initialize_, parameter_groups
from model.layers import PARTS
from model.transformer import LoopedTransformer

EPSILON = 0.3
PRODUCTS = [(block, loop) for block in BLOCKS for loop in LOOPS]
BASE = {"base_lr": 1e-3, "init_std": 0.2, "eps": 1e-8, "weight_decay": 0.1, "depth_multiplier": 4.0}


def norm(x: Tensor, gain: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * gain


def attention(x: Tensor, qkv: Tensor, out: Tensor, heads: int = 3) -> Tensor:
    d = x.shape[-1] // heads
    q, k, v = (part.unflatten(-1, (heads, d)).transpose(1, 2) for part in (x @ qkv.T).chunk(3, -1))
    angles = torch.arange(x.shape[1])[:, None] * 500_000.0 ** (-torch.arange(0, d, 2) / d)
    turned = [
        torch.view_as_complex(torch.stack(part.chunk(2, -1), -1)) * torch.polar(torch.ones(()), angles)
        for part in (q, k)
    ]
    q, k = (torch.cat(torch.view_as_real(part).unbind(-1), -1) for part in turned)
    scores = (q @ k.mT / d**0.5).masked_fill(torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1), -torch.inf)
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2) @ out.T


def mlp(x: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    gate, up = (x @ gate_up.T).chunk(2, -1)
    return (F.silu(gate) * up) @ down.T


def reference(model: LoopedTransformer, tokens: Tensor, block: str, loop: str) -> Tensor:
    """Logits, from the model's weights and the formulas alone."""
    w = dict(model.named_parameters())
    e = w["embedding.weight"][tokens]
    h = e
    for n in range(model.config.n_loops):
        x = h + EPSILON * e if loop == "add" and n > 0 else h
        for i in range(model.config.n_layers):
            p = {name.removeprefix(f"blocks.{i}."): value for name, value in w.items()}
            g1, g2 = p["attention_norm.weight"], p["mlp_norm.weight"]
            a = (p["attention.qkv.weight"], p["attention.out.weight"])
            m = (p["mlp.gate_up.weight"], p["mlp.down.weight"])
            if block == "pre_norm":
                x = x + EPSILON * attention(norm(x, g1), *a)
                x = x + EPSILON * mlp(norm(x, g2), *m)
            else:
                x = norm(x + EPSILON * attention(x, *a), g1)
                x = norm(x + EPSILON * mlp(x, *m), g2)
        h = x
    return norm(h, w["final_norm.weight"]) @ w["embedding.weight"].T


@pytest.mark.parametrize("n_loops", [1, 2, 4])
@pytest.mark.parametrize(("block", "loop"), PRODUCTS)
def test_outputs_and_gradients_are_those_of_the_formulas(make_model, tokens, block, loop, n_loops) -> None:
    model = make_model(n_loops=n_loops, residual_scale=EPSILON, block=block, loop=loop)
    found, expected = model(tokens), reference(model, tokens, block, loop)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    weights = list(model.parameters())
    for gradient, other in zip(
        *(torch.autograd.grad(F.cross_entropy(x.flatten(0, 1), tokens.flatten()), weights) for x in (found, expected)),
        strict=True,
    ):
        assert float((gradient - other).norm()) <= 1e-5 * float(other.norm())


@pytest.mark.parametrize(("block", "loop"), PRODUCTS)
def test_costs_and_rows_are_those_of_the_model(make_model, block, loop) -> None:
    model = make_model(block=block, loop=loop)
    assert model.config.n_params == sum(parameter.numel() for parameter in model.parameters())
    assert model.config.block_params == sum(parameter.numel() for parameter in model.blocks[0].parameters())
    table = parameter_table(**BASE, block=block, loop=loop)
    initialize_(model, table, seed=0)  # raises where rows and parameters do not cover each other
    groups = {group["kind"]: group for group in parameter_groups(model, table)}
    assert groups["block_matrix"]["peak_lr"] == BASE["base_lr"] / 2
    assert groups["block_matrix"]["weight_decay"] == 0.1
    assert groups["embedding"]["peak_lr"] == BASE["base_lr"]


def test_every_part_of_every_kind_can_be_made() -> None:
    parts = {part for kind in (*BLOCKS.values(), *LOOPS.values()) for part in kind.parts.values()}
    assert parts <= set(PARTS)


def test_architectures_differ_from_each_other_beyond_one_loop(make_model, tokens) -> None:
    logits = [make_model(n_loops=2, residual_scale=EPSILON, block=b, loop=loop)(tokens) for b, loop in PRODUCTS]
    for i, one in enumerate(logits):
        assert not any(torch.allclose(one, other, atol=1e-3) for other in logits[:i])


@pytest.mark.parametrize("loop", LOOPS)
def test_with_one_loop_what_is_the_plain_model_has_its_name(make_model, tokens, loop) -> None:
    shape = {"vocab_size": 8, "d_model": 4, "n_heads": 1, "mlp_dim": 8, "n_layers": 1}
    config = ModelConfig(**shape, n_loops=1, loop=loop)
    assert config.without_idle_loop().loop == "plain"
    assert torch.equal(make_model(n_loops=1, loop=loop)(tokens), make_model(n_loops=1)(tokens))
    assert ModelConfig(**shape, n_loops=2, loop=loop).without_idle_loop().loop == loop
