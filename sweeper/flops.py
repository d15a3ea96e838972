"""Floating-point operations of a training, counted per loop: a block costs as often as it is applied."""

from sweeper.run_config import RunConfig


def training_flops(config: RunConfig) -> float:
    """6 · (P_block · L · N + P_head) · tokens: forward and backward of the matrices, attention left out."""
    shape = config.model
    matrices = shape.block_params * shape.n_layers * shape.n_loops + shape.vocab_size * shape.d_model
    return 6.0 * matrices * config.total_tokens


def attention_flops(config: RunConfig) -> float:
    """The two products of causal attention, half of the square: 6 · T · d per block application and token."""
    shape = config.model
    return 6.0 * config.seq_len * shape.d_model * shape.n_layers * shape.n_loops * config.total_tokens
