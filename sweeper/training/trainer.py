"""The training loop of one run: from its last checkpoint, or from the start, to a result."""

import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.loop import Observer
from sweeper.data import Prefetch, TaskData, TokenData, open_data
from sweeper.errors import UserError
from sweeper.records.checkpoint import load_checkpoint, save_checkpoint
from sweeper.records.metrics import SCORES, WHOLE_STEPS, MetricsFile
from sweeper.records.run_dir import RunDir
from sweeper.run.execution import Execution
from sweeper.run.memory import Fit
from sweeper.run.progress import Progress, Reporter
from sweeper.run.spec import RunConfig
from sweeper.run.stop import StopFlag
from sweeper.training.accuracy import Examiner
from sweeper.training.attempt import Attempt
from sweeper.training.batch import as_batch, blank_rows, scored_targets
from sweeper.training.blow_up import BlowUp
from sweeper.training.device import attention_backend, how, prepare_device, subnormals_as_zero, used, versions
from sweeper.training.diagnostics import StepLines, StreamNorms, loops_at_test_time, unigram_entropy
from sweeper.training.distributed import ALONE, Ranks
from sweeper.training.fit import FitFile, fit_on_device, ladder
from sweeper.training.gradients import FlatGradients, Gradients
from sweeper.training.measures import outcome
from sweeper.training.readouts import READOUT_TOKENS, StreamReadouts
from sweeper.training.setup import compiled_by, initialized

REPORT_SECONDS = 0.5
log = logging.getLogger(__name__)


def run_training(attempt: Attempt[RunConfig]) -> dict[str, Any] | None:
    """Train on the prepared data, together with the other ranks if there are any; see `Trainer.run`."""
    data = open_data(attempt.config.data, attempt.data_root)
    ranks = attempt.rank_info.join(attempt.execution.device, attempt.stop)
    trainer = Trainer(attempt.rundir, attempt.config, attempt.execution, data, ranks)
    outcome = trainer.run(attempt.stop, attempt.report)
    ranks.leave()
    return outcome


class Trainer:
    """One run in this process, or this process's part of it.

    Batches and rates are pure functions of the step, so a resumed run repeats the interrupted one exactly, and the
    number of ranks may change in between.

    Args:
        rundir: the run's directory; its metrics and checkpoints are written here.
        config: what to train.
        execution: how.
        data: the prepared tokens, or the examples of a task.
        ranks: the processes that train this run together; rank 0 writes.

    Raises:
        UserError: if the data does not fit the configuration, the device is missing, or the batch cannot be shared
            out evenly.
    """

    def __init__(
        self, rundir: RunDir, config: RunConfig, execution: Execution, data: TokenData | TaskData, ranks: Ranks = ALONE
    ) -> None:
        if config.batch_sequences % ranks.size:
            raise UserError(
                f"batch.sequences={config.batch_sequences} cannot be shared out to {ranks.size} ranks; "
                "use a number of GPUs that divides it"
            )
        if data.manifest.vocab_size > config.model.vocab_size:
            raise UserError(
                f"model.vocab_size={config.model.vocab_size} is smaller than the data's vocabulary of "
                f"{data.manifest.vocab_size}; set it to that"
            )
        self.device = prepare_device(execution, config.precision)
        self.rundir, self.config, self.execution, self.data, self.ranks = rundir, config, execution, data, ranks
        self.reads_every_loss = self.device.type == "cpu"  # on a GPU that would wait for the device in every step
        self.model, self.optimizer = initialized(config, execution, self.device, compile_head=True)
        self.on_gpu = self.device.type == "cuda"
        self.attention = attention_backend(config.model, self.device, config.precision) if self.on_gpu else None
        self.compiled = execution.compile
        flat = execution.flat_gradients and (self.on_gpu or ranks.size > 1)
        self.gradients = (FlatGradients if flat else Gradients)(self.model, self.optimizer)
        self._lines = StepLines()
        self._blow_up = BlowUp(config, self.device) if config.stop_lost else None
        self._lost = False
        self._batches = Prefetch(partial(_batch, data, config, ranks, self.device))
        self.step = 0
        self.val_loss = math.nan
        self.scores: dict[str, float] = {}  # of the last validation, in a task
        self.seconds = dict.fromkeys(("step", "validation", "checkpoint", "compile", "readouts", "cpu"), 0.0)

    def run(self, stop: StopFlag, report: Reporter) -> dict[str, Any] | None:
        """Train until done, diverged or told to stop.

        Args:
            stop: once set, the step under way is finished, a checkpoint written and None returned.
            report: called with progress about twice a second.

        Returns:
            The measured part of the result (state, losses, timings), or None if stopped and resumable.
        """
        self._resume()
        if self.attention:
            log.info("on %s: %s", torch.cuda.get_device_name(self.device), versions(self.attention))
        if self.execution.compile or self.on_gpu:
            self.warm_up()
        file = self.rundir.metrics if self.ranks.is_main else Path(os.devnull)
        with MetricsFile(file) as metrics, subnormals_as_zero():
            return self._loop(metrics, stop, report)

    def validate(self, readouts: StreamReadouts | None = None) -> float:
        """Mean loss over the fixed validation set, in nats per token.

        Args:
            readouts: take in the first `READOUT_TOKENS` on the way.
        """
        n_read = max(1, READOUT_TOKENS // self.config.seq_len) if readouts is not None else 0  # sequences

        def loss_of(first: int, some: Tensor) -> Tensor:
            observe = readouts.observe if readouts is not None and first < n_read else None
            with self._timed("validation"), torch.no_grad():
                loss = self._loss(some, observe)
            if readouts is not None and observe is not None:
                with self._timed("readouts"), self._autocast():
                    readouts.update(as_batch(some).first(n_read - first))
            return loss

        [loss] = self._mean_over_validation(1, loss_of)
        if readouts is not None:
            self.ranks.sum_(readouts.sums())
        return loss

    def test_losses(self) -> dict[str, list[Any]]:
        """The validation loss at several loop counts, as a read-out in which i is the loop count.

        At the model's own N it is the number that `validate` returns.
        """
        loops = loops_at_test_time(self.config.model.n_loops)

        def losses_of(_: int, some: Tensor) -> Tensor:
            batch = as_batch(some)
            with self._timed("readouts"), self._autocast():
                return self.model.losses_by_loops(batch.inputs, batch.targets, loops, batch.weights)

        losses = self._mean_over_validation(len(loops), losses_of)
        finite = [loss if math.isfinite(loss) else None for loss in losses]
        return {"counts": loops, "mean": finite, "std": [None] * len(loops)}

    def _mean_over_validation(self, width: int, losses_of: Callable[[int, Tensor], Tensor]) -> list[float]:
        """Means of `width` losses over the fixed validation set; `losses_of` gets a row's number, and rows from it."""
        rows, part = self._validation_rows(), self.execution.micro_batch
        starts = range(0, len(rows), part)
        losses = torch.zeros(width, len(starts), dtype=torch.float64, device=self.device)
        for i in range(self.ranks.rank, len(starts), self.ranks.size):
            losses[:, i] = losses_of(starts[i], rows[starts[i] : starts[i] + part].to(self.device))
        self.ranks.sum_([losses])
        return [float(of.clone().mean()) for of in losses]  # each as if it were alone: a GPU sums by alignment

    def _scores(self) -> dict[str, float]:
        """Accuracy and exact match on the validation set of a task, at the model's own N; nothing for text."""
        if not isinstance(self.data, TaskData):
            return {}
        with self._timed("validation"):
            found = self._examiner.scores(self._validation_rows(), [self.config.model.n_loops])
        self.scores = dict(zip(SCORES, (mean for [(mean, _)] in found.values()), strict=True))
        return self.scores

    @property
    def _examiner(self) -> Examiner:
        return Examiner(self.model, self.execution.micro_batch, self.device, self._autocast)

    def _validation_rows(self) -> Tensor:
        rows = self.data.validation(self.config.seq_len, self.config.validation_tokens)
        if rows.shape[0] * self.config.seq_len < self.config.validation_tokens:
            raise UserError(
                f"validation.tokens={self.config.validation_tokens} exceeds the validation split, which has "
                f"{rows.shape[0] * self.config.seq_len} in sequences of {self.config.seq_len}; lower it"
            )
        return torch.from_numpy(rows)

    def _loop(self, metrics: MetricsFile, stop: StopFlag, report: Reporter) -> dict[str, Any] | None:
        execution, steps = self.execution, self.config.schedule.steps
        reported, start_step, start_seconds = 0.0, self.step, self.seconds["step"]
        while self.step < steps:
            stopping = self.ranks.any(stop.is_set())
            with self._timed("step"):
                lines = self._lines.take() if stopping else self.train_step()
            for line in lines:
                metrics.write(line)
                if not math.isfinite(line["loss"]):
                    return self._outcome("diverged", f"loss is {line['loss']} at step {line['step']}")
            if stopping:
                self._checkpoint()
                return None
            if self._lost:
                self.val_loss = self.validate()
                metrics.write({"step": self.step, "val_loss": self.val_loss})
                return self._outcome("diverged", f"the loss has blown up at step {self.step}")
            last = self.step == steps
            if last or self.step % execution.validate_every == 0:
                readouts = StreamReadouts(self.model) if last else None
                self.val_loss = self.validate(readouts)
                metrics.write({"step": self.step, "val_loss": self.val_loss, **self._scores()})
                if readouts is not None:
                    self._write_readouts(readouts)
            if last or self.step % execution.checkpoint_every == 0:
                self._checkpoint()
            if lines and time.monotonic() - reported > REPORT_SECONDS:
                reported = time.monotonic()
                rate = (self.step - start_step) / (self.seconds["step"] - start_seconds)
                left = (steps - self.step) / rate
                report(Progress(self.step, steps, lines[-1]["loss"], rate * self.config.batch_tokens, left))
        if not self.val_loss <= self.config.diverged_above:  # also true of nan
            reason = f"final val_loss {self.val_loss:.4f} is not at most {self.config.diverged_above:g}"
            return self._outcome("diverged", reason)
        return self._outcome("done", "")

    def _write_readouts(self, readouts: StreamReadouts) -> None:
        found = readouts.to_dict()
        if self.config.diagnostics:
            found["test_loss"] = self.test_losses()
        if isinstance(self.data, TaskData) and self.ranks.is_main:
            each = self.config.validation_tokens // self.config.seq_len // len(self.data.task.all_levels)
            with self._timed("readouts"):
                found |= self._examiner.at_levels(
                    self.data, max(1, each), loops_at_test_time(self.config.model.n_loops)
                )
        if self.ranks.is_main:
            self.rundir.write_readouts(found)

    def train_step(self) -> list[dict[str, float]]:
        """One optimizer step.

        Returns:
            The lines of metrics to write now. They are read from the device at every `log_every`th step and before
            validations and checkpoints. Where every loss is read, so is one that is not finite.
        """
        config, execution, step = self.config, self.execution, self.step + 1
        due = step % execution.log_every == 0 or step == config.schedule.steps
        stream = StreamNorms(config.model.n_loops, self.device) if due and config.diagnostics else None
        rows = self._batches(self.step)
        loss = torch.zeros((), device=self.device)
        for part in torch.split(rows, execution.micro_batch):
            part_loss = self._loss(part, stream.observe if stream else None) * (len(part) / config.batch_sequences)
            part_loss.backward()  # type: ignore[no-untyped-call]
            loss += part_loss.detach()
        self.gradients.sum_over(self.ranks, [loss, *(stream.sums() if stream else ())])
        norm = self.gradients.clip_(config.grad_clip)
        factor = config.schedule.factor(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor
        self.optimizer.step()
        self.gradients.zero_()
        self.step = step
        due = due or (self.reads_every_loss and not math.isfinite(loss.item()))
        if self._blow_up is not None:
            self._lost = self._blow_up.lost(step, loss)
            due = due or self._lost
        if due or (config.diagnostics and step <= WHOLE_STEPS):
            rate, of_stream = config.base_lr * factor, stream.line(config.batch_tokens) if stream else {}
            self._lines.add({"step": step, "loss": loss, "grad_norm": norm, "base_lr": rate, **of_stream})
        due = due or step % execution.validate_every == 0 or step % execution.checkpoint_every == 0
        if due:
            self._wait()  # here, so that the seconds of steps are all counted as such
        return self._lines.take() if due else []

    def _loss(self, rows: Tensor, observe: Observer | None = None) -> Tensor:
        """Mean loss of rows, see `as_batch`; `observe` as for `LoopedTransformer`."""
        batch = as_batch(rows.to(self.device, non_blocking=True))
        with self._autocast():
            loss: Tensor = self.model(batch.inputs, batch.targets, weights=batch.weights, observe=observe)
        return loss

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16")

    def warm_up(self) -> None:
        """Before the first timed step compile both graphs that the loop uses, and on a GPU see what fits.

        Raises:
            UserError: if nothing fits; and of `compiled_by`.
        """
        with self._timed("compile"):
            if self.on_gpu and self.execution.probe_memory:
                self.fit_memory(torch.cuda.get_device_name(self.device))
            else:
                self._compile_passes()

    def fit_memory(self, gpu: str) -> None:
        """Choose micro-batch and recomputation by trying; `gpu` is the device's name. Weights and state stay."""
        config, share = self.config, self.config.batch_sequences // self.ranks.size
        moments = config.state_bytes - 8 * config.model.n_params if self.step == 0 else 0  # later they are there

        def attempt(fit: Fit) -> None:
            room = torch.empty(moments, dtype=torch.uint8, device=self.device)
            self.execution = replace(self.execution, **vars(fit))
            self.model.recompute, self.model.recompute_layers = fit.recompute, fit.recompute_layers
            self._compile_passes()
            del room

        fits = ladder(config, self.execution, share)
        file = FitFile(self.rundir.path / "execution.json")
        fit_on_device(file, fits, attempt, gpu=gpu, resumed=self.step > 0, ranks=self.ranks)

    def _compile_passes(self) -> None:
        rows = blank_rows(self.data, self.execution.micro_batch, self.config.seq_len)

        def passes() -> None:
            self._loss(rows).backward()  # type: ignore[no-untyped-call]
            with torch.no_grad():
                self._loss(rows)

        try:
            self.compiled = compiled_by(passes, self.execution)
        finally:
            self.gradients.zero_()

    def _resume(self) -> None:
        is_main = self.ranks.is_main
        state = load_checkpoint(self.rundir.checkpoints, self.device) if is_main else None
        step = self.ranks.from_first(state["step"] if state else 0)
        if step and not is_main:
            state = load_checkpoint(self.rundir.checkpoints, self.device, step)
            if state is None:
                raise RuntimeError(f"checkpoint of step {step}, which rank 0 resumes from, cannot be read here")
        if state is not None:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.val_loss, self.scores = state["step"], state["val_loss"], state.get("scores", {})
            self.seconds |= state["seconds"]
            if self._blow_up is not None:
                self._blow_up.load_state_dict(state["blow_up"])
        if is_main:
            self.rundir.truncate_metrics(self.step)

    def _checkpoint(self) -> None:
        if not self.ranks.is_main:
            return
        with self._timed("checkpoint"):
            state = {
                "step": self.step,
                "val_loss": self.val_loss,
                "scores": self.scores,
                "seconds": self.seconds,
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                **({"blow_up": self._blow_up.state_dict()} if self._blow_up is not None else {}),
            }
            save_checkpoint(self.rundir.checkpoints, self.step, state)

    def _outcome(self, state: str, reason: str) -> dict[str, Any]:
        found = {
            **outcome(state, reason, self.step, self.config.schedule.steps, self.seconds),
            "val_loss": self.val_loss if math.isfinite(self.val_loss) else None,
            "tokens": self.step * self.config.batch_tokens,
            **self.scores,
        }
        if self.attention:
            found["execution"] = {**how(self.execution, compiled=self.compiled), **versions(self.attention)}
            found |= used(self.config, self.step, self.seconds["step"], self.ranks.size, self.device)
        if self.config.diagnostics:
            found["unigram_entropy"] = unigram_entropy(scored_targets(self._validation_rows()).numpy())
        return found

    def _wait(self) -> None:
        """Until the GPU has done what it was given."""
        if self.on_gpu:
            torch.cuda.synchronize(self.device)

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        """Seconds of wall and processor time, a GPU's included. Steps wait for it only where they are read."""
        began, cpu = time.perf_counter(), time.process_time()
        yield
        if name != "step":
            self._wait()
        self.seconds[name] += time.perf_counter() - began
        self.seconds["cpu"] += time.process_time() - cpu


def _batch(data: TokenData | TaskData, config: RunConfig, ranks: Ranks, device: torch.device, step: int) -> Tensor:
    """This rank's rows of a step's batch, int64 (B, T + 1); pinned for a GPU."""
    offset, count = ranks.part(config.batch_sequences)
    first = step * config.batch_sequences + offset
    rows = torch.from_numpy(data.sequences(first, count, config.seq_len, config.seed))
    return rows.pin_memory() if device.type == "cuda" else rows
