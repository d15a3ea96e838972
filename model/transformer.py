"""A Llama-style decoder whose stack of L blocks is applied N times: embed → loop → final norm → tied head.

Notable:
- weights are shared because the same `Block` modules are applied N times, by nothing else;
- what a block computes is its kind's (`model.blocks`), and how the state passes between loop steps is the loop's kind's
  (`model.loop`);
- ε arrives as a number (`model.scaling`), the same for every recurrent addition;
- embedding and head are one tensor and stand outside the loop;
- `observe` is shown the residual stream after every segment, so that a figure measures the model that trains;
- `open_stack`, `look_up` and `loss_of` can be replaced from outside by faster ones (`model.cpu.enable`).
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from model.blocks import BLOCKS
from model.config import ModelConfig
from model.layers import PARTS, RMSNorm, rotary_table
from model.loop import LOOPS, ApplyBlocks, Observer, apply_blocks, run_loop
from model.loss import head_cross_entropy, head_token_losses


class _Parts(nn.Module):
    """The parts of a kind as modules by name, and ε."""

    def __init__(self, parts: dict[str, str], config: ModelConfig) -> None:
        super().__init__()
        # A tensor, so that one compiled block serves every loop count and rule.
        self.residual_scale: Tensor
        self.register_buffer("residual_scale", torch.tensor(config.residual_scale), persistent=False)
        for name, part in parts.items():
            self.add_module(name, PARTS[part](config))


class Block(_Parts):
    """One block of the kind `config.block`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(BLOCKS[config.block].parts, config)
        self.kind = BLOCKS[config.block]

    def forward(self, x: Tensor, *context: Tensor) -> Tensor:
        """The residual stream (B, T, d_model) one block later; `context` begins with the rotary table."""
        return self.kind.forward(self, x, *context)


def open_in_turn(blocks: nn.ModuleList) -> ApplyBlocks:
    """The stack for one forward pass: blocks are called one by one."""
    return partial(apply_blocks, list(blocks))


def look_up(weight: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """The embedded tokens (B, T, d_model), and the tensor that serves as the head (vocab_size, d_model)."""
    return F.embedding(tokens, weight), weight


def loss_of(h: Tensor, norm: RMSNorm, head: Tensor, targets: Tensor) -> Tensor:
    """Mean loss in nats of the stream h (tokens, d_model) behind the last loop step; targets: (tokens,)."""
    return head_cross_entropy(norm(h), head, targets)


class LoopedTransformer(nn.Module):
    """Token embedding → L blocks, N times over → RMSNorm → head tied to the embedding.

    Parameters are uninitialised in the paper's sense until `model.initialization.initialize_` has run. The class builds
    on the meta device (`with torch.device("meta")`).

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
        self.segment_layers = segment_layers or config.n_layers
        if config.n_layers % self.segment_layers:
            raise ValueError(f"n_layers={config.n_layers} is not a multiple of segment_layers={segment_layers}")
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.loop = _Parts(LOOPS[config.loop].parts, config)
        self.final_norm = RMSNorm(config.d_model, config.norm_eps)
        self.rotary: Tensor
        table = rotary_table(config.max_seq_len, config.head_dim, config.rope_theta)
        self.register_buffer("rotary", table, persistent=False)
        self.open_stack: Callable[[nn.ModuleList], ApplyBlocks] = open_in_turn
        self.look_up: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = look_up
        self.loss_of: Callable[[Tensor, RMSNorm, Tensor, Tensor], Tensor] = loss_of

    @property
    def n_segments(self) -> int:
        """Segments that the residual stream passes, in all loop steps."""
        return self.config.n_loops * len(self._segments())

    def forward(self, tokens: Tensor, targets: Tensor | None = None, *, observe: Observer | None = None) -> Tensor:
        """Logits of the next token, or the mean loss in nats when `targets` are given.

        Args:
            tokens: (B, T) token ids, T at most `max_seq_len`.
            targets: (B, T) the token that follows each position.
            observe: is shown the residual stream after every segment, before the final norm.

        Returns:
            (B, T, vocab_size) logits, or a scalar loss that never materialises them all.

        Raises:
            ValueError: if the sequence is longer than the rotary table.
        """
        embedded, head = self.look_up(self.embedding.weight, tokens)
        h = self.stream(embedded, observe)  # (B, T, D)
        if targets is None:
            return F.linear(self.final_norm(h), head)
        return self.loss_of(h.flatten(0, 1), self.final_norm, head, targets.flatten())

    def stream(self, embedded: Tensor, observe: Observer | None = None) -> Tensor:
        """The residual stream h_N (B, T, d_model) after the last loop step, from the embedded tokens."""
        config, seq_len = self.config, embedded.shape[1]
        if seq_len > config.max_seq_len:
            raise ValueError(f"sequence of {seq_len} tokens exceeds max_seq_len={config.max_seq_len}")
        rotary, apply = self.rotary[:, :seq_len], self.open_stack(self.blocks)
        recompute = self.recompute and torch.is_grad_enabled()

        def segment(layers: range, x: Tensor, context: tuple[Tensor, ...]) -> Tensor:
            context = (rotary, *context)
            if recompute:
                return checkpoint(apply, layers, x, context, use_reentrant=False, preserve_rng_state=False)  # type: ignore[no-any-return]
            return apply(layers, x, context)

        return run_loop(LOOPS[config.loop], self.loop, config.n_loops, embedded, self._segments(), segment, observe)

    def token_losses(self, h: Tensor, targets: Tensor) -> Tensor:
        """Loss of every token, had the stack ended with the residual stream `h` (B, T, D): (B · T,) nats."""
        return head_token_losses(self.final_norm(h).flatten(0, 1), self.embedding.weight, targets.flatten())

    def _segments(self) -> list[range]:
        """The layers of one loop step, in segments."""
        starts = range(0, self.config.n_layers, self.segment_layers)
        return [range(start, start + self.segment_layers) for start in starts]
