"""What a training with diagnostics records, held against the model itself; and that nothing else changes by it."""

import json
import math
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch

from model import LOOPS, parameter_table
from model.cpu.enable import enable
from model.initialization import initialize_
from model.transformer import LoopedTransformer
from sweeper.records.export import curves_table, readouts_table
from sweeper.records.run_dir import RunDir
from sweeper.run.stop import StopFlag
from sweeper.training.diagnostics import loops_at_test_time, unigram_entropy
from sweeper.training.distributed import Ranks
from sweeper.training.trainer import Trainer

from .interruptions import DiesAt, StopAfter


@pytest.fixture(scope="module")
def diagnosed(run_config):
    """`run_config` with diagnostics: twelve steps, two loop steps."""
    return replace(run_config, diagnostics=True)


@pytest.fixture(scope="module")
def sparse(execution):
    """Lines are due at steps 5, 10 and 12; validations, at 6 and 12, and checkpoints, at 4, 8 and 12, lie between."""
    return replace(execution, log_every=5)


def at_rate(config, rate: float):
    table = parameter_table(base_lr=rate, init_std=0.139, eps=1e-8, weight_decay=0.1, depth_multiplier=1)
    return replace(config, table=table)


def of_kind(config, loop: str):
    """The run with another kind of loop, of three steps, and the parameters that it has."""
    table = parameter_table(base_lr=8e-3, init_std=0.139, eps=1e-8, weight_decay=0.1, depth_multiplier=1, loop=loop)
    return replace(config, model=replace(config.model, loop=loop, n_loops=3), table=table)


def train(runs, config, execution, **changes):
    """The run's directory and result, trained to its end."""
    rundir = runs.write_config(config, execution)
    trainer = Trainer(rundir, config, execution, runs.data)
    for name, value in changes.items():
        setattr(trainer, name, value)
    return rundir, trainer.run(StopFlag(), lambda progress: None)


def stream(line) -> dict[str, float]:
    return {name: value for name, value in line.items() if name.startswith("stream_")}


def without_stream(line):
    return {name: value for name, value in line.items() if not name.startswith("stream_")}


@pytest.fixture(scope="module")
def undisturbed(diagnosed, sparse, run_data, tmp_path_factory) -> bytes:
    """metrics.jsonl of the run, left alone."""
    rundir = RunDir(tmp_path_factory.mktemp("undisturbed") / diagnosed.run_id)
    rundir.write_config(diagnosed, sparse, {})
    result = Trainer(rundir, diagnosed, sparse, run_data).run(StopFlag(), lambda progress: None)
    assert result["state"] == "done"
    return rundir.metrics.read_bytes()


@pytest.fixture(scope="module")
def lines(undisturbed):
    return [json.loads(line) for line in undisturbed.splitlines()]


def test_every_step_has_a_line_and_due_ones_have_the_stream(lines) -> None:
    of_steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in of_steps] == list(range(1, 13))
    assert all({"step", "loss", "grad_norm", "base_lr"} <= line.keys() for line in of_steps)
    assert [line["step"] for line in of_steps if stream(line)] == [5, 10, 12]
    names = {f"stream_{what}_{n}" for what in ("norm", "grad") for n in (1, 2)}
    assert all(stream(line).keys() == names for line in of_steps if stream(line))


def test_losses_gradients_and_weights_are_those_without_diagnostics(runs, run_config, execution, lines, sparse) -> None:
    rundir, result = train(runs, run_config, execution)
    assert rundir.read_metrics() == [without_stream(line) for line in lines]
    diagnosed = Trainer(RunDir(runs.root), replace(run_config, diagnostics=True), sparse, runs.data)
    plain = Trainer(RunDir(runs.root), run_config, sparse, runs.data)
    for _ in range(5):
        diagnosed.train_step()
        plain.train_step()
    for name, weight in plain.model.named_parameters():
        assert torch.equal(weight, diagnosed.model.get_parameter(name)), name
    assert "unigram_entropy" not in result
    assert rundir.readouts().keys() == {"residual_norm", "loop_loss", "increment_cosine"}


def test_after_the_first_steps_only_due_lines_are_written(runs, diagnosed, sparse, lines, monkeypatch) -> None:
    monkeypatch.setattr("sweeper.training.trainer.WHOLE_STEPS", 7)
    found = train(runs, diagnosed, sparse)[0].read_metrics()
    assert found == [line for line in lines if line["step"] <= 7 or line["step"] in (10, 12)]


def reference(config, rows: torch.Tensor) -> dict[str, float]:
    """Of a fresh model: the mean norm of the stream's tokens after each loop step, and the norm of its gradient."""
    model = LoopedTransformer(config.model)
    initialize_(model, config.table, config.seed)
    states: list[torch.Tensor] = []
    loss = model(rows[:, :-1], rows[:, 1:], observe=lambda n, x: states.append(x) if n else None)
    gradients = torch.autograd.grad(loss, states)
    return {
        **{f"stream_norm_{n}": x.square().sum(-1).sqrt().mean().item() for n, x in enumerate(states, 1)},
        **{f"stream_grad_{n}": g.square().sum().sqrt().item() for n, g in enumerate(gradients, 1)},
    }


@pytest.mark.parametrize("micro_batch", [1, 2, 4])
@pytest.mark.parametrize("loop", LOOPS)
def test_the_stream_is_what_the_model_computes_whatever_the_parts_of_a_batch(
    runs, diagnosed, execution, run_data, loop, micro_batch
) -> None:
    config = of_kind(diagnosed, loop)
    trainer = Trainer(RunDir(runs.root), config, replace(execution, micro_batch=micro_batch), run_data)
    [line] = trainer.train_step()
    expected = reference(config, torch.from_numpy(run_data.sequences(0, 4, 32, 0)))
    assert stream(line) == pytest.approx(expected, rel=1e-5)  # sums of fp32 in another order
    assert len(expected) == 6
    assert all(value > 0 for value in expected.values())


def test_recomputation_changes_no_line(runs, diagnosed, sparse, undisturbed) -> None:
    rundir, _ = train(runs, diagnosed, replace(sparse, recompute=True))
    assert rundir.metrics.read_bytes() == undisturbed


def test_the_fast_path_has_the_same_stream_and_test_losses(runs, diagnosed, execution, run_data) -> None:
    """Equal up to rounding, and its own test loss at N equals its own validation loss to the last bit."""
    plain, compiled = (Trainer(RunDir(runs.root), diagnosed, execution, run_data) for _ in range(2))
    enable(compiled.model, head=False)
    [expected], [line] = plain.train_step(), compiled.train_step()
    assert stream(line) == pytest.approx(stream(expected), rel=1e-5)
    assert compiled.test_losses()["mean"] == pytest.approx(plain.test_losses()["mean"], rel=1e-5)
    assert loss_at(2, compiled) == compiled.validate()


@dataclass(frozen=True)
class OneOfTwo(Ranks):
    """Rank 1 notes what it would sum; rank 0, which comes after it, adds that."""

    noted: list[torch.Tensor] = field(default_factory=list)

    def sum_(self, tensors) -> None:
        for i, tensor in enumerate(tensors):
            if self.is_main:
                tensor += self.noted[i]
            else:
                self.noted.append(tensor.clone())


def test_the_stream_of_two_ranks_adds_up(runs, diagnosed, execution, run_data) -> None:
    noted: list[torch.Tensor] = []
    second, both = (
        Trainer(RunDir(runs.root), diagnosed, execution, run_data, OneOfTwo(rank, 2, noted)).train_step()[0]
        for rank in (1, 0)
    )
    [alone] = Trainer(RunDir(runs.root), diagnosed, execution, run_data).train_step()
    assert both == pytest.approx(alone, rel=1e-5)
    assert stream(second) != pytest.approx(stream(alone), rel=1e-2)  # of half the batch


@pytest.mark.parametrize("step", range(1, 12))
def test_a_run_stopped_and_resumed_equals_one_left_alone(runs, diagnosed, sparse, undisturbed, step) -> None:
    """Bit for bit, also where lines were still on the device."""
    rundir, result = runs.train(diagnosed, sparse, stop=StopAfter(step))
    assert result is None
    assert rundir.read_metrics()[-1]["step"] == step
    rundir, result = runs.train(diagnosed, sparse)
    assert result["state"] == "done"
    assert rundir.metrics.read_bytes() == undisturbed


@pytest.mark.parametrize("step", range(12))
def test_a_run_that_died_and_is_resumed_equals_one_left_alone(
    runs, diagnosed, sparse, run_data, undisturbed, step
) -> None:
    with pytest.raises(KeyboardInterrupt):
        runs.train(diagnosed, sparse, data=DiesAt(run_data, step))
    rundir, result = runs.train(diagnosed, sparse)
    assert result["state"] == "done"
    assert rundir.metrics.read_bytes() == undisturbed


def test_lines_are_read_together_when_one_is_due_or_written_behind(runs, diagnosed, sparse, run_data) -> None:
    trainer = Trainer(RunDir(runs.root), diagnosed, sparse, run_data)
    taken = [[line["step"] for line in trainer.train_step()] for _ in range(12)]
    assert taken == [[], [], [], [1, 2, 3, 4], [5], [6], [], [7, 8], [], [9, 10], [], [11, 12]]


def test_a_loss_that_is_not_finite_ends_the_lines_whenever_it_is_read(runs, reference_runs, diagnosed, sparse) -> None:
    """A GPU reads several losses at once. The lines are those of a CPU, which reads each."""
    config = at_rate(diagnosed, 1e30)
    found = [train(place, config, sparse, reads_every_loss=place is runs) for place in (runs, reference_runs)]
    (at_once, result), (later, result_later) = found
    assert result["state"] == result_later["state"] == "diverged"
    assert at_once.metrics.read_bytes() == later.metrics.read_bytes()
    assert at_once.read_metrics()[-1]["loss"] is None
    assert result["reason"] == result_later["reason"]
    assert result["step"] == at_once.read_metrics()[-1]["step"] < 4
    assert result["unigram_entropy"] > 0


@pytest.mark.parametrize(
    ("n_loops", "expected"),
    [
        (1, [1, 2, 3, 6, 9, 12]),
        (3, [1, 3, 6, 9, 12]),
        (6, [1, 3, 6, 9, 12]),
        (9, [1, 3, 4, 6, 9, 12, 18]),
        (12, [1, 3, 6, 9, 12, 24]),
    ],
)
def test_loop_counts_at_test_time(n_loops, expected) -> None:
    assert loops_at_test_time(n_loops) == expected


def loss_at(n_loops: int, trainer: Trainer) -> float:
    found = trainer.test_losses()
    return dict(zip(found["counts"], found["mean"], strict=True))[n_loops]


@pytest.mark.parametrize("loop", LOOPS)
def test_test_losses_are_validation_losses_of_the_model_with_other_loop_counts(
    runs, diagnosed, execution, run_data, loop
) -> None:
    """At its own to the last bit, and over the whole set, whose last part is smaller than the others."""
    trainer = Trainer(RunDir(runs.root), of_kind(diagnosed, loop), replace(execution, micro_batch=3), run_data)
    trainer.train_step()
    assert loss_at(3, trainer) == trainer.validate()
    rows = torch.from_numpy(run_data.validation(32, 512))
    for n in (1, 9):
        with torch.no_grad():
            parts = [trainer.model(part[:, :-1], part[:, 1:], n_loops=n) for part in torch.split(rows, 3)]
        assert loss_at(n, trainer) == pytest.approx(float(torch.stack(parts).mean()), rel=1e-6)
    assert loss_at(1, trainer) != pytest.approx(trainer.validate(), rel=2e-6)


def test_a_finished_run_has_its_test_losses_as_a_read_out(runs, diagnosed, sparse) -> None:
    rundir, result = train(runs, diagnosed, sparse)
    table = readouts_table(runs.root, [diagnosed.run_id]).query("readout == 'test_loss'")
    assert table["i"].tolist() == [1, 2, 3, 4, 6, 9, 12]
    assert set(table["j"]) == {-1}
    assert table.set_index("i")["mean"][2] == result["val_loss"] == rundir.read_metrics()[-1]["val_loss"]
    assert table["std"].isna().all()
    others = readouts_table(runs.root, [diagnosed.run_id]).query("readout == 'residual_norm'")
    assert others["i"].tolist() == [0, 1, 2]


def test_a_test_loss_that_is_not_finite_is_none(runs, diagnosed, execution, run_data, monkeypatch) -> None:
    trainer = Trainer(RunDir(runs.root), diagnosed, execution, run_data)
    monkeypatch.setattr(trainer, "_mean_over_validation", lambda width, _: [math.inf, math.nan, *range(2, width)])
    assert trainer.test_losses()["mean"][:3] == [None, None, 2]


def test_the_unigram_entropy_is_the_loss_of_the_best_prediction_without_context(runs, diagnosed, sparse) -> None:
    _, result = train(runs, diagnosed, sparse)
    targets = torch.from_numpy(runs.data.validation(32, 512)[:, 1:]).flatten()
    frequencies = torch.bincount(targets, minlength=300).double() / 512
    loss = torch.nn.functional.cross_entropy(frequencies.log().expand(512, -1), targets)
    assert result["unigram_entropy"] == pytest.approx(float(loss), rel=1e-12)


def test_entropy_of_known_frequencies() -> None:
    assert unigram_entropy(np.array([[7, 7], [3, 3]])) == pytest.approx(math.log(2))
    assert unigram_entropy(np.array([5, 5, 5])) == 0
    assert unigram_entropy(np.array([0, 0, 2, 9])) == pytest.approx(1.5 * math.log(2))


def test_an_export_keeps_every_line_of_the_first_steps(runs, diagnosed, sparse, monkeypatch) -> None:
    monkeypatch.setattr("sweeper.records.export.CURVE_POINTS", 2)
    monkeypatch.setattr("sweeper.records.export.WHOLE_STEPS", 7)
    rundir, _ = train(runs, diagnosed, sparse)
    table = curves_table(runs.root, [diagnosed.run_id])
    # of the six lines after step 7 every third, and the last, a validation
    assert table["step"].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 11, 12]
    rows = {row["step"]: row for row in table.to_dict("records")}
    recorded = {line["step"]: line for line in rundir.read_metrics() if "loss" in line and line["step"] <= 11}
    for step in rows.keys() & recorded.keys():
        assert {name: value for name, value in rows[step].items() if name in recorded[step]} == recorded[step]
        assert math.isnan(rows[step]["stream_norm_2"]) == (step != 5)


def test_an_export_thins_runs_without_diagnostics(runs, run_config, execution, monkeypatch) -> None:
    monkeypatch.setattr("sweeper.records.export.CURVE_POINTS", 2)
    train(runs, run_config, execution)
    assert curves_table(runs.root, [run_config.run_id])["step"].tolist() == [1, 6, 7, 12]
