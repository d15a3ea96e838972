"""One thread, so that runs side by side do not fight and sums have one order; and a small model to ask things of."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from model import ModelConfig, parameter_table
from model.initialization import initialize_
from model.transformer import LoopedTransformer

torch.set_num_threads(1)

ModelFactory = Callable[..., LoopedTransformer]


@pytest.fixture(scope="session")
def make_model() -> ModelFactory:
    """`make_model(seed=0, init_std=…, **fields of ModelConfig)`: a fresh, initialised small model.

    The default init is wider than the paper's, so that attention is far from uniform and no test passes by it.
    """

    def make(seed: int = 0, init_std: float = 0.2, recompute: bool = False, **fields: Any) -> LoopedTransformer:
        shape = {"vocab_size": 61, "d_model": 24, "n_heads": 3, "mlp_dim": 40, "n_layers": 2, "n_loops": 2}
        config = ModelConfig(**{**shape, "max_seq_len": 16, **fields})
        model = LoopedTransformer(config, recompute=recompute)
        base = {"base_lr": 1e-3, "init_std": init_std, "eps": 1e-8, "weight_decay": 0.1, "depth_multiplier": 1}
        kinds = {"block": config.block, "loop": config.loop, "parts": config.parts}
        initialize_(model, parameter_table(**base, applications=config.n_layers * config.n_loops, **kinds), seed)
        return model

    return make


@pytest.fixture(scope="session")
def tokens() -> torch.Tensor:
    """(2, 16) token ids below 61."""
    return torch.randint(61, (2, 16), generator=torch.Generator().manual_seed(7))
