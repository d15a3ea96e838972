"""What the first minutes on a GPU find out: whether its fast path computes what a CPU does, how fast it is, and whether
a resumed run repeats. All of it also runs on a CPU, at small shapes. On a GPU it never ran.
"""

import gc
import json
import shutil
import time
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from model import ModelConfig, parameter_table
from sweeper.data.tokens import Rows
from sweeper.hardware import gpu_kind
from sweeper.records.checkpoint import load_checkpoint
from sweeper.records.run_dir import RunDir
from sweeper.run.execution import Execution
from sweeper.run.memory import Fit, gpu_bytes
from sweeper.run.roofline import Settings, step_time, utilisation
from sweeper.run.schedule import Schedule
from sweeper.run.spec import RunConfig
from sweeper.run.stop import StopFlag
from sweeper.training.trainer import Trainer

FROZEN = Path(__file__).with_name("gpu_parity.json")  # python benchmarks/gpu_day_one.py --freeze
LOSS_BAR, GRADIENT_BAR = 1e-2, 3e-2  # nats; share of the gradient's norm
PARITY_STEPS, PROJECTIONS = 4, 16
SLOWEST = 0.8  # of the modelled speed
TIMED_STEPS, TIMED_MICRO_BATCHES = 3, 4


class RandomTokens:
    """Stands in for prepared data: low token ids are the likelier ones. Rows are a pure function of their number."""

    def __init__(self, vocab_size: int) -> None:
        self.manifest = SimpleNamespace(vocab_size=vocab_size)

    def sequences(self, first: int, count: int, seq_len: int, seed: int) -> Rows:
        """See `TokenData.sequences`."""
        rows = [np.random.default_rng((seed, row)).random(seq_len + 1) for row in range(first, first + count)]
        tokens: Rows = (np.stack(rows) ** 3 * self.manifest.vocab_size).astype(np.int64)
        return tokens

    def validation(self, seq_len: int, max_tokens: int) -> Rows:
        """See `TokenData.validation`."""
        return self.sequences(10**9, max_tokens // seq_len, seq_len, 0)


def parity_run(precision: str) -> RunConfig:
    """A small training with heads of 64, four loop steps and a head of several chunks."""
    return RunConfig(
        model=ModelConfig(
            vocab_size=1024, d_model=128, n_heads=2, mlp_dim=344, n_layers=2, n_loops=4, residual_scale=0.25
        ),
        table=parameter_table(base_lr=1e-3, init_std=0.05, eps=1e-8, weight_decay=0.1, depth_multiplier=1),
        betas=(0.9, 0.95),
        grad_clip=None,  # so that the optimizer gets the gradient as it is
        schedule=Schedule(steps=2 * PARITY_STEPS, warmup=1, decay=1),
        batch_sequences=8,
        seq_len=128,
        validation_tokens=256,
        diverged_above=100.0,
        data="",
        seed=0,
        precision=precision,
    )


def _of_parity_run(execution: Execution) -> Execution:
    """As another run is executed, but with what is fitted to a shape fitted to this one."""
    fit = Fit(micro_batch=4)
    return replace(execution, **vars(fit), log_every=1, checkpoint_every=10**6)


def trainer_of(config: RunConfig, execution: Execution, path: Path = Path()) -> Trainer:
    """A trainer on random tokens."""
    return Trainer(RunDir(path), config, execution, cast(Any, RandomTokens(config.model.vocab_size)))


def measured(execution: Execution, precision: str) -> dict[str, Any]:
    """Losses of the first steps of `parity_run`, and of its first gradient the norm and random projections."""
    execution = _of_parity_run(execution)
    gradients: dict[str, Tensor] = {}
    _release()
    with TemporaryDirectory() as folder:
        trainer = trainer_of(parity_run(precision), execution, Path(folder))
        trainer.warm_up()
        step = trainer.optimizer.step

        def keeping() -> None:
            named = trainer.model.named_parameters()
            gradients.update({name: p.grad.detach().float().cpu() for name, p in named if p.grad is not None})
            trainer.optimizer.step = step  # type: ignore[method-assign]
            step()

        trainer.optimizer.step = keeping  # type: ignore[method-assign]
        losses = [float(line["loss"]) for _ in range(PARITY_STEPS) for line in trainer.train_step()]
    return {"losses": losses, "gradient": {name: _projected(name, of) for name, of in sorted(gradients.items())}}


def _projected(name: str, gradient: Tensor) -> dict[str, Any]:
    """On vectors of ±1: the mean square of a difference in them is that of the gradients' difference."""
    flat = gradient.numpy().ravel().astype(np.float64)
    draw = np.random.default_rng(zlib.crc32(name.encode()))
    onto = [float(f"{(flat * draw.choice((-1.0, 1.0), len(flat))).sum():.6g}") for _ in range(PROJECTIONS)]
    return {"norm": float(f"{np.linalg.norm(flat):.6g}"), "onto": onto}


def parity(execution: Execution, precision: str) -> dict[str, Any]:
    """How far losses and gradient are from those of a CPU in fp32, which are frozen in this package."""
    frozen, found = json.loads(FROZEN.read_text()), measured(execution, precision)
    loss = max(abs(one - other) for one, other in zip(found["losses"], frozen["losses"], strict=True))
    pairs = [(found["gradient"][name], of) for name, of in frozen["gradient"].items()]
    apart = sum(np.mean(np.subtract(one["onto"], other["onto"]) ** 2) for one, other in pairs)
    gradient = float(np.sqrt(apart / sum(other["norm"] ** 2 for _, other in pairs)))
    passed = loss <= LOSS_BAR and gradient <= GRADIENT_BAR  # false for NaN
    return {"loss": loss, "gradient": gradient, "bars": [LOSS_BAR, GRADIENT_BAR], "passed": passed}


def timed(config: RunConfig, execution: Execution) -> dict[str, Any]:
    """Time, memory and utilisation of a step, next to the model's where the GPU is known.

    A few micro-batches are timed, and a whole step is taken to be as much slower than modelled as they are.
    """
    few = min(config.batch_sequences, TIMED_MICRO_BATCHES * execution.micro_batch)
    part, on_gpu = replace(config, batch_sequences=few), execution.device == "cuda"
    _release()
    with TemporaryDirectory() as folder:
        trainer = trainer_of(part, execution, Path(folder))
        trainer.warm_up()
        execution = trainer.execution  # where memory ran out, a smaller micro-batch
        trainer.train_step()
        _wait(on_gpu)
        began = time.perf_counter()
        for _ in range(TIMED_STEPS):
            trainer.train_step()
        _wait(on_gpu)
        seconds = (time.perf_counter() - began) / TIMED_STEPS
    found: dict[str, Any] = {
        "micro_batch": execution.micro_batch,
        "recompute": execution.recompute,
        "attention": trainer.attention,
        "compiled": trainer.compiled,
        "sequences": few,
        "seconds": seconds,
        "tokens_per_second": part.batch_tokens / seconds,
    }
    if on_gpu:
        fit = Fit(execution.micro_batch, execution.recompute, execution.recompute_layers)
        found["peak_bytes"] = torch.cuda.max_memory_allocated()
        how = {"compiled": execution.compile, "bf16_weights": execution.bf16_weights}
        found["estimated_bytes"] = gpu_bytes(config, fit, **how)
        if (kind := gpu_kind(torch.cuda.get_device_name())) is not None:
            settings = Settings.of(execution)
            speed = step_time(part, kind, settings).seconds / seconds
            step = step_time(config, kind, settings).seconds / speed
            found |= {"of_modelled_speed": speed, "step_seconds": step, "fast_enough": speed >= SLOWEST}
            found["mfu"] = dict(utilisation(config, kind, step * config.steps))
    return found


def repeats(execution: Execution, precision: str) -> dict[str, bool]:
    """Whether two runs, resumed from the same checkpoint, have the same losses and weights, bit for bit."""
    config = parity_run(precision)
    execution = _of_parity_run(execution)
    _release()
    with TemporaryDirectory() as folder:
        first = trainer_of(config, execution, Path(folder) / "first")
        first.rundir.path.mkdir()
        first.run(_StopAt(first, PARITY_STEPS), lambda _: None)
        ends = []
        for name in ("one", "other"):
            path = Path(folder) / name
            shutil.copytree(first.rundir.path, path)
            trainer = trainer_of(config, execution, path)
            trainer.run(StopFlag(), lambda _: None)
            state = load_checkpoint(trainer.rundir.checkpoints, torch.device("cpu"))
            assert state is not None
            ends.append((trainer.rundir.metrics.read_bytes(), state["model"]))
        (losses, weights), (other_losses, other_weights) = ends
    same = all(torch.equal(weight, other_weights[name]) for name, weight in weights.items())
    return {"losses": losses == other_losses, "weights": same}


def environment() -> dict[str, Any]:
    """The GPU and the versions of what computes on it."""
    found: dict[str, Any] = {"torch": torch.__version__, "cuda": torch.version.cuda}
    if torch.cuda.is_available():
        found |= {
            "gpu": torch.cuda.get_device_name(),
            "memory_bytes": torch.cuda.get_device_properties(0).total_memory,
            "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        }
    return found


class _StopAt(StopFlag):
    """Set once a trainer has done so many steps."""

    def __init__(self, trainer: Trainer, step: int) -> None:
        super().__init__()
        self._reached: Callable[[], bool] = lambda: trainer.step >= step

    def is_set(self) -> bool:
        return self._reached()


def _wait(on_gpu: bool) -> None:
    if on_gpu:
        torch.cuda.synchronize()


def _release() -> None:
    """Free what was on the device before: memory, its peak, compiled programs."""
    gc.collect()
    torch.compiler.reset()
    torch.compiler.set_stance("default")
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
