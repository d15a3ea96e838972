"""Final norm, head and loss for a GPU.

Chunks are as many rows as fill its matrix units. Softmax and gradient are one pass over a chunk once it is compiled.
The gradient of the head is summed in fp32 by the products themselves. Nothing waits for the device.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from model.config import HEAD_ROWS
from model.loss import HeadPasses, capped, head_cross_entropy, weighted_cross_entropy
from model.transformer import FinalNorm


def n_chunks(tokens: int, vocab_size: int) -> int:
    """Chunks of at most `HEAD_ROWS` tokens each."""
    return -(-tokens // HEAD_ROWS)


def to_gradient_(logits: Tensor, targets: Tensor, scale: float, cap: float | None) -> Tensor:
    """`model.loss.to_gradient_` as one expression, for a compiler.

    The gradient is exp(s − ln Σ exp(s)), from the logits again, so that no exponential is written to memory. At the
    paper's vocabulary a compiler that fuses it reads and writes 6 to 8 bytes of memory a bf16 logit.
    """
    scores = capped(logits.float(), cap)
    top = scores.amax(1, keepdim=True)
    log_total = (scores - top).exp().sum(1, keepdim=True).log() + top
    loss = scale * (log_total - scores.gather(1, targets[:, None])).sum()
    hit = targets[:, None] == torch.arange(logits.shape[1], device=logits.device)
    gradient = scale * ((scores - log_total).exp() - hit.float())
    if cap is not None:
        gradient = gradient * (1 - (scores / cap).square())
    logits.copy_(gradient)
    return loss


def add_product_(total: Tensor, a: Tensor, b: Tensor, *, first: bool) -> None:
    """fp32 total (V, D) += a (V, C) · b (C, D), summed in fp32; as the first, it replaces what was there."""
    keep: dict[str, Any] = {"out": total}
    if total.device.type == "cpu":  # its products have the type of their factors
        a, b = a.float(), b.float()
    else:
        keep["out_dtype"] = torch.float32
    if first:
        torch.mm(a, b, **keep)
    else:
        torch.addmm(total, a, b, **keep)


PASSES = HeadPasses(n_chunks, to_gradient_, add_product_)


def loss_of(
    h: Tensor,
    norm: FinalNorm,
    head: Tensor,
    targets: Tensor,
    cap: float | None = None,
    weights: Tensor | None = None,
    *,
    passes: HeadPasses = PASSES,
) -> Tensor:
    """`model.transformer.loss_of` by these passes. Where `weights` choose the tokens, it is the plain one.

    If the head is a parameter that has a gradient, the backward pass adds to it.
    """
    if weights is not None:
        return weighted_cross_entropy(norm(h), head, targets, weights, cap)
    total = head.grad if head.is_leaf else None
    return head_cross_entropy(norm(h), head, targets, cap, passes._replace(total=total))


def compiled_loss_of() -> partial[Tensor]:
    """`loss_of` whose pass over a chunk compiles on its first use."""
    compiled = torch.compile(to_gradient_, dynamic=False, fullgraph=True)
    return partial(loss_of, passes=PASSES._replace(to_gradient_=compiled))
