"""How often a model answers a task's questions: per token of the answer, and the whole answer."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

from model.transformer import LoopedTransformer
from sweeper.data.tasks import TaskData
from sweeper.training.batch import as_batch

SCORES = ("accuracy", "exact_match")


@dataclass(frozen=True)
class Examiner:
    """Asks a model the questions of a task.

    Attributes:
        model: that answers.
        micro_batch: sequences of one forward pass.
        device: of the model.
        autocast: context of a forward pass.
    """

    model: LoopedTransformer
    micro_batch: int
    device: torch.device
    autocast: Callable[[], AbstractContextManager[object]]

    def scores(self, rows: Tensor, loops: Sequence[int]) -> dict[str, list[tuple[float, float]]]:
        """Mean and standard deviation over examples of both scores, for each loop count.

        `accuracy` is the share of an answer's tokens that are right, `exact_match` is 1 if all are. An example without
        a target counts for neither.

        Args:
            rows: of the task, (n, 2, T).
            loops: loop counts.
        """
        shares = torch.cat(list(self._shares(rows, loops)), dim=1)  # (loops, examples)
        found = {}
        for name, values in zip(SCORES, (shares, (shares == 1).double()), strict=True):
            found[name] = [(float(of.mean()), float(of.std(correction=0))) for of in values]
        return found

    def at_levels(self, data: TaskData, examples: int, loops: Sequence[int]) -> dict[str, dict[str, list[float | int]]]:
        """The scores at every level as read-outs in which i is the loop count: accuracy_trained_4, accuracy_beyond_6.

        Args:
            data: the task.
            examples: of each level.
            loops: loop counts.
        """
        found = {}
        for level in data.task.all_levels:
            kind = "trained" if level in data.task.levels else "beyond"
            scores = self.scores(torch.from_numpy(data.validation_at(level, examples)), loops)
            for name, values in scores.items():
                means, deviations = (list(of) for of in zip(*values, strict=True))
                found[f"{name}_{kind}_{level}"] = {"counts": list(loops), "mean": means, "std": deviations}
        return found

    def _shares(self, rows: Tensor, loops: Sequence[int]) -> Iterator[Tensor]:
        for some in torch.split(rows, self.micro_batch):
            batch = as_batch(some.to(self.device))
            with self.autocast():
                answers = self.model.answers_by_loops(batch.inputs, loops)  # (loops, B, T)
            assert batch.scored is not None
            right = ((answers == batch.targets) & batch.scored).sum(-1).double()
            count = batch.scored.sum(-1)
            yield (right / count)[:, count > 0].cpu()
