"""One run: how it ends, and that neither interruption nor execution changes its losses."""

import errno
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from model import parameter_table
from model.initialization import initialize_
from model.transformer import LoopedTransformer
from sweeper.errors import UserError
from sweeper.execution.execute_run import execute_run
from sweeper.records.run_dir import RunDir
from sweeper.run.outcome import Outcome
from sweeper.run.stop import StopFlag
from sweeper.training.batch import as_batch
from sweeper.training.readouts import StreamReadouts, stream_readouts
from sweeper.training.trainer import Trainer

from .interruptions import DiesAt, StopAfter


def at_rate(config, rate: float):
    return replace(
        config,
        table=parameter_table(base_lr=rate, init_std=0.139, eps=1e-8, weight_decay=0.1, depth_multiplier=1),
    )


def losses(rundir: RunDir) -> list[float]:
    return [row["loss"] for row in rundir.read_metrics() if "loss" in row]


@pytest.fixture(scope="module")
def undisturbed(run_config, execution, run_data, tmp_path_factory) -> bytes:
    """metrics.jsonl of `run_config`, left alone."""
    rundir = RunDir(tmp_path_factory.mktemp("undisturbed") / run_config.run_id)
    rundir.write_config(run_config, execution, {})
    result = Trainer(rundir, run_config, execution, run_data).run(StopFlag(), lambda progress: None)
    assert result["state"] == "done"
    return rundir.metrics.read_bytes()


def test_a_cpu_takes_subnormal_numbers_as_zero_while_it_trains(run_config, execution, run_data, tmp_path) -> None:
    def product() -> float:
        return float(torch.tensor([1e-30]) * 1e-10)

    class Watch(StopFlag):
        def is_set(self) -> bool:
            seen.append(product())
            return super().is_set()

    seen: list[float] = []
    rundir = RunDir(tmp_path / run_config.run_id)
    rundir.write_config(run_config, execution, {})
    Trainer(rundir, run_config, execution, run_data).run(Watch(), lambda progress: None)
    assert seen == [0.0] * 12
    assert product() > 0


def test_it_learns(undisturbed, run_config) -> None:
    rows = [json.loads(line) for line in undisturbed.splitlines()]
    training = [row["loss"] for row in rows if "loss" in row]
    assert len(training) == 12
    assert training[0] == pytest.approx(math.log(300), abs=0.5)  # a fresh model knows next to nothing
    assert training[-1] < training[0] - 0.3
    assert [row["step"] for row in rows if "val_loss" in row] == [6, 12]


def test_logged_rates_follow_the_schedule(undisturbed, run_config) -> None:
    rows = [json.loads(line) for line in undisturbed.splitlines()]
    rates = [row["base_lr"] for row in rows if "loss" in row]
    assert rates == [pytest.approx(8e-3 * run_config.schedule.factor(step)) for step in range(12)]


def test_the_same_run_writes_the_same_metrics(runs, run_config, undisturbed) -> None:
    assert runs.train(run_config)[0].metrics.read_bytes() == undisturbed


@pytest.mark.parametrize("step", range(1, 12))
def test_a_run_stopped_and_resumed_equals_one_left_alone(runs, run_config, undisturbed, step) -> None:
    """Bit for bit, at whichever step it was stopped."""
    rundir, result = runs.train(run_config, stop=StopAfter(step))
    assert result is None
    assert rundir.read_metrics()[-1]["step"] == step
    rundir, result = runs.train(run_config)
    assert result["state"] == "done"
    assert rundir.metrics.read_bytes() == undisturbed


@pytest.mark.parametrize("step", range(12))
def test_a_run_that_died_and_is_resumed_equals_one_left_alone(runs, run_config, run_data, undisturbed, step) -> None:
    """Back to the last checkpoint (every four steps) or to the start, and what was logged since is logged again."""
    with pytest.raises(KeyboardInterrupt):
        runs.train(run_config, data=DiesAt(run_data, step))
    rundir, result = runs.train(run_config)
    assert result["state"] == "done"
    assert rundir.metrics.read_bytes() == undisturbed


def test_a_damaged_checkpoint_costs_steps_but_changes_no_loss(runs, run_config, run_data, undisturbed) -> None:
    with pytest.raises(KeyboardInterrupt):
        runs.train(run_config, data=DiesAt(run_data, 10))
    rundir = RunDir(runs.root / run_config.run_id)
    newest = max(rundir.checkpoints.glob("*.pt"))
    newest.write_bytes(newest.read_bytes()[:-1])
    rundir, result = runs.train(run_config)
    assert result["val_loss"] == json.loads(undisturbed.splitlines()[-1])["val_loss"]
    assert rundir.metrics.read_bytes() == undisturbed


@pytest.mark.parametrize("micro_batch", [1, 2])
def test_gradient_accumulation_changes_no_more_than_rounding(runs, run_config, execution, undisturbed, micro_batch):
    """Sums in another order: the first steps agree to 1e-6, later ones as far as Adam lets rounding grow."""
    rundir, _ = runs.train(run_config, replace(execution, micro_batch=micro_batch))
    found = rundir.read_metrics()
    expected = [json.loads(line) for line in undisturbed.splitlines()]
    assert [row["step"] for row in found] == [row["step"] for row in expected]
    for a, b in zip(found, expected, strict=True):
        for name in a.keys() & {"loss", "val_loss", "grad_norm"}:
            assert a[name] == pytest.approx(b[name], rel=1e-6 if a["step"] <= 3 else 1e-4), (a["step"], name)


def test_recomputation_changes_no_loss(runs, run_config, execution, undisturbed) -> None:
    rundir, _ = runs.train(run_config, replace(execution, recompute=True))
    assert rundir.metrics.read_bytes() == undisturbed


def test_a_loss_that_is_not_finite_ends_the_run_at_once_as_diverged(runs, run_config) -> None:
    rundir, result = runs.train(at_rate(run_config, 1e30))
    assert result["state"] == "diverged"
    assert result["step"] < 6
    assert result["reason"].startswith("loss is ")
    assert result["reason"].endswith(f" at step {result['step']}")
    assert result["val_loss"] is None
    assert losses(rundir)[-1] is None  # JSON has no nan
    assert all(map(math.isfinite, losses(rundir)[:-1]))


def test_a_loss_that_is_not_finite_is_seen_between_logged_steps(runs, run_config, execution) -> None:
    _, result = runs.train(at_rate(run_config, 1e30), replace(execution, log_every=10))
    assert (result["state"], result["step"] < 6) == ("diverged", True)


def test_a_final_loss_above_the_threshold_is_diverged_and_keeps_its_number(runs, run_config) -> None:
    _, result = runs.train(replace(run_config, diverged_above=0.5))
    assert (result["state"], result["step"]) == ("diverged", 12)
    assert result["val_loss"] > 0.5
    assert "is not at most 0.5" in result["reason"]


def test_validation_is_over_a_fixed_set_and_equals_plain_cross_entropy(runs, run_config, execution, run_data) -> None:
    trainer = Trainer(RunDir(runs.root), run_config, execution, run_data)
    found = trainer.validate()
    rows = torch.from_numpy(run_data.validation(32, 512))
    assert rows.shape == (16, 33)
    with torch.no_grad():
        logits = trainer.model(rows[:, :-1])
        expected = F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
    assert found == pytest.approx(float(expected), rel=1e-5)
    assert trainer.validate() == found
    reseeded = Trainer(RunDir(runs.root), replace(run_config, seed=5), execution, run_data)
    reseeded.model.load_state_dict(trainer.model.state_dict())
    assert reseeded.validate() == found


def test_readouts_are_of_the_first_tokens_and_change_no_loss(
    runs, run_config, execution, run_data, monkeypatch
) -> None:
    monkeypatch.setattr(
        "sweeper.training.trainer.READOUT_TOKENS", 7 * 32 + 31
    )  # a part of four sequences, and three of the next
    trainer = Trainer(RunDir(runs.root), run_config, replace(execution, micro_batch=4), run_data)
    readouts = StreamReadouts(trainer.model)
    assert trainer.validate(readouts) == trainer.validate()
    expected = stream_readouts(trainer.model, torch.from_numpy(run_data.validation(32, 512))[:7])
    found = readouts.to_dict()
    assert found.keys() == expected.keys()
    for name, moments in found.items():
        for moment, values in moments.items():
            reference = np.array(expected[name][moment])
            assert np.array(values) == pytest.approx(reference, rel=1e-5, abs=1e-5), (name, moment)


def test_cosines_are_of_fp32_products_under_autocast(runs, run_config, execution, run_data) -> None:
    """An increment has cosine 1 with itself, to more digits than bf16 has."""
    trainer = Trainer(RunDir(runs.root), replace(run_config, precision="bf16"), execution, run_data)
    readouts = StreamReadouts(trainer.model)
    trainer.validate(readouts)
    cosines = np.array(readouts.to_dict()["increment_cosine"]["mean"])
    assert np.diag(cosines) == pytest.approx(1, abs=1e-6)
    assert cosines.tolist() == cosines.T.tolist()


def test_readouts_of_processes_add_up(runs, run_config, execution, run_data) -> None:
    trainer = Trainer(RunDir(runs.root), run_config, execution, run_data)
    rows = torch.from_numpy(run_data.validation(32, 512))
    parts = [StreamReadouts(trainer.model) for _ in range(3)]  # the last sees nothing
    for readouts, of_part in zip(parts, (rows[:5], rows[5:]), strict=False):
        with torch.no_grad():
            trainer.model(of_part[:, :-1], observe=readouts.observe)
        readouts.update(as_batch(of_part))
    for sums in zip(*(readouts.sums() for readouts in parts), strict=True):
        sums[0].add_(sums[1]).add_(sums[2])
    found, expected = parts[0].to_dict(), stream_readouts(trainer.model, rows)
    assert found["loop_loss"]["mean"] == pytest.approx(expected["loop_loss"]["mean"], rel=1e-6)
    assert found["residual_norm"]["std"] == pytest.approx(expected["residual_norm"]["std"], rel=1e-5)


def test_a_run_that_died_after_its_last_checkpoint_has_its_readouts(runs, run_config, monkeypatch) -> None:
    rundir, result = runs.train(run_config)
    readouts = rundir.readouts()
    assert readouts["loop_loss"]["mean"][-1] == pytest.approx(result["val_loss"], rel=1e-5)
    monkeypatch.setattr(Trainer, "train_step", None)  # nothing is left to train
    again = runs.train(run_config)[1]
    assert (again["state"], again["val_loss"]) == ("done", result["val_loss"])
    assert rundir.readouts() == readouts


@pytest.mark.parametrize("seed", [0, 1])
def test_a_seed_sets_the_weights_and_the_order_of_the_data(runs, run_config, execution, run_data, seed) -> None:
    """What the model is given at each step: the rows of the run's own seed, and no other seed's."""
    trainer = Trainer(RunDir(runs.root), replace(run_config, seed=seed), execution, run_data)
    expected = LoopedTransformer(run_config.model)
    initialize_(expected, run_config.table, seed)
    for name, parameter in trainer.model.named_parameters():
        assert torch.equal(parameter, expected.get_parameter(name)), name
    seen: list[torch.Tensor] = []
    trainer.model.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    for _ in range(3):
        trainer.train_step()
    rows = [run_data.sequences(0, 12, 32, of_seed)[:, :-1] for of_seed in (seed, seed + 1)]
    assert np.array_equal(torch.cat(seen), rows[0])
    assert not np.array_equal(rows[0], rows[1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"validation_tokens": 10_000_000}, r"validation\.tokens=10000000 exceeds the validation split, which has \d+"),
        ({"seq_len": 10_000_000}, "seq_len=10000000"),
    ],
)
def test_data_that_is_too_short_is_an_error_that_names_the_key(runs, run_config, change, message) -> None:
    with pytest.raises(UserError, match=message):
        runs.train(replace(run_config, **change))


def test_a_vocabulary_smaller_than_the_datas_is_an_error(runs, run_config) -> None:
    small = replace(run_config, model=replace(run_config.model, vocab_size=299))
    with pytest.raises(UserError, match=r"model\.vocab_size=299 is smaller than the data's vocabulary of 300"):
        runs.train(small)


class HostReads(TorchDispatchMode):
    """Counts how often a tensor's value is asked for: on a GPU each waits for the device."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("reads_every_loss", [True, False])
@pytest.mark.parametrize("diagnostics", [True, False])
def test_a_step_without_a_due_line_reads_no_value_where_reading_waits(
    runs, run_config, execution, run_data, reads_every_loss, diagnostics
) -> None:
    config = replace(run_config, diagnostics=diagnostics)
    trainer = Trainer(RunDir(runs.root), config, replace(execution, log_every=5), run_data)
    assert trainer.reads_every_loss  # on a CPU, where it is free
    trainer.reads_every_loss = reads_every_loss
    with HostReads() as reads:
        assert trainer.train_step() == []
    assert (reads.count > 0) == reads_every_loss  # the first shows that the probe would see one


@pytest.fixture
def first_losses(runs, run_config, execution, run_data) -> dict[str, float]:
    """Loss of the first step by precision."""
    configs = {name: replace(run_config, precision=name) for name in ("fp32", "bf16")}
    trainers = {name: Trainer(RunDir(runs.root), config, execution, run_data) for name, config in configs.items()}
    return {name: trainer.train_step()[-1]["loss"] for name, trainer in trainers.items()}


def test_bf16_rounds_the_loss_and_no_more(first_losses) -> None:
    assert first_losses["bf16"] == pytest.approx(first_losses["fp32"], rel=1e-2)  # bf16 keeps 8 bits
    assert first_losses["bf16"] != first_losses["fp32"]


def test_under_bf16_weights_gradients_and_moments_stay_fp32(runs, run_config, execution, run_data) -> None:
    trainer = Trainer(RunDir(runs.root), replace(run_config, precision="bf16"), execution, run_data)
    gradients: list[torch.dtype] = []
    for parameter in trainer.model.parameters():
        parameter.register_post_accumulate_grad_hook(lambda p: gradients.append(p.grad.dtype))
    trainer.train_step()
    moments = [value.dtype for state in trainer.optimizer.state.values() for value in state.values()]
    weights = [parameter.dtype for parameter in trainer.model.parameters()]
    assert len(gradients) == len(weights)
    assert {*weights, *gradients, *moments} == {torch.float32}


def run(rundir: RunDir, data_root: Path, stop: StopFlag | None = None) -> tuple[Outcome, str]:
    return execute_run(rundir.path, data_root, stop or StopFlag(), lambda progress: None)


def test_the_result_is_written_last(runs, run_config, data_root, undisturbed, monkeypatch) -> None:
    seen = []
    write = RunDir.write_result

    def write_result(self: RunDir, result) -> None:
        seen.append((self.metrics.read_bytes(), sorted(p.name for p in self.checkpoints.glob("*.pt"))))
        write(self, result)

    monkeypatch.setattr(RunDir, "write_result", write_result)
    rundir = runs.write_config(run_config)
    assert run(rundir, data_root) == (Outcome.DONE, "")
    assert seen == [(undisturbed, ["step-00000008.pt", "step-00000012.pt"])]
    result = rundir.result()
    assert (result["run_id"], result["state"], result["step"]) == (run_config.run_id, "done", 12)
    assert result["val_loss"] == json.loads(undisturbed.splitlines()[-1])["val_loss"]
    assert result["tokens"] == run_config.total_tokens
    assert not rundir.lock.exists()


def test_a_finished_run_is_never_run_again(runs, run_config, data_root, monkeypatch) -> None:
    rundir = runs.write_config(run_config)
    run(rundir, data_root)
    before = {path: path.read_bytes() for path in rundir.path.iterdir() if path.is_file()}
    monkeypatch.setattr("sweeper.training.trainer.Trainer", None)
    assert run(rundir, data_root) == (Outcome.DONE, "")
    assert {path: path.read_bytes() for path in rundir.path.iterdir() if path.is_file()} == before


def test_a_diverged_run_is_a_result_and_not_an_error(runs, run_config, data_root) -> None:
    rundir = runs.write_config(at_rate(run_config, 1e30))
    outcome, reason = run(rundir, data_root)
    assert outcome is Outcome.DIVERGED
    assert rundir.result()["reason"] == reason
    assert run(rundir, data_root) == (outcome, reason)


def test_a_stopped_run_has_no_result_and_no_owner(runs, run_config, data_root) -> None:
    rundir = runs.write_config(run_config)
    assert run(rundir, data_root, StopAfter(5))[0] is Outcome.STOPPED
    assert rundir.result() is None
    assert not rundir.lock.exists()
    assert [path.name for path in rundir.checkpoints.glob("*.pt")][-1:] != []
    assert run(rundir, data_root)[0] is Outcome.DONE


def edit_the_configuration(rundir: RunDir) -> None:
    path = rundir.path / "config.yaml"
    path.write_text(path.read_text().replace("seed: 0", "seed: 1"))


def tear_the_result(rundir: RunDir) -> None:
    (rundir.path / "result.json").write_text('{"state": ')


@pytest.mark.parametrize(
    ("damage", "named"),
    [(edit_the_configuration, "edited after submission"), (tear_the_result, "result.json is not JSON")],
)
def test_what_the_user_must_fix_is_refused_and_not_retried(runs, run_config, data_root, damage, named) -> None:
    rundir = runs.write_config(run_config)
    damage(rundir)
    outcome, reason = run(rundir, data_root)
    assert outcome is Outcome.INVALID
    assert named in reason
    assert "\n" not in reason
    assert not rundir.lock.exists()


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("where", "replacement"),
    [("sweeper.files.os.fsync", full), ("sweeper.records.metrics.json", SimpleNamespace(dumps=full))],
    ids=["lock", "metrics"],
)
def test_a_full_disk_is_refused_with_the_way_out(runs, run_config, data_root, where, replacement, monkeypatch) -> None:
    rundir = runs.write_config(run_config)
    with monkeypatch.context() as patch:
        patch.setattr(where, replacement)
        outcome, reason = run(rundir, data_root)
    assert outcome is Outcome.INVALID
    assert reason.startswith("no space left for ")
    assert reason.endswith("free some, or move it with paths.runs=DIR or paths.data=DIR")
    assert run(rundir, data_root) == (Outcome.DONE, "")


def test_missing_data_is_refused_with_the_way_out(runs, run_config, tmp_path) -> None:
    outcome, reason = run(runs.write_config(run_config), tmp_path / "nowhere")
    assert outcome is Outcome.INVALID
    assert run_config.data in reason
    assert "prepare it again" in reason


def test_a_run_owned_elsewhere_is_left_alone(runs, run_config, data_root) -> None:
    from sweeper.records.lock import RunLock

    rundir = runs.write_config(run_config)
    with RunLock(rundir.lock, StopFlag()):
        outcome, reason = run(rundir, data_root)
    assert outcome is Outcome.LOCKED
    assert reason.startswith("owned by process ")
    assert not rundir.metrics.exists()


def test_a_run_directory_may_be_moved_between_attempts(runs, reference_runs, run_config, data_root, undisturbed):
    """Nothing in it holds a path."""
    rundir = runs.write_config(run_config)
    run(rundir, data_root, StopAfter(5))
    reference_runs.root.mkdir()
    moved = RunDir(Path(shutil.move(rundir.path, reference_runs.root / rundir.path.name)))
    assert run(moved, data_root)[0] is Outcome.DONE
    assert moved.metrics.read_bytes() == undisturbed
