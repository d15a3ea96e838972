"""The optimizer that a per-tensor table asks for: AdamW, or Muon on the matrices of blocks and AdamW on the rest."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from model.initialization import parameter_groups
from model.parameter_row import ParameterRow

# nanochat's momentum of Muon: from the first to the last over so many steps.
FIRST_MOMENTUM, LAST_MOMENTUM, MOMENTUM_STEPS = 0.85, 0.95, 300


class MuonAdamW:
    """`torch.optim.Muon` and AdamW behind the methods that a training loop calls.

    Muon makes the singular values of an update equal, so it has to be given one matrix at a time. Matrices that stand
    under each other in one parameter (`fused` in `model.layers`: queries, keys and values) are views of it here, each
    a parameter to Muon. The update of a matrix (O, I) is scaled by √max(1, O / I), after Keller Jordan.

    Args:
        by_muon: parameter groups of 2-d parameters.
        by_adamw: parameter groups.
        betas: AdamW's β₁ and β₂.
        fused: how many matrices a parameter holds, by its `id`; 1 if it is not named.
    """

    def __init__(
        self,
        by_muon: Iterable[dict[str, Any]],
        by_adamw: Iterable[dict[str, Any]],
        betas: tuple[float, float],
        fused: dict[int, int],
    ) -> None:
        groups = list(by_muon)
        whole = [parameter for group in groups for parameter in group["params"]]
        self._parts = {p: p.detach().chunk(fused.get(id(p), 1)) for p in whole}
        groups = [{**g, "params": [part for p in g["params"] for part in self._parts[p]], "steps": 0} for g in groups]
        self.muon = torch.optim.Muon(groups)
        self.adamw = torch.optim.AdamW(list(by_adamw), betas=betas, fused=True)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Groups of both, whose `lr` can be changed."""
        return [*self.adamw.param_groups, *self.muon.param_groups]

    def step(self) -> None:
        """One update of every parameter."""
        for group in self.muon.param_groups:
            share = min(1.0, group["steps"] / MOMENTUM_STEPS)
            group["momentum"] = FIRST_MOMENTUM + share * (LAST_MOMENTUM - FIRST_MOMENTUM)
            group["steps"] += 1
        for parameter, parts in self._parts.items():
            if parameter.grad is not None:
                for part, gradient in zip(parts, parameter.grad.chunk(len(parts)), strict=True):
                    part.grad = gradient
        self.muon.step()  # type: ignore[no-untyped-call]
        self.muon.zero_grad()  # the gradients' memory is the parameters' own
        self.adamw.step()

    def register_step_post_hook(self, hook: Callable[..., None]) -> None:
        """Call `hook` after every update, as of `torch.optim.Optimizer`. AdamW's is the last part of one."""
        self.adamw.register_step_post_hook(hook)

    def zero_grad(self) -> None:
        """Drop the gradients of every parameter."""
        self.adamw.zero_grad()
        for parameter in self._parts:
            parameter.grad = None

    def state_dict(self) -> dict[str, Any]:
        """The state of both, as `torch.optim.Optimizer.state_dict`."""
        return {"adamw": self.adamw.state_dict(), "muon": self.muon.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self.adamw.load_state_dict(state["adamw"])
        self.muon.load_state_dict(state["muon"])


Optimizer = torch.optim.AdamW | MuonAdamW


def make_optimizer(model: nn.Module, table: tuple[ParameterRow, ...], betas: tuple[float, float]) -> Optimizer:
    """The optimizer of a model's parameters.

    Args:
        model: on the device where it will be trained.
        table: from `model.parameterization.parameter_table`.
        betas: AdamW's β₁ and β₂.

    Raises:
        ValueError: if table and model do not cover each other.
    """
    groups = parameter_groups(model, table)
    kinds = {row.kind for row in table if row.optimizer == "muon"}
    if not kinds:
        return torch.optim.AdamW(groups, betas=betas, fused=True)
    by_muon = [group for group in groups if group["kind"] in kinds]
    by_adamw = [group for group in groups if group["kind"] not in kinds]
    return MuonAdamW(by_muon, by_adamw, betas, _fused(model))


def _fused(model: nn.Module) -> dict[int, int]:
    """How many matrices parameters hold, by their `id`, where it is more than one."""
    counts: dict[int, int] = {}
    for module in model.modules():
        named: dict[str, int] = getattr(module, "fused", {})
        for name, count in named.items():
            weight: Tensor = module.get_parameter(f"{name}.weight")
            counts[id(weight)] = count
    return counts
