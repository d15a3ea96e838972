"""The layers that blocks are made of: RMSNorm, rotary positions, causal attention, SwiGLU, and their variants."""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from model.config import ModelConfig


class RMSNorm(nn.Module):
    """x / rms(x) · gain over the last dimension."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """(…, D) → (…, D)."""
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


class _Normed(torch.autograd.Function):
    """x / rms(x). torch derives its backward pass from single operations, which takes twice as long on a CPU."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> Tensor:
        y, inverse_rms = torch.ops.aten._fused_rms_norm(x, x.shape[-1:], None, eps)
        ctx.save_for_backward(y, inverse_rms)
        return y  # type: ignore[no-any-return]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        y, inverse_rms = ctx.saved_tensors
        along = (grad * y).mean(-1, keepdim=True)
        return grad.addcmul(y, along, value=-1).mul_(inverse_rms), None


class RMSNormWithoutGain(nn.Module):
    """x / rms(x) over the last dimension."""

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(…, D) → (…, D)."""
        return _Normed.apply(x, self.eps)  # type: ignore[no-any-return, no-untyped-call]


def rotary_table(seq_len: int, head_dim: int, theta: float) -> Tensor:
    """Cosines and sines of the rotary angles: (2, seq_len, head_dim / 2), fp32."""
    frequency = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    angle = torch.outer(torch.arange(seq_len, dtype=torch.float32), frequency)
    return torch.stack((angle.cos(), angle.sin()))


def rotate(x: Tensor, rotary: Tensor) -> Tensor:
    """Rotate the pairs (x_i, x_{i + D/2}) of x (..., T, D) by the table's angles (2, T, D/2)."""
    cos, sin = rotary.to(x.dtype)
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


class Linear(nn.Linear):
    """A matrix, x · weightᵀ. `model.gpu.weights` puts its own in the place of those in blocks."""

    def __init__(self, n_inputs: int, n_outputs: int) -> None:
        super().__init__(n_inputs, n_outputs, bias=False)

    def rows(self, x: Tensor, start: int = 0, stop: int | None = None) -> Tensor:
        """(…, inputs) → (…, rows): the product with some rows of the weight."""
        return F.linear(x, self.weight[start:stop])


class Attention(nn.Module):
    """Causal self-attention; query, key and value projections are one matrix."""

    fused: ClassVar[dict[str, int]] = {"qkv": 3}  # matrices that stand under each other in one parameter

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.n_heads = config.n_heads
        self.qkv = Linear(config.d_model, 3 * config.d_model)
        self.out = Linear(config.d_model, config.d_model)

    def forward(self, x: Tensor, rotary: Tensor, queries: Tensor | None = None) -> Tensor:
        """(B, T, d_model) → (B, T, d_model). Queries are made from `queries`, of the same shape, if that is given."""
        batch, seq_len, d_model = x.shape
        if queries is None:
            parts = self.qkv(x).split(d_model, dim=-1)
        else:
            parts = (self.qkv.rows(queries, 0, d_model), *self.qkv.rows(x, d_model).chunk(2, dim=-1))
        q, k, v = (part.view(batch, seq_len, self.n_heads, -1).transpose(1, 2) for part in parts)  # (B, H, T, D)
        q, k = self.placed(q, rotary), self.placed(k, rotary)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)  # (B, H, T, D)
        out: Tensor = self.out(y.transpose(1, 2).reshape(batch, seq_len, d_model))
        return out

    def placed(self, x: Tensor, rotary: Tensor) -> Tensor:
        """Queries or keys (B, H, T, D) with their positions, as scores are made from them."""
        return rotate(x, rotary)


class QKNormAttention(Attention):
    """Attention of which queries and keys are RMS-normed, head by head, after their rotation."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.norm = RMSNormWithoutGain(config.norm_eps)

    def placed(self, x: Tensor, rotary: Tensor) -> Tensor:
        """See `Attention.placed`."""
        out: Tensor = self.norm(rotate(x, rotary))
        return out


class SwiGLU(nn.Module):
    """down(silu(gate(x)) · up(x)); gate and up are one matrix."""

    fused: ClassVar[dict[str, int]] = {"gate_up": 2}

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_up = Linear(config.d_model, 2 * config.mlp_dim)
        self.down = Linear(config.mlp_dim, config.d_model)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, d_model) → (B, T, d_model)."""
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        out: Tensor = self.down(F.silu(gate) * up)
        return out


class ReluSquared(nn.Module):
    """down(relu(up(x))²)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.up = Linear(config.d_model, config.mlp_dim)
        self.down = Linear(config.mlp_dim, config.d_model)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, d_model) → (B, T, d_model)."""
        out: Tensor = self.down(F.relu(self.up(x)).square())
        return out


class Gate(nn.Module):
    """One learned number."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))


class DiagonalInjection(nn.Module):
    """Parcae's A, Δ and B: the state decays by e^(−ΔA), the input is Δ ⊙ B e. Δ and A are one number a channel."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.log_rate = nn.Parameter(torch.zeros(d_model))  # ln A
        self.step = nn.Parameter(torch.zeros(d_model))  # softplus of it is Δ
        self.weight = nn.Parameter(torch.eye(d_model))  # B

    def decay(self) -> Tensor:
        """e^(−ΔA), (d_model,)."""
        return (-F.softplus(self.step) * self.log_rate.exp()).exp()

    def input(self, embedded: Tensor) -> Tensor:
        """Δ ⊙ B e, (B, T, d_model)."""
        return F.softplus(self.step) * F.linear(embedded, self.weight)


PARTS: dict[str, Callable[[ModelConfig], nn.Module]] = {
    "norm": lambda config: RMSNorm(config.d_model, config.norm_eps),
    "norm_without_gain": lambda config: RMSNormWithoutGain(config.norm_eps),
    "attention": Attention,
    "qk_norm_attention": QKNormAttention,
    "swiglu": SwiGLU,
    "relu_squared": ReluSquared,
    "gate": lambda config: Gate(),
    "diagonal_injection": lambda config: DiagonalInjection(config.d_model),
}
"""What the parts of a kind of block or loop are made by; `model.blocks.part_params` counts their parameters."""
