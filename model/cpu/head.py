"""Final norm, head and loss of a CPU run as one compiled program that returns the loss and its gradients.

At a small vocabulary the passes over the logits take longer than the head's products; compiled, they are fused.
"""

import logging
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.fx.experimental.proxy_tensor import make_fx

from model.cpu.segment import compile_parts, on_cpu_in_fp32
from model.matmul import mm
from model.transformer import FinalNorm
from model.transformer import loss_of as plain_loss_of

FEW_LOGITS = 2**22  # tokens × vocabulary up to which one program is faster than `model.loss`
log = logging.getLogger(__name__)

Program = Callable[[list[Tensor]], list[Tensor]]


@cache
def head_program(
    tokens: int,
    d_model: int,
    vocab_size: int,
    norm_eps: float,
    cap: float | None,
    *,
    has_gain: bool,
    has_weights: bool = False,
) -> Program | None:
    """Takes h (tokens, d_model), the norm's gain if it has one, the head and the targets, see `compiled_head_loss`.

    Also the tokens' weights, if it has them. Compiled once in a process; it returns the loss in nats and its gradients
    by h, gain and head. None where it cannot be compiled.
    """

    def norm(x: Tensor, *gain: Tensor) -> Tensor:
        return F.rms_norm(x, (d_model,), gain[0] if has_gain else None, norm_eps)

    def apply(h: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        *gain, weight, targets = rest[:-1] if has_weights else rest
        weights = rest[-1] if has_weights else None
        hidden, through_norm, *_ = torch.func.vjp(norm, h, *gain)
        logits = mm(hidden, weight.T)  # (tokens, V)
        if cap is not None:
            logits = cap * torch.tanh(logits / cap)
        top = logits.amax(1, keepdim=True)
        exponentials = (logits - top).exp()
        total = exponentials.sum(1, keepdim=True)
        losses = total.log() + top - logits.gather(1, targets[:, None])
        hit = targets.int()[:, None] == torch.arange(vocab_size, dtype=torch.int32)
        grad = exponentials / total - hit.to(logits.dtype)
        grad = grad / tokens if weights is None else grad * weights[:, None]
        if cap is not None:
            grad = grad * (1 - (logits / cap).square())
        loss = losses.mean() if weights is None else (losses[:, 0] * weights).sum()
        return loss, *through_norm(mm(grad, weight)), mm(grad.T, hidden)

    try:
        with torch.device("cpu"):
            gain = [torch.ones(d_model)] if has_gain else []
            inputs = [torch.zeros(tokens, d_model), *gain, torch.zeros(vocab_size, d_model)]
            inputs += [torch.zeros(tokens, dtype=torch.int64), *([torch.zeros(tokens)] if has_weights else [])]
            [program] = compile_parts(make_fx(apply, tracing_mode="fake")(*inputs), inputs, backward=False)
            return program
    except Exception as error:  # as for the block: it costs speed only
        log.warning("cannot compile the head (%s); running it uncompiled", str(error).partition("\n")[0])
        return None


def compiled_head_loss(
    h: Tensor,
    norm: FinalNorm,
    weight: Tensor,
    targets: Tensor,
    cap: float | None = None,
    weights: Tensor | None = None,
) -> Tensor | None:
    """Mean next-token loss in nats, differentiable once; None where it cannot be compiled or would not be faster.

    Args:
        h: (tokens, d_model), the residual stream after the last loop step.
        norm: the final norm.
        weight: (vocab_size, d_model), the head.
        targets: (tokens,) token ids.
        cap: of the logits, see `model.loss.capped`.
        weights: (tokens,), for a weighted sum in place of the mean.
    """
    if len(h) * len(weight) > FEW_LOGITS:
        return None
    gain, constant = list(norm.parameters()), [targets] if weights is None else [targets, weights]
    has = {"has_gain": bool(gain), "has_weights": weights is not None}
    program = head_program(*h.shape, len(weight), norm.eps, cap, **has)
    if program is None:
        return None
    loss: Tensor = _Head.apply(program, len(constant), h, *gain, weight, *constant)  # type: ignore[no-untyped-call]
    return loss


def loss_of(
    h: Tensor,
    norm: FinalNorm,
    head: Tensor,
    targets: Tensor,
    cap: float | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """`model.transformer.loss_of`, by one program where that is possible and pays."""
    if on_cpu_in_fp32(h) and torch.is_grad_enabled():
        loss = compiled_head_loss(h, norm, head, targets, cap, weights)
        if loss is not None:
            return loss
    return plain_loss_of(h, norm, head, targets, cap, weights)


class _Head(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, program: Program, n_constant: int, *inputs: Tensor) -> Tensor:
        """`inputs` are those of the program, the last `n_constant` without a gradient."""
        ctx.n_constant = n_constant
        loss, *grads = program(list(inputs))
        ctx.save_for_backward(*grads)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *(saved * grad for saved in ctx.saved_tensors), *([None] * ctx.n_constant)
