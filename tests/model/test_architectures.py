"""Kinds of block and loop against what their formulas say, written here once more in plain tensors."""

from copy import deepcopy
from dataclasses import replace
from functools import partial
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from model import BLOCKS, LOOPS, ModelConfig, parameter_table
from model.cpu.enable import enable
from model.initialization import initialize_, parameter_groups
from model.layers import PARTS
from model.transformer import LoopedTransformer

EPSILON = 0.3
PRODUCTS = [
    (block, loop)
    for block, loop in product(BLOCKS, LOOPS)
    if LOOPS[loop].is_one_path or not BLOCKS[block].needs_one_path
]
FAMILY = ("LT", "LT_i", "LT_ia", "FLT", "FLT_res")
BASE = {"base_lr": 1e-3, "init_std": 0.2, "eps": 1e-8, "weight_decay": 0.1, "depth_multiplier": 4.0}


def norm(x: Tensor, gain: Tensor | float = 1.0, norm_eps: float = 1e-5) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + norm_eps).sqrt() * gain


def attention(x: Tensor, of: Tensor, qkv: Tensor, out: Tensor, heads: int = 3) -> Tensor:
    """Keys and values from x, queries from `of`."""
    d = x.shape[-1] // heads
    q, k, v = (
        (source @ part.T).unflatten(-1, (heads, d)).transpose(1, 2)
        for source, part in zip((of, x, x), qkv.chunk(3), strict=True)
    )
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


def block_of(
    kind: str, p: dict[str, Tensor], eps: float, m: int, norm_eps: float, x: Tensor, q: Tensor | None
) -> Tensor:
    """One block; q is what queries are made from where that is not what keys are made from."""

    def attend(y: Tensor) -> Tensor:
        return attention(y, y if q is None else q, p["attention.qkv.weight"], p["attention.out.weight"])

    def feed(y: Tensor) -> Tensor:
        return mlp(y, p["mlp.gate_up.weight"], p["mlp.down.weight"])

    def n(name: str, y: Tensor) -> Tensor:
        return norm(y, p[f"{name}_norm.weight"], norm_eps)

    if kind == "pre_norm":
        x = x + eps * attend(n("attention", x))
        return x + eps * feed(n("mlp", x))
    if kind == "sandwich":
        x = x + eps * n("attention_out", attend(n("attention", x)))
        return x + eps * n("mlp_out", feed(n("mlp", x)))
    if kind == "rezero":
        x = x + eps * p["gate.weight"] * attend(x)
        return x + eps * p["gate.weight"] * feed(x)
    alpha = {"post_norm": 1.0, "deepnorm": (2 * m) ** 0.25, "deeploop": (2 * m) ** 0.5}[kind]
    x = n("attention", alpha * x + eps * attend(x))
    return n("mlp", alpha * x + eps * feed(x))


def reference(model: LoopedTransformer, tokens: Tensor, eps: float) -> Tensor:
    """Logits in fp64, from the model's weights and the formulas alone (the second paper's table, and its kin's)."""
    w, config = {name: weight.double() for name, weight in model.named_parameters()}, model.config
    block, loop, n = config.block, config.loop, partial(norm, norm_eps=config.norm_eps)
    blocks = [
        {k.removeprefix(f"blocks.{i}."): v for k, v in w.items() if k.startswith(f"blocks.{i}.")}
        for i in range(config.n_layers)
    ]
    e = w["embedding.weight"][tokens]
    h = e
    for t in range(1, config.n_loops + 1):
        first = t == 1
        queries: list[Tensor | None] = [None] * config.n_layers
        x = h
        if loop == "add" and not first:
            x = h + eps * e
        elif loop == "parcae":
            delta, rate = F.softplus(w["loop.injection.step"]), w["loop.injection.log_rate"].exp()
            be = delta * (e @ w["loop.injection.weight"].T)
            x = be if first else (-delta * rate).exp() * h + eps * be
        elif loop == "boundary":
            x = n(h) + eps * e
        elif loop == "LT_i" and not first:
            x = n(h + eps * e)
        elif loop in FAMILY and (first or loop in ("LT_ia", "FLT", "FLT_res")):
            x = n(e)
        if loop in ("LT_ia", "FLT") and not first:
            queries = [n(h) if i == 0 or loop == "FLT" else None for i in range(config.n_layers)]
        for p, q in zip(blocks, queries, strict=True):
            if loop == "FLT_res" and not first:
                x = n(x + eps * h)
            x = block_of(block, p, eps, config.n_layers * config.n_loops, config.norm_eps, x, q)
        h = n(x) if loop in FAMILY else x
    if loop == "boundary":
        h = n(h) + eps * e
    return n(h, w["final_norm.weight"]) @ w["embedding.weight"].T


def wake(model: LoopedTransformer) -> LoopedTransformer:
    """Gates that start at zero opened, and an injection away from the identity, so that nothing hides."""
    generator = torch.Generator().manual_seed(3)
    for name, parameter in model.named_parameters():
        if "gate" in name:
            parameter.data.fill_(0.7)
        elif "injection" in name:
            parameter.data.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def with_gradients(loss: Tensor, model: LoopedTransformer) -> list[Tensor | None]:
    """The loss, then its gradient for every parameter; None where it does not depend on one."""
    return [loss, *torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)]


def error(found: list[Tensor | None], expected: list[Tensor | None]) -> float:
    """Of the loss or of the whole gradient, whichever is larger, relative to its norm."""
    assert [one is None for one in found] == [one is None for one in expected]
    (loss, gradient), (other_loss, other_gradient) = (
        (one[0], torch.cat([part.flatten() for part in one[1:] if part is not None]).double())
        for one in (found, expected)
    )
    assert loss is not None
    assert other_loss is not None
    of_gradient = (gradient - other_gradient).norm() / other_gradient.norm()
    return max(abs(loss.item() / other_loss.item() - 1), float(of_gradient))


every_architecture = pytest.mark.parametrize(("block", "loop"), PRODUCTS)
every_scale = pytest.mark.parametrize(("n_loops", "eps"), [(1, 1.0), (2, 1.0), (2, 1 / 2), (4, 1.0), (4, 1 / 4)])


@every_scale
@every_architecture
def test_outputs_and_gradients_are_those_of_the_formulas(make_model, tokens, block, loop, n_loops, eps) -> None:
    """At ε = 1 and 1/N, at the paper's σ0 √d_model = 0.554, eager and on the fast path of a CPU.

    In fp32 to 1e-5, or to what the formulas make of thirty times fp32's rounding of the weights: some architectures
    amplify it, at ε = 1 most. In fp64 to a tenth of that: the rotary table stays fp32.
    """
    model = wake(make_model(n_loops=n_loops, init_std=0.113, residual_scale=eps, block=block, loop=loop))

    expected = of_formulas(model, tokens, eps)
    bound = max(1e-5, 30 * error(of_formulas(perturbed(model, 1e-7), tokens, eps), expected))
    assert error(with_gradients(model(tokens, tokens), model), expected) <= bound
    enable(model)
    assert error(with_gradients(model(tokens, tokens), model), expected) <= bound
    model = model.double()  # eager again: the fast path is for fp32
    assert error(with_gradients(model(tokens, tokens), model), expected) <= bound / 10
    torch.testing.assert_close(model(tokens), reference(model, tokens, eps), rtol=1e-5, atol=1e-5)


@every_scale
@every_architecture
def test_where_formulas_amplify_no_rounding_fp32_agrees_to_1e_5(make_model, tokens, block, loop, n_loops, eps) -> None:
    """One layer, narrow weights, and norms that no short vector makes steep; eager and on the fast path of a CPU."""
    tame = {"n_layers": 1, "init_std": 0.06, "norm_eps": 0.1}
    model = wake(make_model(n_loops=n_loops, residual_scale=eps, block=block, loop=loop, **tame))
    expected = of_formulas(model, tokens, eps)
    assert error(with_gradients(model(tokens, tokens), model), expected) <= 1e-5
    enable(model)
    assert error(with_gradients(model(tokens, tokens), model), expected) <= 1e-5


def of_formulas(model: LoopedTransformer, tokens: Tensor, eps: float) -> list[Tensor | None]:
    """Loss and gradients of the reference."""
    logits = reference(model, tokens, eps)
    return with_gradients(F.cross_entropy(logits.flatten(0, 1), tokens.flatten()), model)


def perturbed(model: LoopedTransformer, relative: float) -> LoopedTransformer:
    """A copy in fp64 whose weights are off by that much."""
    other, generator = deepcopy(model).double(), torch.Generator().manual_seed(5)
    for weight in other.parameters():
        weight.data.mul_(1 + relative * torch.randn(weight.shape, generator=generator))
    return other


@pytest.mark.parametrize(("block", "loop"), PRODUCTS)
def test_costs_and_rows_are_those_of_the_model(make_model, block, loop) -> None:
    model = make_model(block=block, loop=loop)
    assert model.config.n_params == sum(parameter.numel() for parameter in model.parameters())
    assert model.config.block_params == sum(parameter.numel() for parameter in model.blocks[0].parameters())
    table = parameter_table(**BASE, applications=4, block=block, loop=loop)
    initialize_(model, table, seed=0)  # raises where rows and parameters do not cover each other
    groups = {group["kind"]: group for group in parameter_groups(model, table)}
    assert groups["block_matrix"]["peak_lr"] == BASE["base_lr"] / 2
    assert groups["block_matrix"]["weight_decay"] == 0.1
    assert groups["embedding"]["peak_lr"] == BASE["base_lr"]


def test_every_part_of_every_kind_can_be_made() -> None:
    parts = {part for kind in (*BLOCKS.values(), *LOOPS.values()) for part in kind.parts.values()}
    assert parts <= set(PARTS)


def test_architectures_differ_from_each_other_beyond_one_loop(make_model, tokens) -> None:
    models = [make_model(n_loops=2, residual_scale=EPSILON, block=b, loop=loop) for b, loop in PRODUCTS]
    logits = [wake(model)(tokens) for model in models]
    for i, one in enumerate(logits):
        assert not any(torch.allclose(one, other, atol=1e-3) for other in logits[:i])


SHAPE = {"vocab_size": 8, "d_model": 4, "n_heads": 1, "mlp_dim": 8, "n_layers": 1}


@pytest.mark.parametrize("loop", LOOPS)
def test_with_one_loop_what_is_one_model_has_one_name(make_model, tokens, loop) -> None:
    name = ModelConfig(**SHAPE, n_loops=1, loop=loop).without_idle_loop().loop
    expected = {"plain": "plain", "add": "plain", "parcae": "parcae", "boundary": "boundary"}
    assert name == expected.get(loop, "LT")
    assert torch.equal(make_model(n_loops=1, loop=loop)(tokens), make_model(n_loops=1, loop=name)(tokens))
    assert ModelConfig(**SHAPE, n_loops=2, loop=loop).without_idle_loop().loop == loop


@pytest.mark.parametrize("block", ["deepnorm", "deeploop"])
@pytest.mark.parametrize("loop", ["FLT", "LT_ia", "FLT_res"])
def test_a_block_made_for_one_long_path_is_refused_where_steps_start_anew(block, loop) -> None:
    with pytest.raises(ValueError, match=rf"block={block} .* loop={loop} .* use one of pre_norm"):
        ModelConfig(**SHAPE, n_loops=2, block=block, loop=loop)


@pytest.mark.parametrize(("block", "exponent"), [("deepnorm", 0.25), ("deeploop", 0.5)])
def test_deepnorm_starts_smaller_the_more_blocks_a_token_passes(make_model, block, exponent) -> None:
    """Values, attention's output and the MLP by (8 L N)^(−exponent), queries and keys not at all."""
    plain, scaled = make_model(n_loops=4).blocks[1], make_model(n_loops=4, block=block).blocks[1]
    beta = (8 * 2 * 4) ** -exponent
    q, k, v = scaled.attention.qkv.weight.chunk(3)
    for found, whole, gain in (
        *zip((q, k, v), plain.attention.qkv.weight.chunk(3), (1.0, 1.0, beta), strict=True),
        (scaled.attention.out.weight, plain.attention.out.weight, beta),
        (scaled.mlp.gate_up.weight, plain.mlp.gate_up.weight, beta),
        (scaled.mlp.down.weight, plain.mlp.down.weight, beta),
    ):
        torch.testing.assert_close(found, gain * whole)
    assert scaled.skip_scale.item() == pytest.approx((2 * 2 * 4) ** exponent)


def test_parcae_starts_with_the_published_numbers(make_model) -> None:
    injection = make_model(loop="parcae").loop.injection
    e = torch.ones(1, 1, 24)
    torch.testing.assert_close(injection.decay(), torch.full((24,), 0.447), atol=1e-3, rtol=0)
    torch.testing.assert_close(injection.input(e), 0.805 * e, atol=1e-3, rtol=0)


def test_rezero_starts_as_the_identity(make_model, tokens) -> None:
    model = make_model(block="rezero")
    e = model.embedding(tokens)
    torch.testing.assert_close(list(model.states(e))[-1], e)


def forget(model: LoopedTransformer) -> LoopedTransformer:
    """The same weights with one loop: it starts at n(e) and remembers nothing of another."""
    once = LoopedTransformer(replace(model.config, n_loops=1))
    once.load_state_dict(model.state_dict())
    return once


def test_on_one_token_flt_is_a_restart_and_on_several_it_is_not(make_model, tokens) -> None:
    """The softmax of one score is 1 whatever the query is, and the state reaches a step through queries alone."""
    model = make_model(n_loops=3, loop="FLT")
    torch.testing.assert_close(model(tokens[:, :1]), forget(model)(tokens[:, :1]))
    difference = (model(tokens) - forget(model)(tokens)).abs().amax((0, 2))
    assert difference[0] < 1e-5
    assert difference[1:].min() > 1e-3


@pytest.mark.parametrize("loop", ["FLT", "LT_ia"])
def test_the_state_of_a_position_reaches_only_its_own_queries(make_model, tokens, loop) -> None:
    """Permuted between positions, the state changes the output; where all scores are equal, it does not."""
    model = make_model(n_loops=2, loop=loop)
    kind, order = LOOPS[loop], torch.randperm(16, generator=torch.Generator().manual_seed(1))
    e = model.embedding(tokens)
    source = kind.source(model.loop, e)
    first = next(model.states(e))

    def second_step(state: Tensor) -> Tensor:
        x, context = kind.start(model.loop, 2, source, state)
        for layers, given in kind.route(range(2), context):
            for layer in layers:
                x = model.blocks[layer](x, model.rotary, *given)
        return x

    assert (second_step(first) - second_step(first[:, order])).abs().max() > 1e-2
    for block in model.blocks:
        block.attention.qkv.weight.data[:24] = 0  # no query, so that scores are equal
    torch.testing.assert_close(second_step(first), second_step(first[:, order]))


def test_lt_i_injects_the_raw_embedding(make_model, tokens) -> None:
    """Ten times the embedding is the same n(e), but not the same n(h + e)."""
    model = make_model(n_loops=2, loop="LT_i")
    kind, e = LOOPS["LT_i"], model.embedding(tokens)
    h = next(model.states(e))
    small, large = (kind.start(model.loop, 2, kind.source(model.loop, scale * e), h)[0] for scale in (1, 10))
    torch.testing.assert_close(small, norm(h + e), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(large, norm(h + 10 * e), rtol=1e-5, atol=1e-5)
    assert (small - large).abs().max() > 0.1


@pytest.mark.parametrize("fast", [False, True], ids=["eager", "fast"])
@pytest.mark.parametrize("loop", LOOPS)
def test_losses_at_other_loop_counts_are_those_of_a_model_with_that_count(make_model, tokens, loop, fast) -> None:
    """Bit for bit at every count, the model's own among them. ε stays as it was trained."""
    model = make_model(n_loops=3, residual_scale=EPSILON, loop=loop)
    if fast:
        enable(model)
    losses = model.losses_by_loops(tokens, tokens, (3, 1, 6))
    with torch.no_grad():
        assert losses[0] == model(tokens, tokens)
        assert [loss.item() for loss in losses] == [model(tokens, tokens, n_loops=n).item() for n in (3, 1, 6)]
        longer = make_model(n_loops=6, residual_scale=EPSILON, loop=loop)
        assert losses[2].item() == pytest.approx(longer(tokens, tokens).item(), rel=1e-5)


def test_losses_of_the_stream_at_the_last_step_are_the_loss(make_model, tokens) -> None:
    for loop in LOOPS:
        model, seen = make_model(n_loops=2, loop=loop), []
        loss = model(tokens, tokens, observe=lambda n, x: seen.append(x))  # noqa: B023
        found = model.token_losses(seen[-1], seen[0], tokens)
        assert found.mean().item() == pytest.approx(loss.item(), rel=1e-6)
