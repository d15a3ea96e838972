"""Cross-entropy through the head, in token chunks.

At the paper's vocabulary of 128,256 the logits of 2,048 tokens take 1 GiB, and autograd would keep them and their
softmax. Here each chunk of tokens is scored and turned into its gradient in place within the forward pass, so that
memory is one chunk of logits and the head's gradient.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from model.config import CHUNK_LOGITS
from model.matmul import mm, prefers_onednn

CACHED_LOGITS = 2**21  # that a CPU takes through the softmax at once: 8 MiB, and memory is read and written once
ROWS_AT_ONCE = 2**12  # of the head, whose products oneDNN returns before they are put where they belong


class HeadPasses(NamedTuple):
    """How chunks of logits are taken, which differs between devices. The mathematics does not.

    Attributes:
        n_chunks: number of chunks, of (tokens, vocab_size).
        to_gradient_: as `to_gradient_`.
        add_product_: as `add_product_`.
        total: (vocab_size, d_model), to which a backward pass adds the head's gradient; None gives it to autograd.
    """

    n_chunks: Callable[[int, int], int]
    to_gradient_: Callable[[Tensor, Tensor, float, float | None], Tensor]
    add_product_: Callable[..., None]
    total: Tensor | None = None


class _HeadCrossEntropy(torch.autograd.Function):
    """Mean negative log-likelihood of `targets` under softmax(hidden · weightᵀ), whose logits may be capped."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        dtype: torch.dtype,
        cap: float | None,
        passes: HeadPasses,
    ) -> Tensor:
        needs_grad = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        head = weight.to(dtype)
        loss = hidden.new_zeros((), dtype=torch.float32)
        grad_hidden = torch.empty_like(hidden, dtype=dtype) if needs_grad else None
        grad_head = torch.empty_like(weight) if needs_grad else None
        n_chunks = passes.n_chunks(len(targets), len(weight))
        logits_of_chunk = hidden.new_empty(-(-len(hidden) // n_chunks), len(weight), dtype=dtype)
        start = 0
        for h, t in zip(hidden.to(dtype).chunk(n_chunks), targets.chunk(n_chunks), strict=True):  # (C, D), (C,)
            logits = logits_of_chunk[: len(h)]
            _product_(logits, h, head)
            loss += passes.to_gradient_(logits, t, 1 / len(targets), cap)
            if grad_hidden is not None and grad_head is not None:
                grad_hidden[start : start + len(h)] = mm(logits, head)
                passes.add_product_(grad_head, logits.T, h, first=start == 0)
            start += len(h)
        if grad_hidden is not None:
            ctx.save_for_backward(grad_hidden.to(hidden.dtype), grad_head)
            ctx.total = passes.total
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_head = ctx.saved_tensors
        if ctx.total is not None:
            ctx.total.addcmul_(grad_head, grad)
            return grad_hidden * grad, None, None, None, None, None
        if torch._C._autograd._get_current_graph_task_keep_graph():  # they may be asked for again
            return grad_hidden * grad, grad_head * grad, None, None, None, None
        return grad_hidden.mul_(grad), grad_head.mul_(grad), None, None, None, None


def n_chunks(tokens: int, vocab_size: int) -> int:
    """Chunks of at most `CHUNK_LOGITS` logits each."""
    return -(-tokens * vocab_size // CHUNK_LOGITS)


def to_gradient_(logits: Tensor, targets: Tensor, scale: float, cap: float | None) -> Tensor:
    """Replace logits (C, V) by the gradient of `scale` times their summed loss; that loss, in fp32."""
    rows = len(logits)
    if logits.device.type == "cpu" or cap is not None:  # a cap has its slope beside the logits
        at_once = CACHED_LOGITS if logits.device.type == "cpu" else CHUNK_LOGITS // 8
        rows = max(1, at_once // logits.shape[1])
    loss = logits.new_zeros((), dtype=torch.float32)
    for some, of_some in zip(torch.split(logits, rows), torch.split(targets, rows), strict=True):
        scores = some.float()  # the same memory in fp32
        slope = None
        if cap is not None:
            slope = 1 - scores.div_(cap).tanh_().square()
            scores *= cap
        scores -= scores.amax(1, keepdim=True)
        column = of_some[:, None]
        of_targets = scores.gather(1, column)
        total = scores.exp_().sum(1, keepdim=True)
        scores *= scale / total
        scores.scatter_add_(1, column, scores.new_full((), -scale).expand_as(column))
        if slope is not None:
            scores *= slope
        if scores is not some:
            some.copy_(scores)
        loss += scale * (total.log() - of_targets).sum()
    return loss


def _product_(out: Tensor, h: Tensor, head: Tensor) -> None:
    """out (C, V) = h (C, D) · headᵀ (D, V)."""
    if prefers_onednn(h):  # it cannot write there
        for part, of_part in zip(torch.split(out, ROWS_AT_ONCE, dim=1), torch.split(head, ROWS_AT_ONCE), strict=True):
            part.copy_(mm(h, of_part.T))
    else:
        torch.mm(h, head.T, out=out)


def add_product_(total: Tensor, a: Tensor, b: Tensor, *, first: bool) -> None:
    """total (V, D) += a (V, C) · b (C, D); as the first, it replaces what was there."""
    by_parts = prefers_onednn(a)
    if total.dtype == a.dtype and not by_parts:
        total.addmm_(a, b, beta=0 if first else 1)
        return
    rows = ROWS_AT_ONCE if by_parts else len(total)
    for part, of_part in zip(torch.split(total, rows), torch.split(a, rows), strict=True):
        product = mm(of_part, b)
        if first:
            part.copy_(product)
        else:
            part += product


PASSES = HeadPasses(n_chunks, to_gradient_, add_product_)


def capped(logits: Tensor, cap: float | None) -> Tensor:
    """cap · tanh(logits / cap) in fp32, of logits (…, V); without a cap the logits."""
    return logits if cap is None else cap * torch.tanh(logits.float() / cap)


def head_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, cap: float | None = None, passes: HeadPasses = PASSES
) -> Tensor:
    """Mean next-token loss in nats, without ever holding all logits.

    Products run in the autocast type where autocast is on; softmax and loss are fp32.

    Args:
        hidden: (tokens, d_model), after the final norm.
        weight: (vocab_size, d_model), the head.
        targets: (tokens,) token ids.
        cap: of the logits, see `capped`; None for none.
        passes: how chunks are taken; `model.gpu.head` has others.

    Returns:
        A scalar, differentiable once in `hidden` and `weight`.
    """
    device = "cpu" if hidden.is_meta else hidden.device.type  # autocast does not know tensors without memory
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
    with torch.autocast(device, enabled=False):
        loss: Tensor = _HeadCrossEntropy.apply(hidden, weight, targets, dtype, cap, passes)  # type: ignore[no-untyped-call]
    return loss


def weighted_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, weights: Tensor, cap: float | None = None
) -> Tensor:
    """Sum over tokens of their next-token losses in nats, each times its weight: a loss on some tokens only.

    Holds all logits, for the small vocabularies of tasks. Softmax and loss are fp32.

    Args:
        hidden, weight, targets, cap: as for `head_cross_entropy`.
        weights: (tokens,).
    """
    logits = capped(F.linear(hidden, weight).float(), cap)
    return (F.cross_entropy(logits, targets, reduction="none") * weights).sum()


def head_token_losses(hidden: Tensor, weight: Tensor, targets: Tensor, cap: float | None = None) -> Tensor:
    """Next-token loss of every token in nats, (tokens,); arguments as for `head_cross_entropy`. No gradient."""
    chunk = max(1, CHUNK_LOGITS // weight.shape[0])
    pairs = zip(torch.split(hidden, chunk), torch.split(targets, chunk), strict=True)
    losses = [F.cross_entropy(capped(mm(h, weight.T).float(), cap), t, reduction="none") for h, t in pairs]
    return torch.cat(losses)
