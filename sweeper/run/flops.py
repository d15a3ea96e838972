"""Floating-point operations of a training, counted per loop: a block costs as often as it is applied."""

from model import BLOCKS, LOOPS, ModelConfig


def training_flops(shape: ModelConfig, tokens: int) -> float:
    """6 · (P_block · L · N + P_head) · tokens: forward and backward of the matrices, attention left out."""
    blocks = BLOCKS[shape.block].flops_per_token(shape) * shape.n_layers * shape.n_loops
    between = LOOPS[shape.loop].flops_per_token(shape, shape.n_loops)
    return (blocks + between + 6.0 * shape.vocab_size * shape.d_model) * tokens


def attention_flops(shape: ModelConfig, tokens: int, seq_len: int) -> float:
    """The two products of causal attention, half of the square: 6 · T · d per block application and token."""
    return 6.0 * seq_len * shape.d_model * shape.n_layers * shape.n_loops * tokens
