"""Read-outs of a model's residual stream after each loop step, taken in its own forward pass (Figures 3, 6, 7, 8)."""

from typing import Any

import torch
from torch import Tensor

from model.transformer import LoopedTransformer
from sweeper.training.batch import Batch, as_batch

READOUT_TOKENS = 32_768  # of the validation set: enough for means over tokens


class _Moments:
    """Mean and standard deviation, over all tokens, of values of a given shape."""

    def __init__(self, *shape: int) -> None:
        self.count = torch.zeros((), dtype=torch.float64)
        self.total, self.squares = torch.zeros(2, *shape, dtype=torch.float64)

    def add(self, values: Tensor) -> None:
        """Add values (tokens, …)."""
        values = values.double()
        self.count += len(values)
        self.total += values.sum(0).cpu()
        self.squares += values.square().sum(0).cpu()

    def to_dict(self) -> dict[str, Any]:
        mean = self.total / self.count
        std = (self.squares / self.count - mean.square()).clamp_min(0).sqrt()
        return {"mean": mean.tolist(), "std": std.tolist()}


class StreamReadouts:
    """Norms, increments and losses along the residual stream of a model, over all tokens of its updates.

    Pass `observe` to a forward pass, then call `update`.
    """

    def __init__(self, model: LoopedTransformer) -> None:
        n = model.n_segments
        self._model = model
        self._states: list[Tensor] = []
        self._moments = {
            "residual_norm": _Moments(n + 1),
            "loop_loss": _Moments(n + 1),
            "increment_cosine": _Moments(n, n),
        }

    def observe(self, _: int, h: Tensor) -> None:
        """The residual stream h (B, T, D) after the embedding, then after every segment."""
        self._states.append(h)

    @torch.no_grad()
    def update(self, batch: Batch) -> None:
        """Add the first sequences of the last forward pass, with their targets. Losses are those of answers only."""
        targets = batch.targets
        states = [h[: len(targets)] for h in self._states]
        self._states.clear()
        stream = torch.stack([h.flatten(0, 1).float() for h in states], dim=1)  # (tokens, S + 1, D)
        losses = torch.stack([self._model.token_losses(h, states[0], targets) for h in states], dim=-1)
        increments = torch.nn.functional.normalize(stream.diff(dim=1), dim=-1)
        with torch.autocast(stream.device.type, enabled=False):  # cosines in bf16 have three digits
            cosines = increments @ increments.mT
        self._moments["residual_norm"].add(stream.norm(dim=-1))
        self._moments["loop_loss"].add(losses if batch.scored is None else losses[batch.scored.flatten()])
        self._moments["increment_cosine"].add(cosines)

    def sums(self) -> list[Tensor]:
        """Tensors to sum over processes, in place, if each process has a part of the tokens."""
        return [sums for moments in self._moments.values() for sums in (moments.count, moments.total, moments.squares)]

    def to_dict(self) -> dict[str, Any]:
        """The read-outs, each with `mean` and `std` over tokens.

        `residual_norm`: L2 norm per token after segment 0 (the embedding) … S of the stack. S = N if a segment is a
        loop step. `loop_loss`: loss in nats per token if the head is applied there. `increment_cosine`: cosine of the
        increments δ_i and δ_j of a token, S × S.
        """
        return {name: moments.to_dict() for name, moments in self._moments.items()}


@torch.no_grad()
def stream_readouts(model: LoopedTransformer, rows: Tensor) -> dict[str, Any]:
    """`StreamReadouts` of rows (B, T + 1) of tokens, on the model's device."""
    readouts = StreamReadouts(model)
    model(rows[:, :-1], rows[:, 1:], observe=readouts.observe)
    readouts.update(as_batch(rows))
    return readouts.to_dict()
