"""Which tensor gets which initialisation, learning rate, AdamW ε and weight decay (the paper's Table 3).

The table is data: `parameter_table` resolves it to numbers, and `model.initialization` reads nothing else. It is part
of a run's identity, which is computed without PyTorch.
"""

from model.blocks import BLOCKS
from model.loop import LOOPS
from model.parameter_row import BaseValues, ParameterRow


def parameter_table(
    *,
    base_lr: float,
    init_std: float,
    eps: float,
    weight_decay: float,
    depth_multiplier: float,
    applications: int = 1,
    block: str = "pre_norm",
    loop: str = "plain",
) -> tuple[ParameterRow, ...]:
    """Table 3 in numbers.

    Blocks scale their rate and their ε by m_L^(−1/2); embedding (the tied head) and final norm do not. Nothing
    depends on the loop count N, apart from the first weights of `model.blocks.DeepNorm`. Weight decay acts on block
    matrices only, where the paper is silent about the rest.
    Kinds of block and loop bring their own rows.

    Args:
        base_lr: η0.
        init_std: σ0.
        eps: ε0 of AdamW.
        weight_decay: ω0.
        depth_multiplier: m_L = L / L_ref.
        applications: L · N, blocks that a token passes through.
        block: kind of block, a name in `model.blocks.BLOCKS`.
        loop: kind of loop, a name in `model.loop.LOOPS`.
    """
    base = BaseValues(base_lr, init_std, eps, weight_decay, depth_multiplier**-0.5, applications)
    return (
        ParameterRow("embedding", r"embedding\.weight", init_std, base_lr, eps, 0.0),
        *BLOCKS[block].parameter_rows(base),
        *LOOPS[loop].parameter_rows(base),
        ParameterRow("final_norm", r"final_norm\.weight", None, base_lr, eps, 0.0),
    )
