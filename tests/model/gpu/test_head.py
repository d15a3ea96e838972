"""The passes over the logits that a GPU takes are cross-entropy, need little memory traffic and wait for nothing."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch._inductor import metrics
from torch.utils._python_dispatch import TorchDispatchMode

from model.gpu import head
from model.loss import head_cross_entropy

N_TOKENS, D_MODEL, VOCAB = 37, 16, 101


@pytest.fixture
def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(N_TOKENS, D_MODEL, generator=generator, requires_grad=True)
    weight = torch.randn(VOCAB, D_MODEL, generator=generator, requires_grad=True)
    return hidden, weight, torch.randint(VOCAB, (N_TOKENS,), generator=generator)


def value_and_gradients(function, inputs, upstream: float = 1.0) -> tuple[torch.Tensor, ...]:
    hidden, weight, targets = inputs
    value = function(hidden, weight, targets)
    return value.detach(), *torch.autograd.grad(value * upstream, (hidden, weight))


def plain(hidden, weight, targets, cap=None):
    logits = hidden @ weight.T
    return F.cross_entropy(logits if cap is None else cap * torch.tanh(logits / cap), targets)


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.float() - expected).norm() / expected.norm())


@pytest.mark.parametrize("rows", [1, 5, N_TOKENS, 1000])
@pytest.mark.parametrize("cap", [None, 3.0], ids=["uncapped", "capped"])
def test_value_and_both_gradients_equal_cross_entropy(inputs, monkeypatch, rows, cap) -> None:
    monkeypatch.setattr(head, "HEAD_ROWS", rows)
    found = value_and_gradients(partial(head_cross_entropy, cap=cap, passes=head.PASSES), inputs, -0.3)
    expected = value_and_gradients(partial(plain, cap=cap), inputs, -0.3)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)  # fp32 sums in another order


@pytest.mark.parametrize("cap", [None, 3.0], ids=["uncapped", "capped"])
def test_compiled_and_in_bf16_it_is_cross_entropy_up_to_the_rounding_of_bf16(inputs, cap) -> None:
    of = partial(head.compiled_loss_of(), norm=lambda x: x, cap=cap)
    with torch.autocast("cpu", torch.bfloat16):
        found = value_and_gradients(lambda hidden, weight, targets: of(hidden, head=weight, targets=targets), inputs)
    expected = value_and_gradients(partial(plain, cap=cap), inputs)
    assert relative(found[0], expected[0]) < 1e-2
    assert all(relative(a, b) < 3e-2 for a, b in zip(found[1:], expected[1:], strict=True))
    assert found[0].dtype == found[2].dtype == torch.float32


def test_the_gradient_of_the_head_is_summed_in_fp32(inputs, monkeypatch) -> None:
    """Every chunk's share is a sum of products of bf16 numbers: chunks of one token give what one chunk gives."""
    gradients = []
    for rows in (1, 1000):
        monkeypatch.setattr(head, "HEAD_ROWS", rows)
        with torch.autocast("cpu", torch.bfloat16):
            gradients.append(value_and_gradients(partial(head_cross_entropy, passes=head.PASSES), inputs)[2])
    assert relative(*gradients) < 1e-6


@pytest.mark.parametrize("keep", [False, True], ids=["once", "twice"])
def test_what_the_head_has_of_a_gradient_stays_and_its_own_is_added(inputs, monkeypatch, keep) -> None:
    monkeypatch.setattr(head, "HEAD_ROWS", 5)
    hidden, weight, targets = inputs
    _, of_hidden, of_weight = value_and_gradients(plain, inputs, -0.3)
    weight.grad = before = torch.ones_like(weight)
    loss = head.loss_of(hidden, lambda h: h, weight, targets) * -0.3
    times = 2 if keep else 1
    for _ in range(times):
        loss.backward(retain_graph=keep)
    assert weight.grad is before
    torch.testing.assert_close(weight.grad, 1 + times * of_weight, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(hidden.grad, times * of_hidden, rtol=1e-5, atol=1e-6)


class Asked(TorchDispatchMode):
    """Operations that wait for a device to give a number to Python."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._local_scalar_dense.default:
            self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


def test_nothing_waits_for_the_device(inputs) -> None:
    with Asked() as asked:
        value_and_gradients(partial(head_cross_entropy, passes=head.PASSES), inputs)
    assert not asked.seen


def test_a_compiler_takes_softmax_and_gradient_in_eight_bytes_a_logit() -> None:
    """By the compiler's own count of its fused kernels, at the paper's vocabulary. That of a GPU fuses one read more.

    Per row it is the same for 4,096 tokens. The products before and behind it are not counted.
    """
    rows, vocab_size = 16, 128_256
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(rows, vocab_size, generator=generator).bfloat16()
    targets = torch.randint(vocab_size, (rows,), generator=generator)
    metrics.reset()
    torch._logging.set_logs(inductor_metrics=True)
    try:
        with torch._inductor.config.patch(force_disable_caches=True):
            torch.compile(head.to_gradient_, dynamic=False, fullgraph=True)(logits, targets, 1 / rows, None)
    finally:
        torch._logging.set_logs()
    assert 0 < metrics.num_bytes_accessed / (rows * vocab_size) < 8.01
