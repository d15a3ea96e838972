"""Looped Transformers with a scaled residual stream. Knows nothing of Hydra, files or clusters.

These names import without PyTorch. The model is `model.transformer.LoopedTransformer`; `model.initialization` gives it
its first weights and its optimizer's groups, and `model.cpu.enable` the fast path of a CPU.
"""

from model.blocks import BLOCKS
from model.config import ModelConfig
from model.loop import LOOPS
from model.parameter_row import ParameterRow
from model.parameterization import parameter_table
from model.parts import PART_SETS
from model.scaling import RULES, ScalingRule, residual_scale

__all__ = [
    "BLOCKS",
    "LOOPS",
    "PART_SETS",
    "RULES",
    "ModelConfig",
    "ParameterRow",
    "ScalingRule",
    "parameter_table",
    "residual_scale",
]
