"""The fast path (compiled blocks, chunked head, recomputation) computes what the plain one does."""

import functools

import pytest
import torch
import torch.nn.functional as F

from model import RULES, residual_scale
from model.cpu import head, matmul, rewrites, segment

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


@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("n_loops", [1, 2, 4, 8])
def test_loss_and_gradients_agree(make_model, tokens, n_loops, rule, recompute) -> None:
    shape = {"n_loops": n_loops, "residual_scale": residual_scale(rule, n_loops, 2, ref_layers=2)}
    plain, fast = make_model(**shape), make_model(**shape, recompute=recompute)
    fast.compile_blocks()
    fast.compile_head()
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
    monkeypatch.setattr(segment, "programs", segment.programs.__wrapped__)
    plain, fast = make_model(n_loops=2), make_model(n_loops=2)
    fast.compile_blocks()
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
    monkeypatch.setattr(segment, "programs", segment.programs.__wrapped__)
    monkeypatch.setattr(head, "head_program", head.head_program.__wrapped__)
    plain, fast = make_model(n_loops=2), make_model(n_loops=2)
    fast.compile_blocks()
    fast.compile_head()
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
        model.compile_blocks()
        model(inputs, targets).backward()
        return segment.programs.cache_info().misses

    first = train(n_loops=2, residual_scale=0.5)
    assert train(n_loops=5, residual_scale=0.125) == first
    assert train(n_loops=1, n_layers=4, residual_scale=1.0) == first


def test_compiled_stack_shows_an_observer_the_same_stream(make_model, tokens) -> None:
    plain, fast = make_model(n_loops=3), make_model(n_loops=3)
    fast.compile_blocks()
    expected: dict[int, torch.Tensor] = {}
    seen: dict[int, torch.Tensor] = {}
    with torch.no_grad():
        plain(tokens, observe=lambda n, h: expected.update({n: h}))
        fast(tokens, observe=lambda n, h: seen.update({n: h}))
    assert list(seen) == list(expected) == [0, 1, 2, 3]
    for n, h in seen.items():
        assert float((h - expected[n]).norm()) <= REL * float(expected[n].norm())


@pytest.mark.parametrize("gain", [1.0, 300.0], ids=["usual", "far-apart-logits"])
def test_the_compiled_head_is_cross_entropy(make_model, tokens, gain) -> None:
    """With logits hundreds of nats apart too, where most probabilities are zero in fp32."""
    targets, found = tokens.flatten(), {}
    for kind in ("plain", "compiled"):
        model = make_model()
        torch.nn.init.constant_(model.final_norm.weight, gain)
        h = torch.randn(len(targets), 24, generator=torch.Generator().manual_seed(0), requires_grad=True)
        norm, weight = model.final_norm, model.embedding.weight
        if kind == "plain":
            loss = F.cross_entropy(norm(h) @ weight.T, targets)
        else:
            loss = head.compiled_head_loss(h, norm.weight, weight, targets, norm.eps)
        (3 * loss).backward()
        found[kind] = {"loss": loss.detach(), "h": h.grad, "gain": norm.weight.grad, "weight": weight.grad}
    assert (found["plain"]["loss"] > 100) == (gain > 1)
    assert_close(found["compiled"], found["plain"])


def test_a_large_head_is_not_compiled(make_model, tokens, monkeypatch) -> None:
    def never(*_) -> None:
        raise AssertionError

    monkeypatch.setattr(head, "head_program", never)
    monkeypatch.setattr(head, "FEW_LOGITS", 61 * tokens.numel() - 1)
    plain, fast = make_model(), make_model()
    fast.compile_head()
    assert fast(tokens, tokens).item() == pytest.approx(plain_loss(plain, tokens, tokens).item(), rel=REL)


def test_a_head_that_does_not_compile_is_tried_once(make_model, tokens, monkeypatch, caplog) -> None:
    def no_compiler(*_, **__) -> None:
        raise RuntimeError("no g++\nand much more")

    monkeypatch.setattr(head, "compile_parts", no_compiler)
    monkeypatch.setattr(head, "head_program", functools.cache(head.head_program.__wrapped__))
    plain, fast = make_model(), make_model()
    fast.compile_head()
    expected = plain_loss(plain, tokens, tokens).item()
    for _ in range(2):
        assert fast(tokens, tokens).item() == pytest.approx(expected, rel=REL)
    told = [record.message for record in caplog.records if record.name == head.__name__]
    assert told == ["cannot compile the head (no g++); going on without"]


def test_where_nothing_compiles_the_model_runs_uncompiled(make_model, tokens, monkeypatch, caplog) -> None:
    def no_compiler(*_) -> None:
        raise RuntimeError("no g++\nand much more")

    monkeypatch.setattr(segment, "programs", no_compiler)
    plain, fast = make_model(), make_model()
    fast.compile_blocks()
    assert torch.equal(fast(tokens), plain(tokens))
    fast(tokens)
    assert [record.message for record in caplog.records] == ["cannot compile the block (no g++); going on without"]
