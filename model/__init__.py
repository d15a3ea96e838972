"""Looped Transformers with a scaled residual stream. Knows nothing of Hydra, files or clusters.

`ModelConfig`, `residual_scale` and the parameter table import without PyTorch; `LoopedTransformer` brings it in.
"""

from typing import TYPE_CHECKING, Any

from model.config import ModelConfig
from model.parameterization import ParameterRow, initialize_, parameter_groups, parameter_table
from model.scaling import RULES, ScalingRule, residual_scale

if TYPE_CHECKING:
    from model.transformer import LoopedTransformer

__all__ = [
    "RULES",
    "LoopedTransformer",
    "ModelConfig",
    "ParameterRow",
    "ScalingRule",
    "initialize_",
    "parameter_groups",
    "parameter_table",
    "residual_scale",
]


def __getattr__(name: str) -> Any:
    if name == "LoopedTransformer":
        from model.transformer import LoopedTransformer

        return LoopedTransformer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
