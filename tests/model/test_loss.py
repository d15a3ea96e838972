"""The chunked head loss is cross-entropy, and never holds all logits."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from model import loss as loss_module
from model.loss import head_cross_entropy

N_TOKENS, D_MODEL, VOCAB = 37, 16, 101


@pytest.fixture
def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(N_TOKENS, D_MODEL, generator=generator, requires_grad=True)
    weight = torch.randn(VOCAB, D_MODEL, generator=generator, requires_grad=True)
    return hidden, weight, torch.randint(VOCAB, (N_TOKENS,), generator=generator)


def value_and_gradients(function, inputs, upstream: float = 1.0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    hidden, weight, targets = inputs
    value = function(hidden, weight, targets)
    return value.detach(), *torch.autograd.grad(value * upstream, (hidden, weight))


def plain(hidden, weight, targets, cap=None):
    logits = hidden @ weight.T
    return F.cross_entropy(logits if cap is None else cap * torch.tanh(logits / cap), targets)


@pytest.mark.parametrize("tokens_at_once", [1, 5, N_TOKENS, 1000])
@pytest.mark.parametrize("cached_tokens", [1, 3, 1000])
@pytest.mark.parametrize("upstream", [1.0, -0.3])
@pytest.mark.parametrize("cap", [None, 3.0], ids=["uncapped", "capped"])
def test_value_and_both_gradients_equal_cross_entropy(
    inputs, monkeypatch, tokens_at_once, cached_tokens, upstream, cap
) -> None:
    """Logits are about √d_model = 4, so that a cap of 3 bends most of them."""
    monkeypatch.setattr(loss_module, "CHUNK_LOGITS", tokens_at_once * VOCAB)
    monkeypatch.setattr(loss_module, "CACHED_LOGITS", cached_tokens * VOCAB)
    found = value_and_gradients(partial(head_cross_entropy, cap=cap), inputs, upstream)
    expected = value_and_gradients(partial(plain, cap=cap), inputs, upstream)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)  # fp32 sums in another order


def test_fp64_passes_gradcheck(inputs, monkeypatch) -> None:
    monkeypatch.setattr(loss_module, "CHUNK_LOGITS", 3 * VOCAB)
    hidden, weight, targets = inputs
    a, b = (x.detach()[:7].double().requires_grad_() for x in (hidden, weight))
    assert torch.autograd.gradcheck(
        lambda h, w: head_cross_entropy(h, w, targets[:7] % 7).double(), (a, b), eps=1e-2, atol=1e-3
    )  # the value itself is fp32


class Largest(TorchDispatchMode):
    """Elements of the largest tensor that any operation returned."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return out


@pytest.mark.parametrize("function", [head_cross_entropy, partial(head_cross_entropy, cap=2.0), plain])
def test_only_a_chunk_of_logits_is_ever_alive(monkeypatch, function) -> None:
    n_tokens, vocab, at_once = 512, 300, 20
    monkeypatch.setattr(loss_module, "CHUNK_LOGITS", at_once * vocab)
    hidden = torch.randn(n_tokens, 4, requires_grad=True)
    weight = torch.randn(vocab, 4, requires_grad=True)
    with Largest() as largest:
        function(hidden, weight, torch.zeros(n_tokens, dtype=torch.int64)).backward()
    # The plain loss shows that the probe would see them.
    assert largest.elements == (n_tokens * vocab if function is plain else at_once * vocab)


def test_without_gradients_only_the_value_is_computed(inputs) -> None:
    hidden, weight, targets = inputs
    with torch.no_grad():
        loss = head_cross_entropy(hidden, weight, targets)
    assert not loss.requires_grad
    torch.testing.assert_close(loss, plain(hidden, weight, targets).detach(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("cap", [None, 3.0], ids=["uncapped", "capped"])
def test_autocast_is_close_and_keeps_fp32_gradients(inputs, cap) -> None:
    def autocast(*args):
        with torch.autocast("cpu", torch.bfloat16):
            return head_cross_entropy(*args, cap)

    found, expected = value_and_gradients(autocast, inputs), value_and_gradients(partial(plain, cap=cap), inputs)
    assert all(x.dtype == torch.float32 for x in found)
    # bf16 keeps 8 bits: products are off by 2⁻⁸ relative, logits here are about √d_model = 4.
    torch.testing.assert_close(found[0], expected[0], rtol=1e-2, atol=0)
    for a, b in zip(found[1:], expected[1:], strict=True):
        assert float((a - b).norm() / b.norm()) < 2e-2


def test_large_logits_stay_finite() -> None:
    hidden, weight = torch.full((3, 4), 100.0), torch.eye(4).repeat(2, 1) * 100
    assert math.isfinite(head_cross_entropy(hidden, weight, torch.tensor([0, 1, 2])))
