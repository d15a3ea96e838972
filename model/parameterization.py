"""Which tensor gets which initialisation, learning rate, AdamW ε and weight decay (the paper's Table 3).

The table is data: `parameter_table` resolves it to numbers, and `initialize_` and `parameter_groups` read
nothing else. The first row whose pattern matches a parameter's name wins; a parameter without a row, or a row
without a parameter, is an error. Only `initialize_` and `parameter_groups` need PyTorch, so that the identity
of a run, which the table is part of, can be computed without it.
"""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

ROWS_AT_ONCE = 4096  # of a tensor just drawn, looked through for what is to be drawn again


@dataclass(frozen=True)
class ParameterRow:
    """One kind of tensor, with its numbers resolved.

    Attributes:
        kind: name of the row.
        pattern: regular expression that the whole parameter name must match.
        init_std: σ of the truncated normal, cut at ±3σ; None for gains, which start at 1.
        lr: peak learning rate.
        eps: AdamW's ε.
        weight_decay: AdamW's decoupled weight decay.
    """

    kind: str
    pattern: str
    init_std: float | None
    lr: float
    eps: float
    weight_decay: float


def parameter_table(
    *, base_lr: float, init_std: float, eps: float, weight_decay: float, depth_multiplier: float
) -> tuple[ParameterRow, ...]:
    """Table 3 in numbers.

    Blocks scale their rate and their ε by m_L^(−1/2); embedding (the tied head) and final norm do not. Nothing
    depends on the loop count N. Weight decay acts on block matrices only, where the paper is silent about the rest.

    Args:
        base_lr: η0.
        init_std: σ0.
        eps: ε0 of AdamW.
        weight_decay: ω0.
        depth_multiplier: m_L = L / L_ref.
    """
    depth = depth_multiplier**-0.5
    return (
        ParameterRow("embedding", r"embedding\.weight", init_std, base_lr, eps, 0.0),
        ParameterRow("block_norm", r"blocks\.\d+\.\w+_norm\.weight", None, base_lr * depth, eps * depth, 0.0),
        ParameterRow(
            "block_matrix",
            r"blocks\.\d+\.(attention|mlp)\.\w+\.weight",
            init_std,
            base_lr * depth,
            eps * depth,
            weight_decay,
        ),
        ParameterRow("final_norm", r"final_norm\.weight", None, base_lr, eps, 0.0),
    )


def _assign(model: "nn.Module", table: tuple[ParameterRow, ...]) -> dict[str, list["nn.Parameter"]]:
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


def initialize_(model: "nn.Module", table: tuple[ParameterRow, ...], seed: int) -> None:
    """Initialise in place, from one generator in the model's parameter order.

    The draw does not depend on N, and a deeper stack starts with the shallower one's blocks: runs of one seed
    are paired across loop counts and share a prefix across depths.

    Raises:
        ValueError: if table and model do not cover each other.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    kinds = {id(p): row for row in table for p in _assign(model, table)[row.kind]}
    for parameter in model.parameters():
        row = kinds[id(parameter)]
        if row.init_std is None:
            torch.nn.init.ones_(parameter)
            continue
        on_cpu = parameter.device.type == "cpu"  # where the draw is made for every device, in place if it can be
        draw = (parameter.detach() if on_cpu else torch.empty(parameter.shape)).normal_(generator=generator)
        # torch.nn.init.trunc_normal_ would draw the whole tensor again
        while (outside := torch.cat([part.abs() > 3 for part in torch.split(draw, ROWS_AT_ONCE)])).any():
            draw[outside] = torch.randn(int(outside.sum()), generator=generator)
        draw.mul_(row.init_std)
        if not on_cpu:
            parameter.detach().copy_(draw)


def parameter_groups(model: "nn.Module", table: tuple[ParameterRow, ...]) -> list[dict[str, Any]]:
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
