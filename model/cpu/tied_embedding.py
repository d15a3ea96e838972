"""One tensor as embedding and head, whose two gradients become one without a second tensor of its size.

Autograd would scatter the lookup's gradient into a tensor as large as the embedding and add that to the head's: at
the paper's vocabulary of 128,256, three passes over 0.4 GB a step for the sake of some thousand rows.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


class _Tied(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(tokens)
        return F.embedding(tokens, weight), weight.view_as(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_rows: Tensor, grad_head: Tensor) -> tuple[Tensor, None]:
        (tokens,) = ctx.saved_tensors
        return grad_head.index_add_(0, tokens.flatten(), grad_rows.flatten(0, -2)), None


def tied(weight: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """The rows of `weight` that tokens look up, and `weight` for the head; differentiable once.

    The rows' gradient is added, token by token, to the tensor that the head's backward pass returns.

    Args:
        weight: (vocab_size, d_model).
        tokens: (…) token ids.

    Returns:
        (…, d_model) and (vocab_size, d_model).
    """
    rows, head = _Tied.apply(weight, tokens)  # type: ignore[no-untyped-call]
    return rows, head
