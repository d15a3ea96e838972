"""bf16 copies of the block matrices, made once a step instead of once a use.

Under autocast a matrix is cast at every application of its block, L · N times in a forward pass. An uncompiled model
also sums its gradients over the loop in bf16. Here blocks hold bf16 leaves, whose gradients arrive and add up in fp32.
The optimizer has the fp32 weights (master weights).
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from model.optimizer import Optimizer
from model.transformer import LoopedTransformer


class MasterWeights:
    """The optimizer of a model whose block matrices are bf16: same calls, and the model's copies follow its updates.

    The model's `state_dict` holds the fp32 weights, and takes them, so checkpoints do not differ.

    A compiler refuses a bf16 tensor that holds an fp32 gradient. So a pass leaves its gradients at the masters, and
    leaves have none between two passes.

    Args:
        model: changed in place: matrices of blocks become bf16 leaves.
        optimizer: of the model's fp32 parameters, as it was before.

    Attributes:
        parameters: the fp32 parameters of the model, which have the gradients.
    """

    def __init__(self, model: LoopedTransformer, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.parameters = list(model.parameters())
        self._leaves: list[Tensor] = []
        masters: dict[str, Tensor] = {}
        for prefix, module in model.blocks.named_modules(prefix="blocks"):
            for name, master in list(module.named_parameters(recurse=False)):
                if master.ndim == 2:
                    leaf = nn.Parameter(master.detach().to(torch.bfloat16))
                    leaf.grad_dtype = torch.float32
                    leaf.register_post_accumulate_grad_hook(partial(_hand_over, master))  # type: ignore[no-untyped-call]
                    setattr(module, name, leaf)
                    self._leaves.append(leaf)
                    masters[f"{prefix}.{name}"] = master
        self._masters = list(masters.values())

        def put_masters(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
            state.update((prefix + name, master.detach()) for name, master in masters.items())

        def take_masters(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
            with torch.no_grad():
                for name, master in masters.items():
                    master.copy_(state[prefix + name])

        model.register_state_dict_post_hook(put_masters)  # type: ignore[no-untyped-call]
        model.register_load_state_dict_pre_hook(take_masters)  # type: ignore[no-untyped-call]

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Those of the optimizer."""
        return self.optimizer.param_groups

    def step(self) -> None:
        """One update of the fp32 weights, then of their copies."""
        self.optimizer.step()
        with torch.no_grad():
            torch._foreach_copy_(self._leaves, self._masters)

    def zero_grad(self) -> None:
        """Drop the gradients of every parameter."""
        self.optimizer.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        """That of the optimizer."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self.optimizer.load_state_dict(state)


def _hand_over(master: Tensor, leaf: Tensor) -> None:
    """Add the gradient of a pass, summed in fp32, to the master's."""
    if master.grad is None:
        master.grad = leaf.grad
    else:
        assert leaf.grad is not None
        master.grad += leaf.grad
    leaf.grad = None
