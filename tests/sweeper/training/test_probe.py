"""A probe measures the model that trains: its numbers are those of a computation by hand."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from model import ModelConfig, parameter_table
from model.initialization import initialize_
from model.transformer import LoopedTransformer
from sweeper.records.run_dir import RunDir
from sweeper.run.execution import Execution
from sweeper.run.spec import ProbeConfig
from sweeper.run.stop import StopFlag
from sweeper.training.probe import Probe, random_rows

SHAPE = ModelConfig(
    vocab_size=53, d_model=16, n_heads=2, mlp_dim=24, n_layers=2, n_loops=3, residual_scale=0.5, max_seq_len=12
)
PROBE = ProbeConfig(
    model=SHAPE,
    table=parameter_table(base_lr=1e-2, init_std=0.2, eps=1e-8, weight_decay=0.1, depth_multiplier=1),
    betas=(0.9, 0.95),
    steps=3,
    sequences=2,
    seq_len=12,
    seed=5,
    increment_layers=None,
)


@pytest.fixture
def rundir(tmp_path: Path) -> RunDir:
    """An empty one."""
    return RunDir(tmp_path)


def run(rundir: RunDir, config: ProbeConfig, execution: Execution) -> dict[str, object]:
    result = Probe(rundir, config, execution).run(StopFlag(), lambda progress: None)
    assert result is not None
    return result


def stream_by_hand(model: LoopedTransformer, tokens: torch.Tensor) -> list[torch.Tensor]:
    """The residual stream after the embedding and every block application, written out."""
    states = [F.embedding(tokens, model.embedding.weight)]
    for _ in range(model.config.n_loops):
        for block in model.blocks:
            states.append(block(states[-1], model.rotary[:, : tokens.shape[1]]))
    return states


def rms(values: torch.Tensor) -> float:
    return math.sqrt(sum(value * value for value in values.detach().double().flatten().tolist()) / values.numel())


@pytest.mark.parametrize("warmup", [0, 2, 6])
def test_r_loss_and_update_equal_a_computation_by_hand(rundir: RunDir, execution: Execution, warmup: int) -> None:
    assert run(rundir, replace(PROBE, warmup=warmup), execution)["state"] == "done"
    model = LoopedTransformer(SHAPE)
    initialize_(model, PROBE.table, PROBE.seed)
    decayed = {name for name, _ in model.named_parameters() if name.startswith("blocks") and "norm" not in name}
    groups = [
        {"params": [p for name, p in model.named_parameters() if (name in decayed) == decays], "weight_decay": decay}
        for decays, decay in ((True, 0.1), (False, 0.0))
    ]
    adamw = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.95), eps=1e-8, foreach=False)
    rows = random_rows(PROBE)
    tokens, targets = rows[:, :-1], rows[:, 1:]
    lines, before = rundir.read_metrics(), None
    assert [line["step"] for line in lines] == [0, 1, 2, 3]
    for line in lines:
        h = stream_by_hand(model, tokens)[-1]
        loss = F.cross_entropy(model.final_norm(h).flatten(0, 1) @ model.embedding.weight.T, targets.flatten())
        assert line["loss"] == pytest.approx(loss.item(), rel=1e-5)
        assert line["residual_rms"] == pytest.approx(rms(h), rel=1e-5)
        if before is None:
            assert "update_rms" not in line
        else:
            assert line["update_rms"] == pytest.approx(rms(h - before), rel=1e-4)
        before = h.detach()
        adamw.zero_grad()
        loss.backward()
        for group in adamw.param_groups:
            group["lr"] = 1e-2 * (min(1, (line["step"] + 1) / warmup) if warmup else 1)
        adamw.step()


@pytest.mark.parametrize("increment_layers", [1, 2])
def test_cosines_are_those_of_the_streams_increments(rundir, execution, increment_layers) -> None:
    config = replace(PROBE, increment_layers=increment_layers)
    run(rundir, config, execution)
    model = LoopedTransformer(SHAPE)
    initialize_(model, config.table, config.seed)
    probe = Probe(RunDir(rundir.path / "again"), config, execution)
    (rundir.path / "again").mkdir()
    probe.run(StopFlag(), lambda progress: None)
    stream = torch.stack(stream_by_hand(probe.model, random_rows(config)[:, :-1])[::increment_layers]).detach()
    increments = stream.diff(dim=0).flatten(1, 2)  # (S, B·T, D)
    expected = torch.stack(
        [torch.stack([torch.cosine_similarity(a, b).mean() for b in increments]) for a in increments]
    )
    readouts = rundir.readouts()
    assert torch.allclose(torch.tensor(readouts["increment_cosine"]["mean"]), expected.float(), atol=1e-5)
    norms = stream.norm(dim=-1).flatten(1).mean(dim=1)
    assert readouts["residual_norm"]["mean"] == pytest.approx(norms.tolist(), rel=1e-5)
    assert readouts["loop_loss"]["mean"][-1] == pytest.approx(rundir.read_metrics()[-1]["loss"], rel=1e-5)


def test_a_probe_without_a_wish_for_cosines_reads_nothing_out(rundir, execution) -> None:
    run(rundir, PROBE, execution)
    assert rundir.readouts() == {}


def test_recomputing_activations_changes_no_number_beyond_rounding(rundir, execution, tmp_path) -> None:
    run(rundir, replace(PROBE, increment_layers=1), execution)
    other = RunDir(tmp_path / "recomputed")
    other.path.mkdir()
    run(other, replace(PROBE, increment_layers=1), replace(execution, recompute=True))
    for line, again in zip(rundir.read_metrics(), other.read_metrics(), strict=True):
        assert line == pytest.approx(again, rel=1e-6)


def test_a_stopped_probe_starts_anew_and_ends_with_the_same_numbers(rundir, execution, tmp_path) -> None:
    stop = StopFlag()
    assert Probe(rundir, PROBE, execution).run(stop, lambda progress: stop.set()) is None
    assert len(rundir.read_metrics()) == 1
    run(rundir, PROBE, execution)
    other = RunDir(tmp_path / "undisturbed")
    other.path.mkdir()
    run(other, PROBE, execution)
    assert rundir.metrics.read_bytes() == other.metrics.read_bytes()


def test_a_stream_that_leaves_the_numbers_is_a_result(rundir, execution) -> None:
    wide = parameter_table(base_lr=1e30, init_std=0.2, eps=1e-8, weight_decay=0.1, depth_multiplier=1)
    result = run(rundir, replace(PROBE, table=wide), execution)
    assert result["state"] == "diverged"
    assert "not finite after step" in str(result["reason"])
    assert result["step"] < PROBE.steps


def test_warmup_makes_another_probe_and_its_absence_none() -> None:
    assert replace(PROBE, warmup=500).run_id != PROBE.run_id
    assert "warmup" not in PROBE.to_dict()


def test_seeds_differ_in_weights_and_in_tokens() -> None:
    rows = [random_rows(replace(PROBE, seed=seed)) for seed in (0, 0, 1)]
    assert torch.equal(rows[0], rows[1])
    assert not torch.equal(rows[0], rows[2])
