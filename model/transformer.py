"""A Llama-style decoder whose stack of L blocks is applied N times.

    x ← x + ε · Attn(RMSNorm(x))      rotary positions, causal, as many key as query heads
    x ← x + ε · MLP(RMSNorm(x))       SwiGLU

Notable:
- weights are shared because the same `Block` modules are applied N times, by nothing else;
- ε arrives as a number (`model.scaling`), the same for both branches of every block and every loop step;
- embedding and head are one tensor and stand outside the loop;
- `observe` reads the residual stream after every loop step, so that a figure measures the model that trains.
"""

from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from model.config import ModelConfig
from model.cpu.tied_embedding import tied
from model.loss import head_cross_entropy, head_token_losses

Observer = Callable[[int, Tensor], None]
"""Called with n = 0 (after the embedding) … N, the loop steps done, and the residual stream (B, T, D) there."""


class RMSNorm(nn.Module):
    """x / rms(x) · gain over the last dimension."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """(…, D) → (…, D)."""
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


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


class Attention(nn.Module):
    """Causal self-attention; query, key and value projections are one matrix."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.n_heads = config.n_heads
        self.qkv = nn.Linear(config.d_model, 3 * config.d_model, bias=False)
        self.out = nn.Linear(config.d_model, config.d_model, bias=False)

    def forward(self, x: Tensor, rotary: Tensor) -> Tensor:
        """(B, T, d_model) → (B, T, d_model)."""
        batch, seq_len, d_model = x.shape
        parts = self.qkv(x).split(d_model, dim=-1)
        q, k, v = (part.view(batch, seq_len, self.n_heads, -1).transpose(1, 2) for part in parts)  # (B, H, T, D)
        y = F.scaled_dot_product_attention(rotate(q, rotary), rotate(k, rotary), v, is_causal=True)  # (B, H, T, D)
        out: Tensor = self.out(y.transpose(1, 2).reshape(batch, seq_len, d_model))
        return out


class SwiGLU(nn.Module):
    """down(silu(gate(x)) · up(x)); gate and up are one matrix."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_up = nn.Linear(config.d_model, 2 * config.mlp_dim, bias=False)
        self.down = nn.Linear(config.mlp_dim, config.d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, d_model) → (B, T, d_model)."""
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        out: Tensor = self.down(F.silu(gate) * up)
        return out


class Block(nn.Module):
    """Attention then MLP, each pre-normed and added to the stream with weight ε."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        # A tensor, so that one compiled block serves every loop count and rule.
        self.residual_scale: Tensor
        self.register_buffer("residual_scale", torch.tensor(config.residual_scale), persistent=False)
        self.attention_norm = RMSNorm(config.d_model, config.norm_eps)
        self.attention = Attention(config)
        self.mlp_norm = RMSNorm(config.d_model, config.norm_eps)
        self.mlp = SwiGLU(config)

    def forward(self, x: Tensor, rotary: Tensor) -> Tensor:
        """The residual stream (B, T, d_model) one block later."""
        x = torch.addcmul(x, self.attention(self.attention_norm(x), rotary), self.residual_scale)
        return torch.addcmul(x, self.mlp(self.mlp_norm(x)), self.residual_scale)


class LoopedTransformer(nn.Module):
    """Token embedding → L blocks, N times over → RMSNorm → head tied to the embedding.

    Parameters are uninitialised in the paper's sense until `model.initialize_` has run. The class builds on the
    meta device (`with torch.device("meta")`).

    Args:
        config: the shape, every field a plain value.
        recompute: drop the activations of each segment in the forward pass and compute them again in the
            backward pass: memory no longer grows with N, at the price of one more forward. Same gradients.
        segment_layers: layers between two calls of an observer, and recomputed together; None for the whole stack,
            so that a segment is a loop step.

    Raises:
        ValueError: if the layers do not divide into segments.
    """

    def __init__(self, config: ModelConfig, *, recompute: bool = False, segment_layers: int | None = None) -> None:
        super().__init__()
        self.config = config
        self.recompute = recompute
        self.compiled = self.head_compiled = False
        self.segment_layers = segment_layers or config.n_layers
        if config.n_layers % self.segment_layers:
            raise ValueError(f"n_layers={config.n_layers} is not a multiple of segment_layers={segment_layers}")
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.final_norm = RMSNorm(config.d_model, config.norm_eps)
        self.rotary: Tensor
        table = rotary_table(config.max_seq_len, config.head_dim, config.rope_theta)
        self.register_buffer("rotary", table, persistent=False)

    @property
    def n_segments(self) -> int:
        """Segments that the residual stream passes, in all loop steps."""
        return len(self._segments())

    def compile_blocks(self) -> None:
        """Compile the block once, on its first use; every layer, loop step, N and rule shares the result.

        On a CPU in fp32 that is `model.cpu.segment`; elsewhere `torch.compile`, block by block.
        """
        self.compiled = True
        if self.rotary.device.type != "cpu":
            for block in self.blocks:
                block.compile(dynamic=False)

    def compile_head(self) -> None:
        """Compile final norm, head and loss too, on their first use, where `model.cpu.head` says that it pays.

        Some hundred training steps earn it back.
        """
        self.head_compiled = True

    def forward(self, tokens: Tensor, targets: Tensor | None = None, *, observe: Observer | None = None) -> Tensor:
        """Logits of the next token, or the mean loss in nats when `targets` are given.

        Args:
            tokens: (B, T) token ids, T at most `max_seq_len`.
            targets: (B, T) the token that follows each position.
            observe: sees the residual stream after every segment, before the final norm.

        Returns:
            (B, T, vocab_size) logits, or a scalar loss that never materialises them all.

        Raises:
            ValueError: if the sequence is longer than the rotary table.
        """
        embedded, head = self._embed(tokens)
        h = self._stream(embedded, observe)  # (B, T, D)
        if targets is None:
            return F.linear(self.final_norm(h), head)
        if self.head_compiled and self._on_cpu_in_fp32(h) and torch.is_grad_enabled():
            from model.cpu.head import compiled_head_loss

            norm = self.final_norm
            loss = compiled_head_loss(h.flatten(0, 1), norm.weight, head, targets.flatten(), norm.eps)
            if loss is not None:
                return loss
        return head_cross_entropy(self.final_norm(h).flatten(0, 1), head, targets.flatten())

    def token_losses(self, h: Tensor, targets: Tensor) -> Tensor:
        """Loss of every token, had the stack ended with the residual stream `h` (B, T, D): (B · T,) nats."""
        return head_token_losses(self.final_norm(h).flatten(0, 1), self.embedding.weight, targets.flatten())

    def _embed(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """The embedded tokens (B, T, D) and the head (vocab_size, D)."""
        weight = self.embedding.weight
        if weight.device.type == "cpu":  # on a GPU rows would be added in any order
            return tied(weight, tokens)
        return self.embedding(tokens), weight

    def _stream(self, h: Tensor, observe: Observer | None) -> Tensor:
        """The residual stream h_N (B, T, D) after the last loop step, from the embedded tokens."""
        seq_len = h.shape[1]
        if seq_len > self.config.max_seq_len:
            raise ValueError(f"sequence of {seq_len} tokens exceeds max_seq_len={self.config.max_seq_len}")
        rotary = self.rotary[:, :seq_len]
        if observe is not None:
            observe(0, h)
        segments = self._segments()
        if self.compiled and self._on_cpu_in_fp32(h):
            from model.cpu.segment import Course, programs_for, run_stack  # takes a while to import

            blocks = [cast(Block, block) for block in self.blocks]
            passes = programs_for(blocks[0], h)
            if passes is not None:
                return run_stack(passes, blocks, h, rotary, Course(segments, self.recompute, observe))
            self.compiled = False
        for n, layers in enumerate(segments, start=1):
            if self.recompute and torch.is_grad_enabled():
                h = checkpoint(self._segment, layers, h, rotary, use_reentrant=False)
            else:
                h = self._segment(layers, h, rotary)
            if observe is not None:
                observe(n, h)
        return h

    @staticmethod
    def _on_cpu_in_fp32(h: Tensor) -> bool:
        """Whether `model.cpu.segment` and `model.cpu.head` are for residual streams like h."""
        return h.device.type == "cpu" and not torch.is_autocast_enabled("cpu")

    def _segments(self) -> list[range]:
        """The layers of each segment, in the order of their application."""
        starts = range(0, self.config.n_layers, self.segment_layers)
        return [range(start, start + self.segment_layers) for start in starts] * self.config.n_loops

    def _segment(self, layers: range, h: Tensor, rotary: Tensor) -> Tensor:
        for layer in layers:
            h = self.blocks[layer](h, rotary)
        return h
