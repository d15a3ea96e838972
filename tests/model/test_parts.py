"""The second paper's parts against plain tensors; their first weights; costs and rows of every kind made of them."""

import math
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from model import BLOCKS, LOOPS, PART_SETS, ModelConfig, parameter_table
from model.cpu.enable import enable
from model.initialization import initialize_
from model.loss import head_token_losses
from model.optimizer import make_optimizer
from model.parameterization import base_rate
from model.transformer import LoopedTransformer

SHAPE = {"parts": "nanochat", "mlp_dim": 96, "rope_theta": 10_000.0}
BASE = {"base_lr": 0.02, "init_std": 24**-0.5, "eps": 1e-10, "weight_decay": 0.0, "depth_multiplier": 1.0}
PRODUCTS = [
    (block, loop)
    for block, loop in product(BLOCKS, LOOPS)
    if LOOPS[loop].is_one_path or not BLOCKS[block].needs_one_path
]


def awake(model: LoopedTransformer) -> LoopedTransformer:
    """All weights drawn anew, so that no branch is 0 and logits reach the cap."""
    generator = torch.Generator().manual_seed(11)
    for name, weight in model.named_parameters():
        std = 3.0 if name == "head.weight" else 1.0 if name == "embedding.weight" else weight.shape[-1] ** -0.5
        weight.data.normal_(std=std, generator=generator)
    return model


def norm(x: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()


def turned(x: Tensor) -> Tensor:
    """(B, H, T, D) by the angle t · 10,000^(−2i/D), as complex numbers."""
    angles = torch.arange(x.shape[2])[:, None] * 10_000.0 ** (-torch.arange(0, x.shape[3], 2) / x.shape[3])
    pairs = torch.view_as_complex(torch.stack(x.chunk(2, -1), -1)) * torch.polar(torch.ones(()), angles)
    return torch.cat(torch.view_as_real(pairs).unbind(-1), -1)


def block(p: dict[str, Tensor], x: Tensor, eps: float, queries: Tensor | None = None) -> Tensor:
    y = norm(x)
    sources = (y if queries is None else queries, y, y)
    q, k, v = (
        (source @ part.T).unflatten(-1, (3, -1)).transpose(1, 2)
        for source, part in zip(sources, p["attention.qkv.weight"].chunk(3), strict=True)
    )
    q, k = norm(turned(q)), norm(turned(k))
    future = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
    weights = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(future, -torch.inf).softmax(-1)
    x = x + eps * (weights @ v).transpose(1, 2).flatten(2) @ p["attention.out.weight"].T
    return x + eps * (norm(x) @ p["mlp.up.weight"].T).relu().square() @ p["mlp.down.weight"].T


def reference(model: LoopedTransformer, tokens: Tensor) -> Tensor:
    """Logits in fp64, for plain, LT and FLT."""
    w, config = {name: weight.double() for name, weight in model.named_parameters()}, model.config
    blocks = [
        {name.removeprefix(f"blocks.{i}."): weight for name, weight in w.items() if name.startswith(f"blocks.{i}.")}
        for i in range(config.n_layers)
    ]
    e = w["embedding.weight"][tokens]
    h = e if config.loop == "plain" else norm(e)
    for n in range(config.n_loops):
        x, queries = h, None
        if config.loop == "FLT" and n > 0:
            x, queries = norm(e), norm(h)
        for p in blocks:
            x = block(p, x, config.residual_scale, queries)
        h = x if config.loop == "plain" else norm(x)
    return 15 * torch.tanh(norm(h) @ w["head.weight"].T / 15)


def with_gradient(loss: Tensor, model: LoopedTransformer) -> tuple[float, Tensor]:
    """The loss, and its gradient by all parameters as one vector."""
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    return loss.item(), torch.cat([gradient.flatten() for gradient in gradients]).double()


@pytest.mark.parametrize("loop", ["plain", "LT", "FLT"])
def test_logits_loss_and_gradients_are_those_of_the_formulas(make_model, tokens, caplog, loop) -> None:
    """Eager, and FLT on the fast path: with the eager loss, and with the compiled one. Logits reach the cap."""
    model = awake(make_model(n_loops=3, residual_scale=0.5, loop=loop, **SHAPE))
    logits = reference(model, tokens)
    assert 14 < logits.abs().max() < 15
    torch.testing.assert_close(model(tokens), logits.float(), rtol=1e-4, atol=1e-4)
    loss, gradient = with_gradient(F.cross_entropy(logits.flatten(0, 1), tokens.flatten()), model)

    def agrees() -> None:
        found, its = with_gradient(model(tokens, tokens), model)
        assert found == pytest.approx(loss, rel=1e-5)
        assert float((its - gradient).norm()) <= 1e-5 * float(gradient.norm())

    agrees()
    if loop == "FLT":
        enable(model, head=False)
        agrees()
        enable(model)
        agrees()
        assert not [record for record in caplog.records if "cannot compile" in record.message]


@pytest.mark.parametrize("fast", [False, True], ids=["eager", "fast"])
def test_the_loss_of_several_loop_counts_and_of_tokens_has_the_cap_too(make_model, tokens, fast) -> None:
    model = awake(make_model(n_loops=2, loop="LT", **SHAPE))
    if fast:
        enable(model)
    with torch.no_grad():
        expected = F.cross_entropy(reference(model, tokens).float().flatten(0, 1), tokens.flatten(), reduction="none")
        states: list[Tensor] = []
        model(tokens, observe=lambda _, h: states.append(h))
        found = model.token_losses(states[-1], states[0], tokens)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model.losses_by_loops(tokens, tokens, (2,))[0], expected.mean(), rtol=1e-4, atol=0)


def test_logits_are_fp32_under_autocast(make_model, tokens) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert make_model(**SHAPE)(tokens).dtype == torch.float32
        assert make_model()(tokens).dtype == torch.bfloat16


def test_token_losses_without_a_cap_are_those_of_before() -> None:
    hidden, weight, targets = torch.randn(5, 8), torch.randn(7, 8), torch.arange(5)
    expected = F.cross_entropy(hidden @ weight.T, targets, reduction="none")
    torch.testing.assert_close(head_token_losses(hidden, weight, targets), expected)


def initialised(n_loops: int = 3, **fields: object) -> LoopedTransformer:
    shape = {"vocab_size": 512, "d_model": 64, "n_heads": 1, "mlp_dim": 256, "n_layers": 2, "n_loops": n_loops}
    config = ModelConfig(**{**shape, "max_seq_len": 16, "parts": "nanochat", **fields})
    model = LoopedTransformer(config)
    initialize_(model, parameter_table(**{**BASE, "init_std": 0.125}, parts="nanochat", optimizer="muon"), seed=0)
    return model


def test_first_weights_are_the_papers() -> None:
    """Five standard errors: σ/√(2n) of a normal's deviation, less of a uniform's, whose bound is √3 σ = √3 / √d."""
    bound = math.sqrt(3 / 64)
    for name, weight in initialised().named_parameters():
        n, std, largest = weight.numel(), float(weight.detach().std()), float(weight.detach().abs().max())
        if name in ("embedding.weight", "head.weight"):
            sigma = 1.0 if name == "embedding.weight" else 0.001
            assert std == pytest.approx(sigma, rel=5 / math.sqrt(2 * n)), name
            assert largest > 3.2 * sigma  # no cut
        elif name.endswith(("qkv.weight", "up.weight")):
            assert std == pytest.approx(0.125, rel=5 / math.sqrt(2 * n)), name
            assert 0.99 * bound < largest <= bound, name
        else:
            assert name.endswith(("out.weight", "down.weight"))
            assert largest == 0, name


@pytest.mark.parametrize("loop", ["LT", "LT_ia", "FLT"])
def test_at_first_every_loop_step_leaves_what_it_starts_with(tokens, loop) -> None:
    """Both output projections are 0, so h = n(e) after every loop step: a probe at initialisation sees nothing."""
    model = initialised(loop=loop)
    e = model.embedding(tokens)
    for state in model.states(e):
        torch.testing.assert_close(state, norm(e), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("block", "loop"), PRODUCTS)
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_costs_and_rows_are_those_of_the_model(make_model, tokens, optimizer, block, loop) -> None:
    config = make_model(block=block, loop=loop).config
    model = LoopedTransformer(ModelConfig(**{**vars(config), **SHAPE}))
    assert model.config.n_params == sum(parameter.numel() for parameter in model.parameters())
    assert model.config.block_params == sum(parameter.numel() for parameter in model.blocks[0].parameters())
    kinds = {"block": block, "loop": loop, "parts": "nanochat", "optimizer": optimizer}
    table = parameter_table(**BASE, applications=4, d_model=24, **kinds)
    initialize_(model, table, seed=0)  # raises where rows and parameters do not cover each other
    assert model(tokens, tokens).isfinite()
    make_optimizer(model, table, (0.8, 0.95))


def test_only_a_blocks_values_and_up_start_smaller_under_deepnorm() -> None:
    beta = (8 * 16) ** -0.25
    rows = {r.kind: r for r in parameter_table(**BASE, applications=16, block="deepnorm", parts="nanochat")}
    assert rows["block_qkv"].part_gains == (1.0, 1.0, pytest.approx(beta))
    assert rows["block_up"].init_std == pytest.approx(beta * 24**-0.5)
    assert (rows["block_out"].init_std, rows["block_out"].start) == (None, 0.0)


@pytest.mark.parametrize(("d_model", "share"), [(768, 1.0), (192, 2.0)])
@pytest.mark.parametrize("base_lr", [0.02, 0.05])
def test_beside_muon_rates_keep_their_ratio_to_the_base_rate(d_model, share, base_lr) -> None:
    """0.02 : 0.2 : 0.004 at d = 768, and AdamW's two by (d / 768)^(−1/2). Depth acts on blocks alone."""
    values = {**BASE, "base_lr": base_lr, "depth_multiplier": 4.0}
    table = parameter_table(**values, parts="nanochat", optimizer="muon", d_model=d_model)
    found = {row.kind: (row.optimizer, row.lr / base_lr, row.eps) for row in table}
    muon = ("muon", pytest.approx(0.5), 1e-7)
    assert found == {
        "embedding": ("adamw", pytest.approx(10 * share), 1e-10),
        "block_qkv": muon,
        "block_up": muon,
        "block_out": muon,
        "head": ("adamw", pytest.approx(0.2 * share), 1e-10),
    }
    assert base_rate(table, d_model) == pytest.approx(base_lr)
    assert base_rate(parameter_table(**values), d_model) == base_lr


def test_muon_needs_a_head_of_its_own() -> None:
    with pytest.raises(ValueError, match=r"optimizer=muon .* parts=llama ties; use parts=nanochat"):
        parameter_table(**BASE, optimizer="muon")


def test_an_unknown_set_of_parts_is_named() -> None:
    with pytest.raises(ValueError, match="parts=gpt is unknown; allowed: llama, nanochat"):
        ModelConfig(8, 4, 1, 8, 1, 1, parts="gpt")


def test_every_part_of_every_set_can_be_made(make_model) -> None:
    for parts in PART_SETS:
        assert make_model(parts=parts, block="sandwich").config.parts == parts
