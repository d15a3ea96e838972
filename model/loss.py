"""Cross-entropy through the tied head, in token chunks.

At the paper's vocabulary of 128,256 the logits of 2,048 tokens take 1 GiB, and autograd would keep them and their
softmax. Here each chunk of tokens is scored and turned into its gradient in place within the forward pass, so that
memory is one chunk of logits and the head's gradient.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from model.config import CHUNK_LOGITS

CACHED_LOGITS = 2**21  # that a CPU takes through the softmax at once: 8 MiB, and memory is read and written once


class _HeadCrossEntropy(torch.autograd.Function):
    """Mean negative log-likelihood of `targets` under softmax(hidden · weightᵀ)."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, dtype: torch.dtype) -> Tensor:
        needs_grad = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        head = weight.to(dtype)
        loss = hidden.new_zeros((), dtype=torch.float32)
        grad_hidden = torch.empty_like(hidden, dtype=dtype) if needs_grad else None
        grad_head = torch.empty_like(weight) if needs_grad else None
        n_chunks = -(-targets.numel() * weight.shape[0] // CHUNK_LOGITS)
        products = hidden.new_empty(-(-len(hidden) // n_chunks), len(weight), dtype=dtype)
        rows = max(1, CACHED_LOGITS // len(weight)) if hidden.device.type == "cpu" else len(products)
        start = 0
        for h, t in zip(hidden.to(dtype).chunk(n_chunks), targets.chunk(n_chunks), strict=True):  # (C, D), (C,)
            logits = torch.mm(h, head.T, out=products[: len(h)])
            for some, of_some in zip(torch.split(logits, rows), torch.split(t, rows), strict=True):
                loss += _to_gradient_(some, of_some, 1 / len(targets))
            if grad_hidden is None or grad_head is None:
                continue
            torch.mm(logits, head, out=grad_hidden[start : start + len(h)])
            if dtype == weight.dtype:
                grad_head.addmm_(logits.T, h, beta=min(start, 1))
            elif start:
                grad_head += logits.T @ h
            else:
                grad_head.copy_(logits.T @ h)
            start += len(h)
        if grad_hidden is not None:
            ctx.save_for_backward(grad_hidden.to(hidden.dtype), grad_head)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        grad_hidden, grad_head = ctx.saved_tensors
        if torch._C._autograd._get_current_graph_task_keep_graph():  # they may be asked for again
            return grad_hidden * grad, grad_head * grad, None, None
        return grad_hidden.mul_(grad), grad_head.mul_(grad), None, None


def _to_gradient_(logits: Tensor, targets: Tensor, scale: float) -> Tensor:
    """Replace logits (C, V) by the gradient of `scale` times their summed loss; that loss, in fp32."""
    scores = logits.float()  # the same memory in fp32
    scores -= scores.amax(1, keepdim=True)
    column = targets[:, None]
    of_targets = scores.gather(1, column)
    total = scores.exp_().sum(1, keepdim=True)
    scores *= scale / total
    scores.scatter_add_(1, column, scores.new_full((), -scale).expand_as(column))
    if scores is not logits:
        logits.copy_(scores)
    return scale * (total.log() - of_targets).sum()


def head_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Mean next-token loss in nats, without ever holding all logits.

    Products run in the autocast type where autocast is on; softmax and loss are fp32.

    Args:
        hidden: (tokens, d_model), after the final norm.
        weight: (vocab_size, d_model), the tied embedding.
        targets: (tokens,) token ids.

    Returns:
        A scalar, differentiable once in `hidden` and `weight`.
    """
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
    with torch.autocast(device, enabled=False):
        loss: Tensor = _HeadCrossEntropy.apply(hidden, weight, targets, dtype)  # type: ignore[no-untyped-call]
    return loss


def head_token_losses(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Next-token loss of every token in nats, (tokens,); arguments as for `head_cross_entropy`. No gradient."""
    chunk = max(1, CHUNK_LOGITS // weight.shape[0])
    pairs = zip(torch.split(hidden, chunk), torch.split(targets, chunk), strict=True)
    return torch.cat([F.cross_entropy(F.linear(h, weight).float(), t, reduction="none") for h, t in pairs])
