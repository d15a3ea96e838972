"""The gradients of one training step: summed over ranks, clipped and set to zero together."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from model.gpu.weights import adds_to_gradients
from model.optimizer import Optimizer
from sweeper.training.distributed import Ranks

ALIGNMENT = 32  # numbers; a gradient starts at a multiple of it, so that kernels read 128 bytes at once


class Gradients:
    """Each parameter's own gradient, made anew in every step.

    Args:
        model: that is trained.
        optimizer: of its parameters.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.parameters = list(model.parameters())
        self._needed = adds_to_gradients(model)
        self.zero_()

    def sum_over(self, ranks: Ranks, others: Iterable[Tensor]) -> None:
        """Replace gradients, and `others`, by their sums over all ranks."""
        ranks.sum_([*others, *(p.grad for p in self.parameters if p.grad is not None)])

    def clip_(self, bound: float | None) -> Tensor:
        """The norm of all gradients before they are scaled down to `bound`; None for no bound."""
        return torch.nn.utils.clip_grad_norm_(self.parameters, bound or math.inf)

    def zero_(self) -> None:
        """Drop the gradients, or set them to zero where passes add to them."""
        self.optimizer.zero_grad()
        if self._needed:
            for parameter in self.parameters:
                parameter.grad = torch.zeros_like(parameter)


class FlatGradients(Gradients):
    """Gradients as views of one fp32 buffer: one all-reduce, one kernel that sets them to zero.

    Autograd adds to a gradient that is there, so the views stay. The optimizer's own `zero_grad` would drop them. The
    norm is made of the parameters' norms, as without the buffer, so that ranks on CPUs repeat one rank bit for bit.

    Args:
        model: as above.
        optimizer: as above.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer) -> None:
        parameters = list(model.parameters())
        sizes = [-(-p.numel() // ALIGNMENT) * ALIGNMENT for p in parameters]
        self.buffer = torch.zeros(sum(sizes), dtype=torch.float32, device=parameters[0].device)
        parts = torch.split(self.buffer, sizes)
        self._views = [part[: p.numel()].view(p.shape) for part, p in zip(parts, parameters, strict=True)]
        super().__init__(model, optimizer)

    def sum_over(self, ranks: Ranks, others: Iterable[Tensor]) -> None:
        """See `Gradients.sum_over`."""
        ranks.sum_([*others, self.buffer])

    def zero_(self) -> None:
        """Set the buffer to zero, and make each gradient its part of it."""
        self.buffer.zero_()
        for parameter, view in zip(self.parameters, self._views, strict=True):
            parameter.grad = view
