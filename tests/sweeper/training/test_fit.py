"""On a GPU a step is tried before the first one, then smaller micro-batches. No GPU is needed: errors are raised."""

import json
from dataclasses import replace
from typing import Any

import pytest
import torch

from sweeper.errors import UserError
from sweeper.run.memory import Fit
from sweeper.run.stop import StopFlag
from sweeper.training.distributed import ALONE
from sweeper.training.fit import FitFile, fit_on_device, ladder
from sweeper.training.setup import compiled_by
from sweeper.training.trainer import Trainer

from .interruptions import StopAfter


class OutOfMemoryTrainer(Trainer):
    """Trains on the CPU as on a GPU whose memory takes `room` sequences, and one more if they are recomputed."""

    room = 4
    tried: list[tuple[int, bool]]

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.on_gpu, self.tried = True, []

    def _loss(self, rows: torch.Tensor, observe: Any = None) -> torch.Tensor:
        if not self.step:
            self.tried.append((len(rows), self.model.recompute))
        if len(rows) > self.room + self.model.recompute:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.17 GiB.")
        return super()._loss(rows, observe)


@pytest.fixture(autouse=True)
def a_gpu_by_name(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "NVIDIA H100")
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: None)


@pytest.fixture
def train(runs, run_config, execution):
    """`train(room, stop_at=None)`: trains, or resumes; the trainer and the outcome."""

    def start(room: int, stop_at: int | None = None) -> tuple[OutOfMemoryTrainer, Any]:
        rundir = runs.write_config(run_config, execution)
        trainer = OutOfMemoryTrainer(rundir, run_config, execution, runs.data)
        trainer.room = room
        return trainer, trainer.run(StopFlag() if stop_at is None else StopAfter(stop_at), lambda progress: None)

    return start


def test_the_micro_batch_is_halved_until_a_step_fits(train, reference_runs, run_config, execution) -> None:
    trainer, _ = train(room=2)
    assert [size for size, _ in trainer.tried[:3]] == [4, 2, 2]
    assert trainer.execution.micro_batch == 2
    record = json.loads((trainer.rundir.path / "execution.json").read_text())
    assert record["fit"] == {"micro_batch": 2, "recompute": False, "recompute_layers": None}
    rundir, _ = reference_runs.train(run_config, replace(execution, micro_batch=2))
    assert trainer.rundir.metrics.read_bytes() == rundir.metrics.read_bytes()


def test_one_sequence_is_recomputed_before_the_run_is_given_up(train) -> None:
    trainer, _ = train(room=0)
    assert (trainer.execution.micro_batch, trainer.model.recompute) == (1, True)
    assert [*dict.fromkeys(trainer.tried)] == [(4, False), (2, False), (1, False), (1, True)]


def test_a_run_that_fits_in_no_way_says_what_would_help(train) -> None:
    with pytest.raises(UserError, match=r"out of memory on NVIDIA H100 with a micro-batch of 1 and recomputation, "):
        train(room=-1)


def test_a_resumed_run_sums_as_before_where_more_would_fit(train, reference_runs, run_config, execution) -> None:
    assert train(room=2, stop_at=5)[1] is None
    trainer, _ = train(room=4)
    assert trainer.execution.micro_batch == 2
    rundir, _ = reference_runs.train(run_config, replace(execution, micro_batch=2))
    assert trainer.rundir.metrics.read_bytes() == rundir.metrics.read_bytes()


def test_a_resumed_run_that_does_not_fit_names_the_gpu_and_the_file(train, monkeypatch) -> None:
    train(room=4, stop_at=5)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "NVIDIA L4")
    with pytest.raises(UserError, match=r"execution\.json: .* on NVIDIA H100 with a micro-batch of 4, .*NVIDIA L4"):
        train(room=2)


def test_trying_changes_neither_weights_nor_state(runs, run_config, execution) -> None:
    trainer = OutOfMemoryTrainer(runs.write_config(run_config), run_config, execution, runs.data)
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    trainer.fit_memory("NVIDIA H100")
    assert all(torch.equal(before[name], tensor) for name, tensor in trainer.model.state_dict().items())
    assert not trainer.optimizer.state_dict()["state"]
    assert all(p.grad is None or not p.grad.any() for p in trainer.model.parameters())


def test_micro_batches_divide_the_share_of_a_rank(literal_run, execution) -> None:
    run, on_gpu = replace(literal_run, batch_sequences=24), replace(execution, micro_batch=8)
    assert [fit.micro_batch for fit in ladder(run, on_gpu, share=6)] == [6, 2, 1, 1]
    assert ladder(run, replace(on_gpu, micro_batch=2, recompute=True), share=6)[0] == Fit(2, True)


def test_a_choice_that_another_version_wrote_is_made_anew(tmp_path) -> None:
    file = FitFile(tmp_path / "execution.json")
    file.path.write_text('{"version": 99, "fit": {"sequences": 3}}')
    fit = fit_on_device(file, [Fit(2)], lambda fit: None, gpu="NVIDIA H100", resumed=True, ranks=ALONE)
    assert fit == Fit(2)
    assert file.read() == (Fit(2), "NVIDIA H100")


def fails(error: Exception):
    """Passes that raise it."""

    def passes() -> None:
        raise error

    return passes


def test_a_block_that_a_gpu_cannot_compile_is_an_error_unless_allowed(execution, monkeypatch) -> None:
    stances: list[str] = []
    monkeypatch.setattr(torch.compiler, "set_stance", stances.append)
    on_gpu = replace(execution, device="cuda", compile=True)
    with pytest.raises(UserError, match=r"execution\.compile=true: .*\(no ptxas\).*execution\.allow_uncompiled=true"):
        compiled_by(fails(RuntimeError("no ptxas\nmore")), on_gpu)
    assert stances == []

    def passes() -> None:
        if not stances:
            raise RuntimeError("no ptxas")

    assert compiled_by(passes, replace(on_gpu, allow_uncompiled=True)) is False
    assert stances == ["force_eager"]
    assert compiled_by(passes, on_gpu) is True


def test_on_a_cpu_a_block_that_cannot_be_compiled_runs_uncompiled(execution, monkeypatch) -> None:
    stances: list[str] = []
    monkeypatch.setattr(torch.compiler, "set_stance", stances.append)
    assert compiled_by(fails(RuntimeError("no compiler")), replace(execution, compile=True)) is False
    assert stances == ["force_eager"]


@pytest.mark.parametrize("wrapped", [False, True])
def test_memory_that_runs_out_is_no_failure_of_the_compiler(execution, monkeypatch, wrapped) -> None:
    """A compiler raises its own error from it."""
    monkeypatch.setattr(torch.compiler, "set_stance", lambda _: pytest.fail("the compiler was turned off"))
    error: Exception = torch.OutOfMemoryError("CUDA out of memory.")
    if wrapped:
        cause, error = error, RuntimeError("backend='inductor' raised")
        error.__cause__ = cause
    with pytest.raises(type(error)):
        compiled_by(fails(error), replace(execution, device="cuda", compile=True))
