"""The per-tensor table applied to a model: its first weights, and its optimizer's parameter groups.

The first row whose pattern matches a parameter's name wins; a parameter without a row, or a row without a parameter,
is an error.
"""

import re
from typing import Any

import torch
from torch import nn

from model.parameter_row import ParameterRow

ROWS_AT_ONCE = 4096  # of a tensor just drawn, looked through for what is to be drawn again


def _assign(model: nn.Module, table: tuple[ParameterRow, ...]) -> dict[str, list[nn.Parameter]]:
    """Parameters of every row by its kind, in the model's own order."""
    assigned: dict[str, list[nn.Parameter]] = {row.kind: [] for row in table}
    for name, parameter in model.named_parameters():
        row = next((row for row in table if re.fullmatch(row.pattern, name)), None)
        if row is None:
            raise ValueError(f"parameter {name!r} matches no row of the table ({', '.join(assigned)})")
        assigned[row.kind].append(parameter)
    for kind, parameters in assigned.items():
        if not parameters:
            raise ValueError(f"row {kind!r} of the table matches no parameter")
    return assigned


def initialize_(model: nn.Module, table: tuple[ParameterRow, ...], seed: int) -> None:
    """Initialise in place, from one generator in the model's parameter order.

    The draw does not depend on N, and a deeper stack starts with the shallower one's blocks: runs of one seed
    are paired across loop counts and share a prefix across depths.

    Raises:
        ValueError: if table and model do not cover each other.
    """
    generator = torch.Generator().manual_seed(seed)
    kinds = {id(p): row for row in table for p in _assign(model, table)[row.kind]}
    for parameter in model.parameters():
        row = kinds[id(parameter)]
        if row.init_std is None:
            nn.init.constant_(parameter, row.start)
            continue
        on_cpu = parameter.device.type == "cpu"  # where the draw is made for every device, in place if it can be
        draw = parameter.detach() if on_cpu else torch.empty(parameter.shape)
        _draw_(draw, row.draw, generator)
        draw.mul_(row.init_std)
        for part, gain in zip(draw.chunk(max(1, len(row.part_gains))), row.part_gains, strict=False):
            part.mul_(gain)
        if not on_cpu:
            parameter.detach().copy_(draw)


def _draw_(tensor: torch.Tensor, kind: str, generator: torch.Generator) -> None:
    """Fill a tensor with a draw of standard deviation 1, before it is cut; `eye` takes nothing of the generator."""
    if kind == "eye":
        nn.init.eye_(tensor)
    elif kind == "uniform":
        tensor.uniform_(-(3**0.5), 3**0.5, generator=generator)
    else:
        tensor.normal_(generator=generator)
        # nn.init.trunc_normal_ would draw the whole tensor again
        while kind == "truncated" and (outside := _beyond_three(tensor)).any():
            tensor[outside] = torch.randn(int(outside.sum()), generator=generator)


def _beyond_three(tensor: torch.Tensor) -> torch.Tensor:
    return torch.cat([part.abs() > 3 for part in torch.split(tensor, ROWS_AT_ONCE)])


def parameter_groups(model: nn.Module, table: tuple[ParameterRow, ...]) -> list[dict[str, Any]]:
    """Parameter groups of an optimizer, one a row, with `kind` and `peak_lr` beside torch's own keys.

    Raises:
        ValueError: if table and model do not cover each other.
    """
    assigned = _assign(model, table)
    return [
        {
            "params": assigned[row.kind],
            "kind": row.kind,
            "peak_lr": row.lr,
            "lr": row.lr,
            "eps": row.eps,
            "weight_decay": row.weight_decay,
        }
        for row in table
    ]
