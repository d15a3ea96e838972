"""Trainings on a task: the loss of its answers only, accuracy beside it, and resumption."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from sweeper.data import TaskData
from sweeper.data.addition import Addition
from sweeper.data.phop import PHop
from sweeper.data.tasks import manifest_of
from sweeper.records.export import curves_table, readouts_table
from sweeper.records.metrics import SCORES
from sweeper.training.batch import as_batch
from sweeper.training.diagnostics import loops_at_test_time
from sweeper.training.trainer import Trainer

from .interruptions import StopAfter

TASKS = [PHop((1, 2), (3,), alphabet=4, length=12), Addition((1, 2), (3,))]


@pytest.fixture(scope="module", params=TASKS, ids=lambda task: task.NAME)
def data(request) -> TaskData:
    return TaskData(manifest_of(request.param, request.param.NAME), request.param)


@pytest.fixture(scope="module")
def config(run_config, data):
    """Twelve steps of a two-loop model; 24 examples for validation, 8 for each level."""
    tokens = data.task.row_tokens
    model = replace(run_config.model, vocab_size=data.task.vocab_size, max_seq_len=tokens)
    changes = {"seq_len": tokens, "validation_tokens": 24 * tokens, "data": data.manifest.hash}
    return replace(run_config, model=model, **changes)


def test_loss_and_scores_are_those_of_the_answers(runs, config, data, execution) -> None:
    rundir, result = runs.train(config, replace(execution, micro_batch=2), data=data)
    trainer = Trainer(rundir, config, execution, data)
    trainer._resume()
    examples = data.task.validation(24)
    with torch.no_grad():
        logits = trainer.model(torch.from_numpy(examples.inputs))
    losses, rights = [], []
    for of_row, targets in zip(logits, examples.targets, strict=True):
        at = np.flatnonzero(targets >= 0)
        chosen = of_row[at].log_softmax(-1)[range(len(at)), targets[at]]
        losses.append(-chosen.mean().item())
        rights.append((of_row[at].argmax(-1).numpy() == targets[at]).mean())
    assert result["val_loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert result["val_accuracy"] == pytest.approx(np.mean(rights), rel=1e-12)
    assert result["val_exact_match"] == np.mean(np.array(rights) == 1)


def test_every_validation_has_scores_and_the_last_are_the_results(runs, config, data) -> None:
    rundir, result = runs.train(config, data=data)
    lines = [line for line in rundir.read_metrics() if "val_loss" in line]
    assert [line["step"] for line in lines] == [6, 12]
    assert all(set(SCORES) < set(line) for line in lines)
    assert {name: lines[-1][name] for name in SCORES} == {name: result[name] for name in SCORES}
    assert set(SCORES) < set(curves_table(runs.root, [config.run_id]))


def test_read_outs_have_every_level_at_every_loop_count(runs, config, data) -> None:
    runs.train(config, data=data)
    table = readouts_table(runs.root, [config.run_id])
    scores = table[table["readout"].str.contains("accuracy|exact")]
    places = ("trained_1", "trained_2", "beyond_3")
    names = {f"{name}_{place}" for name in ("accuracy", "exact_match") for place in places}
    assert set(scores["readout"]) == names
    for _, of_level in scores.groupby("readout"):
        assert of_level["i"].tolist() == loops_at_test_time(config.model.n_loops)
        assert of_level["mean"].between(0, 1).all()
    residual = table[table["readout"] == "loop_loss"].set_index("i")["mean"]
    line = [line for line in runs.write_config(config).read_metrics() if "val_loss" in line][-1]
    if isinstance(data.task, Addition):  # whose answers have different lengths, so that means over tokens differ
        assert residual[config.model.n_loops] == pytest.approx(line["val_loss"], rel=0.05)


def test_the_micro_batch_changes_no_gradient_but_by_rounding(runs, config, data, execution) -> None:
    gradients = []
    for micro_batch in (4, 1):
        how = replace(execution, micro_batch=micro_batch)
        trainer = Trainer(runs.write_config(config, how), config, how, data)
        trainer.optimizer.step = lambda *_, **__: None
        trainer.optimizer.zero_grad = lambda *_, **__: None
        trainer.train_step()
        gradients.append(torch.cat([p.grad.flatten() for p in trainer.model.parameters()]))
    assert torch.allclose(*gradients, rtol=1e-4, atol=1e-6)


def test_a_resumed_training_writes_the_same_lines(runs, reference_runs, config, data) -> None:
    whole, expected = reference_runs.train(config, data=data)
    rundir, stopped = runs.train(config, stop=StopAfter(7), data=data)
    assert stopped is None
    _, result = runs.train(config, data=data)
    assert rundir.metrics.read_bytes() == whole.metrics.read_bytes()
    assert rundir.readouts() == whole.readouts()
    assert [result[name] for name in ("val_loss", *SCORES)] == [expected[name] for name in ("val_loss", *SCORES)]


def test_a_result_written_after_the_last_checkpoint_has_the_scores(runs, config, data) -> None:
    _, expected = runs.train(config, data=data)
    _, again = runs.train(config, data=data)  # no step is left
    assert [again[name] for name in SCORES] == [expected[name] for name in SCORES]


def test_weights_of_a_row_without_an_answer_are_zero() -> None:
    targets = torch.tensor([[-1, -1, -1], [-1, 2, 1]])
    batch = as_batch(torch.stack([torch.zeros_like(targets), targets], dim=1))
    assert batch.weights.tolist() == [[0, 0, 0], [0, 0.25, 0.25]]
    assert batch.targets.min() == 0


def test_text_has_no_scores(runs, run_config) -> None:
    rundir, result = runs.train(run_config)
    assert not set(SCORES) & set(result)
    assert not any(set(SCORES) & set(line) for line in rundir.read_metrics())
    assert not any("trained" in name for name in rundir.readouts())


def test_diagnostics_of_a_task_are_of_its_answers(runs, config, data) -> None:
    _, result = runs.train(replace(config, diagnostics=True), data=data)
    targets = data.task.validation(24).targets
    share = np.bincount(targets[targets >= 0]) / (targets >= 0).sum()
    share = share[share > 0]
    assert result["unigram_entropy"] == pytest.approx(-(share * np.log(share)).sum(), rel=1e-12)
