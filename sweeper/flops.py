"""Floating-point operations of a training, counted per loop (a block costs as often as it is applied), and of GPUs."""

from model import ModelConfig

# Dense bf16 tensor-core peaks in FLOP/s, from the vendor's data sheets; the first name that is part of the GPU's own.
PEAK_FLOPS = {
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H200": 989e12,
    "GH200": 989e12,
    "B200": 2250e12,
    "A100": 312e12,
    "L40S": 362e12,
}


def training_flops(shape: ModelConfig, tokens: int) -> float:
    """6 · (P_block · L · N + P_head) · tokens: forward and backward of the matrices, attention left out."""
    matrices = shape.block_params * shape.n_layers * shape.n_loops + shape.vocab_size * shape.d_model
    return 6.0 * matrices * tokens


def attention_flops(shape: ModelConfig, tokens: int, seq_len: int) -> float:
    """The two products of causal attention, half of the square: 6 · T · d per block application and token."""
    return 6.0 * seq_len * shape.d_model * shape.n_layers * shape.n_loops * tokens


def peak_flops(gpu: str) -> float | None:
    """Dense bf16 peak of a GPU by the name its driver gives, FLOP/s; None if it is not known."""
    return next((peak for name, peak in PEAK_FLOPS.items() if name in gpu), None)
