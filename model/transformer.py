"""A decoder whose stack of L blocks is applied N times: embed → loop → final norm → head.

Notable:
- weights are shared because the same `Block` modules are applied N times, by nothing else;
- what a block computes is its kind's (`model.blocks`), and how the state passes between loop steps is the loop's kind's
  (`model.loop`);
- what norms, attention, MLP and head are made of is the set of parts (`model.parts`): Llama's, or the second paper's;
- ε arrives as a number (`model.scaling`), the same for every recurrent addition;
- embedding and head stand outside the loop, and are one tensor unless the set of parts says otherwise;
- `observe` is shown the residual stream after every segment, so that a figure measures the model that trains;
- `open_stack`, `look_up` and `loss_of` can be replaced from outside by faster ones (`model.cpu.enable`).
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from model.blocks import BLOCKS
from model.config import ModelConfig
from model.layers import PARTS, RMSNorm, RMSNormWithoutGain, rotary_table
from model.loop import LOOPS, ApplyBlocks, Context, Observer, apply_blocks, loop_states
from model.loss import capped, head_cross_entropy, head_token_losses, weighted_cross_entropy
from model.parts import PART_SETS

FinalNorm = RMSNorm | RMSNormWithoutGain


class _Parts(nn.Module):
    """The parts of a kind as modules by name, and its numbers as scalar tensors, ε among them."""

    def __init__(self, parts: dict[str, str], config: ModelConfig, scalars: dict[str, float]) -> None:
        super().__init__()
        # Tensors, so that one compiled block serves every loop count and rule.
        self.residual_scale: Tensor
        for name, value in {"residual_scale": config.residual_scale, **scalars}.items():
            self.register_buffer(name, torch.tensor(value), persistent=False)
        for name, part in parts.items():
            self.add_module(name, PARTS[PART_SETS[config.parts].name(part)](config))


class Block(_Parts):
    """One block of the kind `config.block`, as the kind `config.loop` uses it."""

    def __init__(self, config: ModelConfig) -> None:
        kind, loop_kind = BLOCKS[config.block], LOOPS[config.loop]
        scalars = kind.scalars(config.n_layers * config.n_loops)
        super().__init__({**kind.parts, **loop_kind.block_parts}, config, scalars)
        self.kind, self.loop_kind = kind, loop_kind

    def forward(self, x: Tensor, *context: Tensor) -> Tensor:
        """The residual stream (B, T, d_model) one block later; `context` begins with the rotary table."""
        return self.loop_kind.enter(self.kind, self, x, *context)


def open_in_turn(blocks: nn.ModuleList) -> ApplyBlocks:
    """The stack for one forward pass: blocks are called one by one."""
    return partial(apply_blocks, list(blocks))


def look_up(weight: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """The embedded tokens (B, T, d_model), and the tensor that serves as the head (vocab_size, d_model)."""
    return F.embedding(tokens, weight), weight


def loss_of(
    h: Tensor,
    norm: FinalNorm,
    head: Tensor,
    targets: Tensor,
    cap: float | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """Mean loss in nats of the stream h (tokens, d_model) behind the last loop step.

    `targets` are (tokens,). `cap` is that of the logits, see `model.loss.capped`. With `weights` (tokens,), the sum of
    the tokens' losses, each times its weight.
    """
    if weights is not None:
        return weighted_cross_entropy(norm(h), head, targets, weights, cap)
    return head_cross_entropy(norm(h), head, targets, cap)


class LoopedTransformer(nn.Module):
    """Token embedding → L blocks, N times over → RMSNorm → head, which may be the embedding.

    Parameters are uninitialised in the paper's sense until `model.initialization.initialize_` has run. The class builds
    on the meta device (`with torch.device("meta")`).

    Args:
        config: the shape, every field a plain value.
        recompute: drop the activations of each segment in the forward pass and compute them again in the
            backward pass: memory no longer grows with N, at the price of one more forward. Same gradients.
        segment_layers: layers between two calls of an observer, and recomputed together; None for the whole stack,
            so that a segment is a loop step.
        recompute_layers: layers that are recomputed together, if fewer than those of a segment.

    Raises:
        ValueError: if the layers do not divide into segments.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        recompute: bool = False,
        segment_layers: int | None = None,
        recompute_layers: int | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.recompute, self.recompute_layers = recompute, recompute_layers
        self.segment_layers = segment_layers or config.n_layers
        if config.n_layers % self.segment_layers:
            raise ValueError(f"n_layers={config.n_layers} is not a multiple of segment_layers={segment_layers}")
        made_of = PART_SETS[config.parts]
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.loop = _Parts(LOOPS[config.loop].parts, config, {})
        self.final_norm: FinalNorm = RMSNormWithoutGain(config.norm_eps)
        if made_of.name("norm") == "norm":
            self.final_norm = RMSNorm(config.d_model, config.norm_eps)
        self.head = None if made_of.has_tied_head else nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.logit_cap = made_of.logit_cap
        self.rotary: Tensor
        table = rotary_table(config.max_seq_len, config.head_dim, config.rope_theta)
        self.register_buffer("rotary", table, persistent=False)
        self.open_stack: Callable[[nn.ModuleList], ApplyBlocks] = open_in_turn
        self.look_up: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = look_up
        self.loss_of: Callable[[Tensor, FinalNorm, Tensor, Tensor, float | None, Tensor | None], Tensor] = loss_of

    @property
    def n_segments(self) -> int:
        """Segments that the residual stream passes, in all loop steps."""
        return self.config.n_loops * len(self._segments())

    def forward(
        self,
        tokens: Tensor,
        targets: Tensor | None = None,
        *,
        weights: Tensor | None = None,
        n_loops: int | None = None,
        observe: Observer | None = None,
    ) -> Tensor:
        """Logits of the next token, or the mean loss in nats when `targets` are given.

        Args:
            tokens: (B, T) token ids, T at most `max_seq_len`.
            targets: (B, T) the token that follows each position.
            weights: (B, T) of each target in the loss, which is then a weighted sum; None for the mean.
            n_loops: loop steps, if not the N that the model is made for. ε stays as it is.
            observe: is shown the residual stream after every segment, before what the loop or the final norm makes
                of it.

        Returns:
            (B, T, vocab_size) logits, capped if the set of parts caps them, or a scalar loss that never materialises
            them all.

        Raises:
            ValueError: if the sequence is longer than the rotary table.
        """
        embedded, head = self._outer(tokens)
        [h] = deque(self.states(embedded, n_loops, observe), maxlen=1)  # (B, T, D)
        if targets is None:
            return capped(F.linear(self.final_norm(h), head), self.logit_cap)
        return self._loss(h, head, targets, weights)

    @torch.no_grad()
    def answers_by_loops(self, tokens: Tensor, loops: Sequence[int]) -> Tensor:
        """The likeliest next token of each position, for each loop count: (len(loops), B, T) token ids.

        From one forward pass of the largest loop count. Arguments as of `forward`.
        """
        embedded, head = self._outer(tokens)
        states = enumerate(self.states(embedded, max(loops)), 1)
        answers = {n: F.linear(self.final_norm(h), head).argmax(-1) for n, h in states if n in loops}
        return torch.stack([answers[n] for n in loops])

    @torch.no_grad()
    def losses_by_loops(
        self, tokens: Tensor, targets: Tensor, loops: Sequence[int], weights: Tensor | None = None
    ) -> Tensor:
        """Mean loss in nats for each loop count, (len(loops),), from one forward pass of the largest.

        At the model's own N it is the number that `forward` returns. Arguments as of `forward`.
        """
        embedded, head = self._outer(tokens)
        states = enumerate(self.states(embedded, max(loops)), 1)
        losses = {n: self._loss(h, head, targets, weights) for n, h in states if n in loops}
        return torch.stack([losses[n] for n in loops])

    def states(self, embedded: Tensor, n_loops: int | None = None, observe: Observer | None = None) -> Iterator[Tensor]:
        """The state (B, T, d_model) that each loop step leaves, from the embedded tokens; the final norm reads it."""
        config, seq_len = self.config, embedded.shape[1]
        if seq_len > config.max_seq_len:
            raise ValueError(f"sequence of {seq_len} tokens exceeds max_seq_len={config.max_seq_len}")
        rotary, apply = self.rotary[:, :seq_len], self.open_stack(self.blocks)
        recompute = self.recompute and torch.is_grad_enabled()

        def segment(layers: range, x: Tensor, context: Context) -> Tensor:
            context = (rotary, *context)
            if not recompute:
                return apply(layers, x, context)
            at_once = self.recompute_layers or len(layers)
            for some in (layers[start : start + at_once] for start in range(0, len(layers), at_once)):
                x = checkpoint(apply, some, x, context, use_reentrant=False, preserve_rng_state=False)
            return x

        steps = n_loops or config.n_loops
        return loop_states(LOOPS[config.loop], self.loop, steps, embedded, self._segments(), segment, observe)

    def token_losses(self, h: Tensor, embedded: Tensor, targets: Tensor) -> Tensor:
        """Loss of every token, had the loop ended with the residual stream `h` (B, T, D): (B · T,) nats.

        `embedded` (B, T, D) is the stream after the embedding.
        """
        kind = LOOPS[self.config.loop]
        state = kind.end(self.loop, h, kind.source(self.loop, embedded))
        head = self.embedding.weight if self.head is None else self.head.weight
        return head_token_losses(self.final_norm(state).flatten(0, 1), head, targets.flatten(), self.logit_cap)

    def _outer(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """The embedded tokens (B, T, d_model), and the head (vocab_size, d_model)."""
        embedded, tied = self.look_up(self.embedding.weight, tokens)
        return embedded, tied if self.head is None else self.head.weight

    def _loss(self, h: Tensor, head: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
        """Loss in nats of the state h (B, T, d_model) behind the last loop step."""
        of_tokens = None if weights is None else weights.flatten()
        return self.loss_of(h.flatten(0, 1), self.final_norm, head, targets.flatten(), self.logit_cap, of_tokens)

    def _segments(self) -> list[range]:
        """The layers of one loop step, in segments."""
        starts = range(0, self.config.n_layers, self.segment_layers)
        return [range(start, start + self.segment_layers) for start in starts]
