"""The per-tensor table applied to a model: its first weights, and AdamW's parameter groups.

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
            nn.init.ones_(parameter)
            continue
        on_cpu = parameter.device.type == "cpu"  # where the draw is made for every device, in place if it can be
        draw = (parameter.detach() if on_cpu else torch.empty(parameter.shape)).normal_(generator=generator)
        # nn.init.trunc_normal_ would draw the whole tensor again
        while (outside := torch.cat([part.abs() > 3 for part in torch.split(draw, ROWS_AT_ONCE)])).any():
            draw[outside] = torch.randn(int(outside.sum()), generator=generator)
        draw.mul_(row.init_std)
        if not on_cpu:
            parameter.detach().copy_(draw)


def parameter_groups(model: nn.Module, table: tuple[ParameterRow, ...]) -> list[dict[str, Any]]:
    """AdamW parameter groups, one a row, with `kind` and `peak_lr` beside torch's own keys.

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
