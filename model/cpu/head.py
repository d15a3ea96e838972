"""Final norm, tied head and loss of a CPU run as one compiled program that returns the loss and its gradients.

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
from model.layers import RMSNorm
from model.matmul import mm
from model.transformer import loss_of as plain_loss_of

FEW_LOGITS = 2**22  # tokens × vocabulary up to which one program is faster than `model.loss`
log = logging.getLogger(__name__)

Program = Callable[[list[Tensor]], list[Tensor]]


@cache
def head_program(tokens: int, d_model: int, vocab_size: int, norm_eps: float) -> Program | None:
    """Takes h (tokens, d_model), the norm's gain, the embedding and the targets, see `compiled_head_loss`.

    Compiled once in a process; it returns the mean loss in nats and its gradients by h, gain and embedding. None where
    it cannot be compiled.
    """

    def apply(h: Tensor, gain: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
        hidden, through_norm, *_ = torch.func.vjp(lambda x, g: F.rms_norm(x, g.shape, g, norm_eps), h, gain)
        logits = mm(hidden, weight.T)  # (tokens, V)
        top = logits.amax(1, keepdim=True)
        exponentials = (logits - top).exp()
        total = exponentials.sum(1, keepdim=True)
        losses = total.log() + top - logits.gather(1, targets[:, None])
        hit = targets.int()[:, None] == torch.arange(vocab_size, dtype=torch.int32)
        grad = (exponentials / total - hit.to(logits.dtype)) / tokens
        return losses.mean(), *through_norm(mm(grad, weight)), mm(grad.T, hidden)

    try:
        with torch.device("cpu"):
            inputs = [torch.zeros(tokens, d_model), torch.ones(d_model), torch.zeros(vocab_size, d_model)]
            inputs.append(torch.zeros(tokens, dtype=torch.int64))
            [program] = compile_parts(make_fx(apply, tracing_mode="fake")(*inputs), inputs, backward=False)
            return program
    except Exception as error:  # as for the block: it costs speed only
        log.warning("cannot compile the head (%s); running it uncompiled", str(error).partition("\n")[0])
        return None


def compiled_head_loss(h: Tensor, gain: Tensor, weight: Tensor, targets: Tensor, norm_eps: float) -> Tensor | None:
    """Mean next-token loss in nats, differentiable once; None where it cannot be compiled or would not be faster.

    Args:
        h: (tokens, d_model), the residual stream after the last loop step.
        gain: (d_model,), of the final norm.
        weight: (vocab_size, d_model), the tied embedding.
        targets: (tokens,) token ids.
        norm_eps: of the final norm.
    """
    program = head_program(*h.shape, len(weight), norm_eps) if len(h) * len(weight) <= FEW_LOGITS else None
    if program is None:
        return None
    loss: Tensor = _Head.apply(program, h, gain, weight, targets)  # type: ignore[no-untyped-call]
    return loss


def loss_of(h: Tensor, norm: RMSNorm, head: Tensor, targets: Tensor) -> Tensor:
    """`model.transformer.loss_of`, by one program where that is possible and pays."""
    if on_cpu_in_fp32(h) and torch.is_grad_enabled():
        loss = compiled_head_loss(h, norm.weight, head, targets, norm.eps)
        if loss is not None:
            return loss
    return plain_loss_of(h, norm, head, targets)


class _Head(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, program: Program, h: Tensor, gain: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        loss, *grads = program([h, gain, weight, targets])
        ctx.save_for_backward(*grads)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return None, *(saved * grad for saved in ctx.saved_tensors), None
