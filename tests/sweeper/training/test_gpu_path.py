"""A run by the Python path of a GPU, on a CPU: bf16 weights, the loss by rows, gradients in one buffer."""

from dataclasses import replace

import pytest
import torch

from model.gpu.enable import enable
from sweeper.records.checkpoint import load_checkpoint
from sweeper.training import trainer
from sweeper.training.gradients import FlatGradients
from sweeper.training.setup import initialized

from .interruptions import StopAfter


@pytest.fixture
def gpu_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainers take what a GPU would, but the device, and compile nothing."""

    def as_on_a_gpu(*args, **options):
        model, optimizer = initialized(*args, **options)
        enable(model, optimizer, compiled=False, fused_loss=True, bf16_weights=True)
        return model, optimizer

    monkeypatch.setattr(trainer, "initialized", as_on_a_gpu)
    monkeypatch.setattr(trainer, "Gradients", FlatGradients)


@pytest.fixture
def in_bf16(run_config):
    return replace(run_config, precision="bf16")


@pytest.fixture
def plainly(execution):
    return replace(execution, compile=False)


@pytest.mark.parametrize("step", [3, 6])
def test_a_run_stopped_and_resumed_equals_one_left_alone(
    gpu_path, runs, reference_runs, in_bf16, plainly, step
) -> None:
    undisturbed, _ = reference_runs.train(in_bf16, plainly)
    assert runs.train(in_bf16, plainly, stop=StopAfter(step))[1] is None
    rundir, result = runs.train(in_bf16, plainly)
    assert result["state"] == "done"
    assert rundir.metrics.read_bytes() == undisturbed.metrics.read_bytes()


def test_its_losses_are_near_those_of_fp32(gpu_path, runs, run_config, in_bf16, plainly) -> None:
    by_gpu = runs.train(in_bf16, plainly)[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "initialized", initialized)
        in_fp32 = runs.train(run_config, plainly)[1]
    assert by_gpu["val_loss"] == pytest.approx(in_fp32["val_loss"], rel=1e-2)


def test_checkpoints_hold_fp32_weights_and_are_resumed_without_that_path(
    gpu_path, runs, in_bf16, plainly, monkeypatch
) -> None:
    rundir = runs.train(in_bf16, plainly, stop=StopAfter(6))[0]
    state = load_checkpoint(rundir.checkpoints, torch.device("cpu"))
    assert state is not None
    assert {weight.dtype for weight in state["model"].values()} == {torch.float32}
    monkeypatch.setattr(trainer, "initialized", initialized)
    assert runs.train(in_bf16, plainly)[1]["state"] == "done"


def test_a_pass_that_fails_half_way_leaves_no_sums(gpu_path, runs, in_bf16, plainly, monkeypatch) -> None:
    run = trainer.Trainer(runs.write_config(in_bf16), in_bf16, plainly, runs.data)
    loss_of, had_sums = run._loss, []

    def fails_between_loop_steps(rows: torch.Tensor) -> torch.Tensor:
        def out_of_memory(_: torch.Tensor) -> None:
            had_sums.append(bool(run.gradients.buffer.any()))
            raise torch.OutOfMemoryError("CUDA out of memory")

        def observe(n: int, x: torch.Tensor) -> None:
            if n == 1 and x.requires_grad and len(rows) > 2:
                x.register_hook(out_of_memory)

        return loss_of(rows, observe)

    monkeypatch.setattr(run, "_loss", fails_between_loop_steps)
    run.fit_memory("NVIDIA H100")
    assert had_sums == [True]
    assert run.execution.micro_batch == 2
    assert not run.gradients.buffer.any()


def test_diagnostics_do_not_change_what_is_trained(gpu_path, runs, reference_runs, in_bf16, plainly) -> None:
    plain, _ = reference_runs.train(in_bf16, plainly)
    watched, _ = runs.train(replace(in_bf16, diagnostics=True), plainly)
    losses = [[line["loss"] for line in rundir.read_metrics() if "loss" in line] for rundir in (plain, watched)]
    assert losses[0] == losses[1]
    assert any("stream_grad_1" in line for line in watched.read_metrics())
