"""Which tensor gets which initialisation, learning rate, AdamW ε and weight decay (the paper's Table 3).

The table is data: `parameter_table` resolves it to numbers, and `model.initialization` reads nothing else. It is part
of a run's identity, which is computed without PyTorch.
"""

from model.blocks import BLOCKS
from model.loop import LOOPS
from model.parameter_row import EMBEDDING_RATIO, TUNED_WIDTH, BaseValues, ParameterRow, adamw_ratio
from model.parts import PART_SETS


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
    parts: str = "llama",
    optimizer: str = "adamw",
    d_model: int = TUNED_WIDTH,
) -> tuple[ParameterRow, ...]:
    """Table 3 in numbers.

    Blocks scale their rate and their ε by m_L^(−1/2); embedding, final norm and head do not. Nothing
    depends on the loop count N, apart from the first weights of `model.blocks.DeepNorm`. Weight decay acts on block
    matrices only, where the paper is silent about the rest.
    Kinds of block and loop and sets of parts bring their own rows.

    Muon takes the blocks' matrices with η0. AdamW's rates are multiples of η0 then, so that a learning-rate axis
    moves all of them.

    Args:
        base_lr: η0.
        init_std: σ0.
        eps: ε0 of AdamW.
        weight_decay: ω0.
        depth_multiplier: m_L = L / L_ref.
        applications: L · N, blocks that a token passes through.
        block: kind of block, a name in `model.blocks.BLOCKS`.
        loop: kind of loop, a name in `model.loop.LOOPS`.
        parts: set of parts, a name in `model.parts.PART_SETS`.
        optimizer: of the blocks' matrices, a name in `model.parameter_row.OPTIMIZERS`.
        d_model: width, on which AdamW's rates beside Muon depend.

    Raises:
        ValueError: for Muon with a tied head: embedding and head have other rates.
    """
    made_of = PART_SETS[parts]
    if optimizer == "muon" and made_of.has_tied_head:
        untied = ", ".join(name for name, one in PART_SETS.items() if not one.has_tied_head)
        raise ValueError(
            f"optimizer={optimizer} has different rates for embedding and head, which parts={parts} ties; "
            f"use parts={untied}"
        )
    depth_factor = depth_multiplier**-0.5
    base = BaseValues(base_lr, init_std, eps, weight_decay, depth_factor, applications, optimizer, d_model)
    return (
        *made_of.embedding_rows(base),
        *BLOCKS[block].parameter_rows(base, made_of),
        *LOOPS[loop].parameter_rows(base),
        *made_of.head_rows(base),
    )


def base_rate(table: tuple[ParameterRow, ...], d_model: int) -> float:
    """η0 of a table of `parameter_table`, from its first row, the embedding's."""
    optimizer = "muon" if any(row.optimizer == "muon" for row in table) else "adamw"
    return table[0].lr / adamw_ratio(EMBEDDING_RATIO, optimizer, d_model)
