"""Floating-point operations of a training, counted per loop: a block costs as often as it is applied."""

from model import ModelConfig


def training_flops(shape: ModelConfig, tokens: int) -> float:
    """6 · (P_block · L · N + P_head) · tokens: forward and backward of the matrices, attention left out."""
    matrices = shape.block_params * shape.n_layers * shape.n_loops + shape.vocab_size * shape.d_model
    return 6.0 * matrices * tokens


def attention_flops(shape: ModelConfig, tokens: int, seq_len: int) -> float:
    """The two products of causal attention, half of the square: 6 · T · d per block application and token."""
    return 6.0 * seq_len * shape.d_model * shape.n_layers * shape.n_loops * tokens
