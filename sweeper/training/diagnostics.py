"""What a training records of its own stability, with `RunConfig.diagnostics`: the second paper's measurements.

metrics.jsonl has a line for every one of the first `WHOLE_STEPS` steps. Lines of every `log_every` steps also have the
norm of the stream and of its gradient at the end of each loop step (arXiv 2605.18797). When it ends, the model is also
validated at other loop counts than it was trained at.
"""

from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sweeper.records.metrics import STREAM_GRADIENT, STREAM_NORM

PAPER_LOOPS = (1, 3, 6, 9, 12)  # at test time, in the second paper


class StepLines:
    """Lines of metrics on their way to the file. Their numbers stay on the device until they are taken.

    Reading one number of a GPU waits for all that it was given to do.
    """

    def __init__(self) -> None:
        self._lines: list[dict[str, float | Tensor]] = []

    def add(self, line: dict[str, float | Tensor]) -> None:
        """Keep a line of plain numbers and scalar fp32 tensors."""
        self._lines.append(line)

    def take(self) -> list[dict[str, float]]:
        """The lines since the last call, in order. Their tensors are read at once."""
        lines, self._lines = self._lines, []
        tensors = [value for line in lines for value in line.values() if isinstance(value, Tensor)]
        numbers = iter(torch.stack(tensors).tolist() if tensors else ())
        return [
            {name: next(numbers) if isinstance(value, Tensor) else value for name, value in line.items()}
            for line in lines
        ]


class StreamNorms:
    """How large the stream and its gradient are at the end of each loop step, in one training step.

    Pass `observe` to the forward pass of every part of the batch, and run its backward pass.

    Args:
        n_loops: loop steps N.
        device: of the stream.
    """

    def __init__(self, n_loops: int, device: torch.device) -> None:
        self._sums = torch.zeros(2, n_loops, dtype=torch.float64, device=device)  # norms, squares of the gradient

    def observe(self, n: int, x: Tensor) -> None:
        """The stream x (B, T, d_model) at the end of loop step n, or the embedding, n = 0."""
        if n > 0:
            self._sums[0, n - 1] += torch.linalg.vector_norm(x.detach(), dim=-1, dtype=torch.float32).double().sum()
            x.register_hook(partial(self._add_gradient, n))  # type: ignore[no-untyped-call]

    def _add_gradient(self, n: int, gradient: Tensor) -> None:
        self._sums[1, n - 1] += torch.linalg.vector_norm(gradient, dtype=torch.float32).double().square()

    def sums(self) -> list[Tensor]:
        """Tensors to sum over processes, in place, if each process has a part of the batch."""
        return [self._sums]

    def line(self, tokens: int) -> dict[str, Tensor]:
        """Metrics by name, n = 1 … N: the mean over tokens of the stream's L2 norm, and the L2 norm of its gradient.

        Args:
            tokens: of the whole batch.
        """
        norms, squares = self._sums
        found = {STREAM_NORM: norms / tokens, STREAM_GRADIENT: squares.sqrt()}
        return {f"{name}{n}": value for name, of in found.items() for n, value in enumerate(of.float().unbind(), 1)}


def loops_at_test_time(n_loops: int) -> list[int]:
    """1, N/2, N, 2N, and the second paper's, in order."""
    return sorted({1, n_loops // 2, n_loops, 2 * n_loops, *PAPER_LOOPS} - {0})


def unigram_entropy(targets: npt.NDArray[np.int64]) -> float:
    """Entropy of the tokens' frequencies in nats: the loss of the best prediction that reads no context."""
    counts = np.bincount(targets.ravel())
    share = counts[counts > 0] / targets.size
    return float(-(share * np.log(share)).sum())
