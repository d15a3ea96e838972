"""bf16 copies of weights, made once a step, and gradients that are added in fp32 where they are.

Under autocast a matrix is cast at every application of its block, L · N times in a forward pass, and its gradient is
rounded to bf16, cast to fp32 and added as often. Here a product reads a bf16 copy, and the gradient's product adds to
the fp32 gradient of the parameter itself, which is read and written once and never rounded. Megatron-LM calls that
gradient accumulation fusion.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from model.gpu.head import add_product_
from model.layers import Linear
from model.optimizer import Optimizer
from model.transformer import LoopedTransformer

# An operation that a compiler keeps whole, and runs on the gradient itself rather than on a copy. One that is defined
# by its schema is called in a tenth of the time of a `torch.library.custom_op`, and a block has four.
_OP = "loopsweep::add_product_"
torch.library.define(_OP, "(Tensor(a!) total, Tensor a, Tensor b, int start) -> ()")


@torch.library.impl(_OP, "CompositeExplicitAutograd")
def _add_product_(total: Tensor, a: Tensor, b: Tensor, start: int) -> None:
    add_product_(total[start : start + len(a)], a, b, first=False)


@torch.library.register_fake(_OP)  # type: ignore[untyped-decorator]
def _(total: Tensor, a: Tensor, b: Tensor, start: int) -> None:
    pass


class _Product(torch.autograd.Function):
    """x · weightᵀ. The gradient of `weight` goes to `total`, from its row `start` on."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, total: Tensor, start: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.total, ctx.start = total, start  # changes before it is used, which saved tensors must not
        return F.linear(x, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        x, weight = ctx.saved_tensors
        torch.ops.loopsweep.add_product_(ctx.total, grad.flatten(0, -2).T, x.flatten(0, -2), ctx.start)
        return grad @ weight, None, None, None


class _Rows(torch.autograd.Function):
    """The rows of `weight` that tokens look up. Their gradients are added to `total`, token by token.

    A GPU adds them in any order, unless `torch.use_deterministic_algorithms` is set.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, total: Tensor, tokens: Tensor) -> Tensor:
        ctx.save_for_backward(tokens)
        ctx.total = total
        return F.embedding(tokens, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None, None]:
        (tokens,) = ctx.saved_tensors
        ctx.total.index_add_(0, tokens.flatten(), grad.flatten(0, -2))
        return None, None, None


class Bf16Linear(Linear):
    """A matrix with a bf16 copy, in bf16. Its parameter is the fp32 one, under the name that it has in `linear`.

    Where the parameter has no gradient to add to, it is what autocast makes of `Linear`.
    """

    def __init__(self, linear: Linear) -> None:
        nn.Module.__init__(self)
        self.weight = linear.weight
        self.bf16: Tensor
        self.register_buffer("bf16", linear.weight.detach().bfloat16(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """See `Linear`."""
        return self.rows(x)

    def rows(self, x: Tensor, start: int = 0, stop: int | None = None) -> Tensor:
        """See `Linear.rows`."""
        total = self.weight.grad
        if total is None:
            return super().rows(x, start, stop)
        product: Tensor = _Product.apply(x.bfloat16(), self.bf16[start:stop], total, start)  # type: ignore[no-untyped-call]
        return product


def look_up(weight: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """`model.transformer.look_up`, whose gradient is added to that of `weight` if it has one."""
    rows: Tensor = F.embedding(tokens, weight) if weight.grad is None else _Rows.apply(weight, weight.grad, tokens)  # type: ignore[no-untyped-call]
    return rows, weight


def use_bf16_copies(model: LoopedTransformer, optimizer: Optimizer) -> None:
    """Give the matrices of blocks bf16 copies, which follow updates and loaded weights.

    The parameters stay, so checkpoints and the optimizer do not differ. A matrix that is not a `model.layers.Linear` is
    left to autocast.

    Args:
        model: changed in place.
        optimizer: of its parameters.
    """
    made = []
    for module in list(model.blocks.modules()):
        for name, child in module.named_children():
            if type(child) is Linear:
                made.append(Bf16Linear(child))
                setattr(module, name, made[-1])
    model.look_up = look_up

    def follow(*_: Any) -> None:
        with torch.no_grad():
            torch._foreach_copy_([one.bf16 for one in made], [one.weight for one in made])

    optimizer.register_step_post_hook(follow)
    model.register_load_state_dict_post_hook(follow)  # type: ignore[no-untyped-call]


def adds_to_gradients(model: nn.Module) -> bool:
    """Whether passes through a model add to gradients that have to be there before, to be summed in fp32."""
    return any(isinstance(module, Bf16Linear) for module in model.modules())
