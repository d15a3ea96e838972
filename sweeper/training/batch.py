"""A batch as the model takes it, from the rows of a data source."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sweeper.data import TokenData
from sweeper.data.tasks import TaskData


@dataclass(frozen=True)
class Batch:
    """Inputs and targets of some sequences.

    Attributes:
        inputs: (B, T) token ids.
        targets: (B, T) token ids.
        weights: (B, T) of the targets in the loss; None for the mean over all. In a task each sequence has the weight
            1/B, shared out equally over its answer. The loss of a batch is then the mean over its parts.
    """

    inputs: Tensor
    targets: Tensor
    weights: Tensor | None

    @property
    def scored(self) -> Tensor | None:
        """(B, T), whether a target is part of an answer; None where every target is."""
        return None if self.weights is None else self.weights > 0

    def first(self, sequences: int) -> "Batch":
        """The first sequences, to be looked at. Weights stay as they are."""
        weights = None if self.weights is None else self.weights[:sequences]
        return Batch(self.inputs[:sequences], self.targets[:sequences], weights)


def as_batch(rows: Tensor) -> Batch:
    """Rows of text (B, T + 1), each token the target of the one before, or of a task (B, 2, T) with its targets."""
    if rows.dim() == 2:
        return Batch(rows[:, :-1], rows[:, 1:], None)
    inputs, targets = rows.unbind(1)
    scored = targets >= 0
    per_sequence = scored.sum(1, keepdim=True).clamp_min(1) * len(rows)
    return Batch(inputs, targets.clamp_min(0), scored / per_sequence)


def scored_targets(rows: Tensor) -> Tensor:
    """The targets that are part of the loss, of rows as above: (n,) token ids."""
    batch = as_batch(rows)
    return batch.targets.flatten() if batch.scored is None else batch.targets[batch.scored]


def blank_rows(data: TokenData | TaskData, sequences: int, seq_len: int) -> Tensor:
    """Rows of zeros in the form of the rows of `data`."""
    of_each = (2, seq_len) if isinstance(data, TaskData) else (seq_len + 1,)
    return torch.zeros(sequences, *of_each, dtype=torch.int64)
