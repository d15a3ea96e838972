"""What a step keeps on the GPU at hand: tried before the first step, written down for those who resume.

Gradients are sums over micro-batches, so a run that resumes with another micro-batch rounds differently. The choice is
in execution.json in the run's directory. Modelled and tested with raised errors, never run on a GPU.
"""

import gc
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from sweeper.errors import UserError
from sweeper.files import read_json, write_json
from sweeper.run.base import ModelRun
from sweeper.run.execution import Execution
from sweeper.run.memory import Fit, candidates
from sweeper.training.distributed import Ranks

VERSION = 1
log = logging.getLogger(__name__)


def ladder(config: ModelRun, execution: Execution, share: int) -> list[Fit]:
    """What to try, from what the estimate has chosen on.

    Args:
        config: what is trained.
        execution: how, by the estimate.
        share: sequences of this rank in a batch, which micro-batches divide.
    """
    limit = min(execution.micro_batch, share)
    return candidates(config, limit, True if execution.recompute else None, share)


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or one that it was raised from, is that a GPU's memory ran out. A compiler wraps its causes."""
    while error is not None:
        if isinstance(error, torch.OutOfMemoryError):
            return True
        error = getattr(error, "inner_exception", None) or error.__cause__ or error.__context__
    return False


@dataclass(frozen=True)
class FitFile:
    """execution.json of a run's directory."""

    path: Path

    def read(self) -> tuple[Fit, str] | None:
        """The choice, and the GPU that it was made on; None if there is none that this version reads."""
        record = read_json(self.path)
        if record is None or record.get("version") != VERSION:
            return None
        return Fit(**record["fit"]), record["gpu"]

    def write(self, fit: Fit, gpu: str) -> None:
        """Replace it."""
        write_json(self.path, {"version": VERSION, "fit": asdict(fit), "gpu": gpu})


def fit_on_device(
    file: FitFile, fits: list[Fit], attempt: Callable[[Fit], Any], *, gpu: str, resumed: bool, ranks: Ranks
) -> Fit:
    """The first choice with which a step fits on every rank.

    Args:
        file: is written by rank 0.
        fits: to try, the fastest first.
        attempt: makes a step's passes with it; raises `torch.OutOfMemoryError` where it does not fit.
        gpu: name of this GPU.
        resumed: the run has steps, so the choice of those before is kept.
        ranks: the processes that train the run.

    Raises:
        UserError: if none fits.
    """
    known = file.read() if resumed and ranks.is_main else None
    if (kept := _from_first(known[0] if known else None, ranks)) is not None:
        fits = [kept]
    for fit in fits:
        if not ranks.any(_runs_out(attempt, fit)):
            if ranks.is_main and kept is None:
                file.write(fit, gpu)
            return fit
        log.warning("out of memory on %s with %s", gpu, _named(fit))
    if kept is not None:
        was = known[1] if known else "another GPU"
        raise UserError(
            f"{file.path}: the run has trained on {was} with {_named(kept)}, which {gpu} has not the memory for; "
            "resume it on such a GPU, or delete the file to continue with less, which rounds differently"
        )
    raise UserError(
        f"out of memory on {gpu} with {_named(fits[-1])}, below which execution cannot go; use a GPU with more memory, "
        "a smaller batch.seq_len or a smaller model"
    )


def _runs_out(attempt: Callable[[Fit], Any], fit: Fit) -> bool:
    """Whether an attempt ran out of memory. Its tensors are gone then, with the error and its frames."""
    try:
        attempt(fit)
        return False
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    return True


def _from_first(fit: Fit | None, ranks: Ranks) -> Fit | None:
    """The choice of rank 0, on every rank."""
    numbers = (fit.micro_batch, int(fit.recompute), fit.recompute_layers or 0) if fit else (0, 0, 0)
    micro_batch, recompute, layers = (ranks.from_first(number) for number in numbers)
    return Fit(micro_batch, bool(recompute), layers or None) if micro_batch else None


def _named(fit: Fit) -> str:
    return f"a micro-batch of {fit.micro_batch}" + (" and recomputation" if fit.recompute else "")
