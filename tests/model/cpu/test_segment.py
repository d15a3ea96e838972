"""The fast path (compiled blocks, chunked head, recomputation) computes what the plain one does."""

import functools
import gc
import weakref
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from model import LOOPS, RULES, matmul, residual_scale
from model.cpu import head, rewrites, segment
from model.cpu.enable import enable
from model.loop import apply_blocks
from model.loss import capped
from model.transformer import LoopedTransformer

REL = 1e-5  # of the norm, fp32: fused kernels add in another order


def plain_loss(model, tokens, targets) -> torch.Tensor:
    """Uncompiled, all logits at once, nothing recomputed."""
    return F.cross_entropy(model(tokens).flatten(0, 1), targets.flatten())


def gradients(model, loss) -> dict[str, torch.Tensor]:
    loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def assert_close(found: dict[str, torch.Tensor], reference: dict[str, torch.Tensor]) -> None:
    for name, gradient in found.items():
        assert float((gradient - reference[name]).norm()) <= REL * float(reference[name].norm()), name


@pytest.mark.parametrize("loop", LOOPS)
def test_every_loop_agrees_when_it_is_recomputed(make_model, tokens, loop) -> None:
    """`tests/model/test_architectures.py` holds every architecture to its formulas on this path."""
    shape = {"n_loops": 3, "residual_scale": 1 / 3, "loop": loop}
    plain, fast = make_model(**shape), make_model(**shape, recompute=True)
    enable(fast)
    inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
    expected, found = plain_loss(plain, inputs, targets), fast(inputs, targets)
    assert found.item() == pytest.approx(expected.item(), rel=REL)
    assert_close(gradients(fast, found), gradients(plain, expected))


@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("n_loops", [1, 2, 4, 8])
def test_loss_and_gradients_agree(make_model, tokens, n_loops, rule, recompute) -> None:
    shape = {"n_loops": n_loops, "residual_scale": residual_scale(rule, n_loops, 2, ref_layers=2)}
    plain, fast = make_model(**shape), make_model(**shape, recompute=recompute)
    enable(fast)
    inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
    expected, found = plain_loss(plain, inputs, targets), fast(inputs, targets)
    assert found.item() == pytest.approx(expected.item(), rel=REL)
    reference = gradients(plain, expected)
    assert_close(gradients(fast, found), reference)


@pytest.mark.parametrize(("short", "queries"), [(0, 64), (1024, 64), (1024, 6)], ids=["flash", "scores", "by-queries"])
@pytest.mark.parametrize("tokens_per_width", [0, 1e9], ids=["transposed", "as-stored"])
def test_every_spelling_of_a_block_agrees(make_model, tokens, monkeypatch, tokens_per_width, short, queries) -> None:
    monkeypatch.setattr(segment, "SHORT", short)
    monkeypatch.setattr(rewrites, "QUERIES_AT_ONCE", queries)
    monkeypatch.setattr(segment, "TOKENS_PER_WIDTH", tokens_per_width)
    monkeypatch.setattr(segment, "_programs", {})
    plain, fast = make_model(n_loops=2), make_model(n_loops=2)
    enable(fast, head=False)
    inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
    reference = gradients(plain, plain_loss(plain, inputs, targets))
    assert_close(gradients(fast, fast(inputs, targets)), reference)


@pytest.mark.parametrize("tokens_per_width", [0, 1e9], ids=["transposed", "as-stored"])
def test_products_by_onednn_agree(make_model, tokens, monkeypatch, tokens_per_width) -> None:
    by_onednn, shapes = matmul.onednn_mm, []
    monkeypatch.setattr(matmul, "machine_prefers_onednn", lambda: True)
    monkeypatch.setattr(matmul, "FEW", 0)
    monkeypatch.setattr(matmul, "onednn_mm", lambda a, b: shapes.append((a.shape, b.shape)) or by_onednn(a, b))
    monkeypatch.setattr(segment, "TOKENS_PER_WIDTH", tokens_per_width)
    monkeypatch.setattr(segment, "_programs", {})
    monkeypatch.setattr(head, "head_program", head.head_program.__wrapped__)
    plain, fast = make_model(n_loops=2), make_model(n_loops=2)
    enable(fast)
    inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
    expected, found = plain_loss(plain, inputs, targets), fast(inputs, targets)
    assert found.item() == pytest.approx(expected.item(), rel=REL)
    assert_close(gradients(fast, found), gradients(plain, expected))
    # Three products of each of four matrices and the head; two of the square matrix have the same shapes.
    assert len(set(shapes)) == 3 * 5 - 1


def test_one_compiled_block_serves_every_loop_count_rule_and_depth(make_model, tokens) -> None:
    inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()

    def train(**shape) -> int:
        model = make_model(**shape)
        enable(model, head=False)
        model(inputs, targets).backward()
        return len(segment._programs)

    first = train(n_loops=2, residual_scale=0.5)
    assert train(n_loops=5, residual_scale=0.125) == first
    assert train(n_loops=1, n_layers=4, residual_scale=1.0) == first


def test_compiled_stack_shows_an_observer_the_same_stream(make_model, tokens) -> None:
    plain, fast = make_model(n_loops=3), make_model(n_loops=3)
    enable(fast, head=False)
    expected: dict[int, torch.Tensor] = {}
    seen: dict[int, torch.Tensor] = {}
    with torch.no_grad():
        plain(tokens, observe=lambda n, h: expected.update({n: h}))
        fast(tokens, observe=lambda n, h: seen.update({n: h}))
    assert list(seen) == list(expected) == [0, 1, 2, 3]
    for n, h in seen.items():
        assert float((h - expected[n]).norm()) <= REL * float(expected[n].norm())


@pytest.mark.parametrize("gain", [1.0, 300.0], ids=["usual", "far-apart-logits"])
@pytest.mark.parametrize("cap", [None, 2.0], ids=["uncapped", "capped"])
def test_the_compiled_head_is_cross_entropy(make_model, tokens, gain, cap) -> None:
    """With logits hundreds of nats apart too, where most probabilities are zero in fp32."""
    targets, found = tokens.flatten(), {}
    for kind in ("plain", "compiled"):
        model = make_model()
        torch.nn.init.constant_(model.final_norm.weight, gain)
        h = torch.randn(len(targets), 24, generator=torch.Generator().manual_seed(0), requires_grad=True)
        norm, weight = model.final_norm, model.embedding.weight
        if kind == "plain":
            loss = F.cross_entropy(capped(norm(h) @ weight.T, cap), targets)
        else:
            loss = head.compiled_head_loss(h, norm, weight, targets, cap)
        (3 * loss).backward()
        found[kind] = {"loss": loss.detach(), "h": h.grad, "gain": norm.weight.grad, "weight": weight.grad}
    assert (found["plain"]["loss"] > 100) == (gain > 1 and cap is None)
    assert_close(found["compiled"], found["plain"])


def test_a_large_head_is_not_compiled(make_model, tokens, monkeypatch) -> None:
    def never(*_) -> None:
        raise AssertionError

    monkeypatch.setattr(head, "head_program", never)
    monkeypatch.setattr(head, "FEW_LOGITS", 61 * tokens.numel() - 1)
    plain, fast = make_model(), make_model()
    fast.loss_of = head.loss_of
    assert fast(tokens, tokens).item() == pytest.approx(plain_loss(plain, tokens, tokens).item(), rel=REL)


def test_a_head_that_does_not_compile_is_tried_once(make_model, tokens, monkeypatch, caplog) -> None:
    def no_compiler(*_, **__) -> None:
        raise RuntimeError("no g++\nand much more")

    monkeypatch.setattr(head, "compile_parts", no_compiler)
    monkeypatch.setattr(head, "head_program", functools.cache(head.head_program.__wrapped__))
    plain, fast = make_model(), make_model()
    fast.loss_of = head.loss_of
    expected = plain_loss(plain, tokens, tokens).item()
    for _ in range(2):
        assert fast(tokens, tokens).item() == pytest.approx(expected, rel=REL)
    told = [record.message for record in caplog.records if record.name == head.__name__]
    assert told == ["cannot compile the head (no g++); running it uncompiled"]


def test_where_nothing_compiles_the_model_runs_uncompiled(make_model, tokens, monkeypatch, caplog) -> None:
    def no_compiler(*_, **__) -> None:
        raise RuntimeError("no g++\nand much more")

    monkeypatch.setattr(segment, "_programs", {})
    monkeypatch.setattr(segment, "compile_parts", no_compiler)
    plain, fast = make_model(), make_model()
    enable(fast, head=False)
    assert torch.equal(fast(tokens), plain(tokens))
    fast(tokens)
    told = [record.message for record in caplog.records if record.name == segment.__name__]
    assert told == ["cannot compile the block (no g++); running it uncompiled"]


def with_blocks(make_model, make_block, **shape) -> tuple[LoopedTransformer, LoopedTransformer]:
    """The same model twice, its blocks replaced; the second one on the fast path."""
    plain, fast = make_model(**shape), make_model(**shape)
    for model in (plain, fast):
        for layer in range(len(model.blocks)):
            torch.manual_seed(layer)
            model.blocks[layer] = make_block(layer)
    enable(fast, head=False)
    return plain, fast


def assert_same(plain, fast, tokens) -> None:
    inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
    expected, found = plain_loss(plain, inputs, targets), plain_loss(fast, inputs, targets)
    assert found.item() == pytest.approx(expected.item(), rel=REL)
    assert_close(gradients(fast, found), gradients(plain, expected))


def test_every_block_has_its_own_residual_scale(make_model, tokens) -> None:
    plain, fast = make_model(n_layers=3), make_model(n_layers=3)
    for model in (plain, fast):
        for layer, block in enumerate(model.blocks):
            block.residual_scale.fill_(0.2 * (layer + 1))
    enable(fast)
    assert_same(plain, fast, tokens)


class Attending(torch.nn.Module):
    """A block of torch's attention alone, called with whatever arguments a test gives it."""

    def __init__(self, d_model: int = 24, heads: int = 3, **call: Any) -> None:
        super().__init__()
        self.heads, self.call = heads, call
        self.qkv = torch.nn.Linear(d_model, 3 * d_model, bias=False)
        self.register_buffer("mask", torch.ones(15, 15, dtype=torch.bool).triu())

    def forward(self, x: torch.Tensor, rotary: torch.Tensor) -> torch.Tensor:
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1))
        call = self.call | ({"attn_mask": self.mask} if "attn_mask" in self.call else {})
        return x + F.scaled_dot_product_attention(q, k, v, **call).transpose(1, 2).flatten(2)


@pytest.mark.parametrize(
    "call",
    [
        {"is_causal": True},
        {"is_causal": False},
        {},
        {"is_causal": True, "scale": 0.1},
        {"attn_mask": "the buffer"},
    ],
    ids=["causal", "not-causal", "default", "scaled", "masked"],
)
def test_attention_is_the_one_that_was_called(make_model, tokens, monkeypatch, call) -> None:
    monkeypatch.setattr(segment, "_programs", {})
    assert_same(*with_blocks(make_model, lambda layer: Attending(**call)), tokens)
    assert all(programs is not None for programs in segment._programs.values())


class WithBias(torch.nn.Module):
    """A block with a bias, a SiLU in place, a buffer that is added and a plain value that is read."""

    def __init__(self, layer: int) -> None:
        super().__init__()
        self.up, self.factor = torch.nn.Linear(24, 24), 1 + layer
        self.register_buffer("shift", torch.full((24,), 0.1 * layer))

    def forward(self, x: torch.Tensor, rotary: torch.Tensor) -> torch.Tensor:
        return x + self.factor * F.silu(self.up(x), inplace=True) + self.shift


def test_any_block_with_parameters_buffers_and_values_of_its_own(make_model, tokens, monkeypatch) -> None:
    monkeypatch.setattr(segment, "_programs", {})
    assert_same(*with_blocks(make_model, WithBias), tokens)
    assert len(segment._programs) == 2  # two factors


class Untraceable(torch.nn.Module):
    """A block whose path depends on a value."""

    def __init__(self, layer: int) -> None:
        super().__init__()
        self.up = torch.nn.Linear(24, 24)

    def forward(self, x: torch.Tensor, rotary: torch.Tensor) -> torch.Tensor:
        return x + self.up(x) if x.sum().item() > 0 else x - self.up(x)


def test_a_block_that_cannot_be_traced_runs_eagerly_with_one_warning(make_model, tokens, monkeypatch, caplog) -> None:
    monkeypatch.setattr(segment, "_programs", {})
    plain, fast = with_blocks(make_model, Untraceable)
    assert torch.equal(fast(tokens), plain(tokens))
    assert torch.equal(fast(tokens), plain(tokens))
    assert len([record for record in caplog.records if "cannot compile the block" in record.message]) == 1


def test_context_that_needs_a_gradient_gets_it() -> None:
    class Gated(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = torch.nn.Linear(24, 24, bias=False)

        def forward(self, x: torch.Tensor, rotary: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
            return x + self.up(x) * state.sigmoid()

    torch.manual_seed(0)
    blocks, found = torch.nn.ModuleList([Gated(), Gated()]), []
    for apply in (functools.partial(apply_blocks, blocks), segment.CompiledStack(blocks)):
        x, state = (torch.linspace(-1, 1, 2 * 16 * 24).reshape(2, 16, 24).requires_grad_() for _ in range(2))
        y = apply(range(2), x * 1.0, (torch.zeros(2, 16, 4), state))
        found.append(torch.autograd.grad(y.square().sum(), [x, state, *blocks.parameters()]))
    for expected, gradient in zip(*found, strict=True):
        assert float((gradient - expected).norm()) <= REL * float(expected.norm())


def test_double_precision_is_not_for_the_fast_path(make_model, tokens, monkeypatch) -> None:
    monkeypatch.setattr(segment, "programs_for", None)
    monkeypatch.setattr(head, "head_program", None)
    plain, fast = make_model().double(), make_model().double()
    enable(fast)
    assert fast(tokens, tokens).item() == pytest.approx(plain_loss(plain, tokens, tokens).item())
    assert torch.equal(fast(tokens), plain(tokens))


def test_activations_are_dropped_where_they_are_recomputed(make_model, tokens) -> None:
    """What the backward pass holds on to, counted by the tensors that autograd saves."""
    kept = {}
    for recompute in (False, True):
        model = make_model(n_loops=6, recompute=recompute)
        enable(model)
        model(tokens, tokens).backward()  # compiled
        before = live_bytes()
        loss = model(tokens, tokens)
        kept[recompute] = live_bytes() - before
        loss.backward()
    assert kept[True] < 0.25 * kept[False]


def test_a_pass_is_freed_without_the_garbage_collector(make_model, tokens) -> None:
    model = make_model()
    enable(model, head=False)
    model(tokens, tokens).backward()  # compiled
    stacks: list[weakref.ref[segment.CompiledStack]] = []

    def open_stack(blocks: torch.nn.ModuleList) -> segment.CompiledStack:
        stack = segment.CompiledStack(blocks)
        stacks.append(weakref.ref(stack))
        return stack

    model.open_stack = open_stack
    gc.disable()
    try:
        model(tokens, tokens).backward()
        assert [stack() for stack in stacks] == [None]
    finally:
        gc.enable()


def live_bytes() -> int:
    """Bytes of all tensors that Python can reach or autograd holds."""
    gc.collect()
    storages = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in gc.get_objects() if is_tensor(x)}
    return sum(storages.values())


def is_tensor(x: object) -> bool:
    return type(x) in (torch.Tensor, torch.nn.Parameter)
