"""What a model's residual stream does along its loop steps, read out in its own forward pass (Figures 3, 6, 7, 8)."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from model import LoopedTransformer

READOUT_TOKENS = 32_768  # of the validation set: enough for means over tokens


class _Moments:
    """Mean and standard deviation over all tokens seen."""

    def __init__(self) -> None:
        self.count, self.total, self.squares = 0, torch.zeros(()), torch.zeros(())

    def add(self, values: Tensor) -> None:
        """values: (tokens, …)."""
        values = values.double()
        self.count += len(values)
        self.total = self.total + values.sum(0).cpu()
        self.squares = self.squares + values.square().sum(0).cpu()

    def to_dict(self) -> dict[str, Any]:
        mean = self.total / self.count
        std = (self.squares / self.count - mean.square()).clamp_min(0).sqrt()
        return {"mean": mean.tolist(), "std": std.tolist()}


@torch.no_grad()
def stream_states(model: LoopedTransformer, rows: Tensor) -> list[Tensor]:
    """The residual stream (B, T, D) after the embedding and every segment, for rows (B, T + 1)."""
    states: list[Tensor] = []
    model(rows[:, :-1], rows[:, 1:], observe=lambda _, h: states.append(h))
    return states


@torch.no_grad()
def stream_readouts(model: LoopedTransformer, batches: Iterable[Tensor]) -> dict[str, Any]:
    """Norms, increments and losses along the stream, over all tokens of `batches`.

    Args:
        model: as it is; nothing of it changes.
        batches: rows (B, T + 1) of tokens, on the model's device.

    Returns:
        `residual_norm`: L2 norm per token after segment 0 (the embedding) … S of the stack; S = N where a segment is a
        loop step. `loop_loss`: loss in nats per token with the head applied there. `increment_cosine`: cosine of the
        increments δ_i and δ_j of a token, S × S. Each with `mean` and `std` over tokens.
    """
    norms, losses, cosines = _Moments(), _Moments(), _Moments()
    for rows in batches:
        states = stream_states(model, rows)
        stream = torch.stack([h.flatten(0, 1).float() for h in states], dim=1)  # (B·T, S + 1, D)
        norms.add(stream.norm(dim=-1))
        losses.add(torch.stack([model.token_losses(h, rows[:, 1:]) for h in states], dim=-1))
        increments = torch.nn.functional.normalize(stream.diff(dim=1), dim=-1)
        cosines.add(increments @ increments.mT)
    return {
        "residual_norm": norms.to_dict(),
        "loop_loss": losses.to_dict(),
        "increment_cosine": cosines.to_dict(),
    }
