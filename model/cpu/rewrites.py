"""Parts of a block written out for the compiler, as they are fastest on a CPU at small shapes; the same numbers.

`model.layers` writes each of them the usual way. `CpuRewrites` puts these in their place while a block is traced.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from model.matmul import mm

QUERIES_AT_ONCE = 64  # rows of the causal square that are multiplied with every key up to their last


@torch.library.custom_op("loopsweep::product", mutates_args=())
def product(x: Tensor, weight: Tensor, transposed: Tensor) -> Tensor:
    """x (tokens, I) · weightᵀ (I, O), given both layouts of the weight.

    A product of some thousand rows with a small matrix takes up to a third longer where its right side is transposed,
    so the forward pass uses one layout and the backward pass the other. Differentiable in x and weight.
    """
    return mm(x, transposed)


@product.register_fake
def _(x: Tensor, weight: Tensor, transposed: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0])


def _remember(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
    x, weight = ctx.saved_tensors
    fan_out, fan_in = weight.shape
    return mm(grad, weight), mm(x.mT, grad).mT if fan_out > fan_in else mm(grad.mT, x), None


product.register_autograd(_gradients, setup_context=_remember)

DECOMPOSITIONS = {torch.ops.loopsweep.product.default: lambda x, weight, transposed: mm(x, transposed)}  # for inductor


class CpuRewrites(TorchFunctionMode):
    """While it is entered, calls that a block makes are written out as they are fastest.

    - SiLU by its sigmoid, so that the backward pass takes one exponential and not two;
    - causal self-attention by its scores, where a mask is given; elsewhere the flash kernel gets a copy of the values,
      because it reads them faster so and because they would keep queries and keys, rotated since, in memory;
    - linear maps by `product`, where transposed weights are given; also by some rows of such a weight.

    A rewrite applies to the exact call that it knows. Any other call, such as attention that is not causal or has a
    mask of its own, is torch's.

    Args:
        mask: (T, T), added to the scores: 0 where a query sees a key, else −∞.
        transposed: weightᵀ (I, O) of every matrix, by the matrix's `id`.
    """

    def __init__(self, mask: Tensor | None, transposed: Mapping[int, Tensor]) -> None:
        super().__init__()
        self.mask, self.transposed = mask, dict(transposed)
        self._parts: list[Tensor] = []  # alive, so that no other tensor gets their `id`

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Called by torch in place of every function of it."""
        kwargs = kwargs or {}
        if func is F.silu and len(args) == 1 and not any(kwargs.values()):
            return args[0] * torch.sigmoid(args[0])
        if func is F.scaled_dot_product_attention and _is_causal_self_attention(args, kwargs):
            q, k, v = args
            if self.mask is not None and len(self.mask) == q.shape[2]:
                return self._attention(self.mask, q, k, v)
            return func(q, k, v.contiguous(), is_causal=True)
        if func is F.linear and not kwargs and args[2:] in ((), (None,)) and id(args[1]) in self.transposed:
            x, weight = args[:2]
            return product(x.flatten(0, -2), weight, self.transposed[id(weight)]).unflatten(0, x.shape[:-1])
        if func is Tensor.__getitem__ and isinstance(args[1], slice) and id(args[0]) in self.transposed:
            self._parts.append(part := func(*args))
            self.transposed[id(part)] = self.transposed[id(args[0])][:, args[1]]
            return part
        return func(*args, **kwargs)

    @staticmethod
    def _attention(mask: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Causal attention of (B, H, T, D) each; some queries at once, with the keys up to the last of them."""
        parts = []
        for start in range(0, len(mask), QUERIES_AT_ONCE):
            end = min(start + QUERIES_AT_ONCE, len(mask))
            scores = q[:, :, start:end] @ k[:, :, :end].mT * q.shape[-1] ** -0.5 + mask[start:end, :end]
            parts.append(torch.softmax(scores, dim=-1) @ v[:, :, :end])
        return torch.cat(parts, dim=2)


def _is_causal_self_attention(args: Any, kwargs: dict[str, Any]) -> bool:
    """Whether the call is `scaled_dot_product_attention(q, k, v, is_causal=True)` of (B, H, T, D) each."""
    return kwargs == {"is_causal": True} and len(args) == 3 and args[0].dim() == 4 and len({x.shape for x in args}) == 1
