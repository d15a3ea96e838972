"""The presets of the second paper: its numbers, spelled out once more (arXiv 2605.18797)."""

import math
import sys
from typing import Any

import pytest
from hydra.core.global_hydra import GlobalHydra

import sweeper.train
from model import ModelConfig
from sweeper.config.resolve import ResolvedRun, resolve
from sweeper.grid.compose import compose_jobs

PAPER = {"flt_paper": 6, "flt_paper_318m": 12}


def runs(*overrides: str) -> list[ResolvedRun]:
    """The grid of a multirun, which is not carried out."""
    found: list[ResolvedRun] = []

    def launch(context: Any, config: Any, jobs: Any, **_: Any) -> None:
        found.extend(resolve(job, "0" * 16) for job in compose_jobs(context, config, jobs))

    GlobalHydra.instance().clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sweeper.execution.local.launch_local", launch)
        patch.setattr(sys, "argv", ["sweeper.train", "--multirun", *overrides])
        sweeper.train.main()
    return found


@pytest.fixture(scope="module", params=PAPER)
def paper(request) -> ResolvedRun:
    [run] = runs(f"preset={request.param}", "model.loop=FLT", "model.n_loops=12")
    assert run.axes["n_layers"] == PAPER[request.param]
    return run


def test_parameter_counts_are_the_papers(paper) -> None:
    """127M and 318M with a vocabulary of 151,669 entries padded to 151,680; 10.6M and 84.9M of them in blocks."""
    shape: ModelConfig = paper.config.model
    total, blocks = {
        6: ((127.1e6, 127.3e6), 10_616_832),
        12: ((317.9e6, 318.3e6), 84_934_656),
    }[shape.n_layers]
    assert shape.vocab_size == 64 * math.ceil(151_669 / 64)
    assert total[0] <= shape.n_params <= total[1]
    assert shape.n_layers * shape.block_params == blocks
    assert shape.n_params == blocks + 2 * 151_680 * shape.d_model


def test_shape_and_training_are_the_papers(paper) -> None:
    config, layers = paper.config, paper.axes["n_layers"]
    shape = config.model
    assert (shape.d_model, shape.head_dim, shape.mlp_dim) == (64 * layers, 128, 4 * shape.d_model)
    assert (shape.rope_theta, shape.parts, shape.loop, shape.residual_scale) == (10_000.0, "nanochat", "FLT", 1.0)
    assert (config.batch_tokens, config.seq_len, config.seed, config.grad_clip) == (524_288, 1024, 42, 1.0)
    assert config.steps == 20 * shape.n_params // 524_288
    assert (config.schedule.warmup, config.schedule.decay) == (0, round(0.2 * config.steps))
    assert config.betas == (0.8, 0.95)
    assert paper.axes["depth_multiplier"] == 1


def test_first_weights_and_rates_are_the_papers(paper) -> None:
    d_model = paper.config.model.d_model
    share, uniform = (d_model / 768) ** -0.5, ("uniform", pytest.approx(d_model**-0.5))
    found = {
        row.kind: (row.draw, row.init_std, row.optimizer, row.lr, row.weight_decay, row.eps)
        for row in paper.config.table
    }
    assert found == {
        "embedding": ("normal", 1.0, "adamw", pytest.approx(0.2 * share), 0.0, 1e-10),
        "block_qkv": (*uniform, "muon", 0.02, 0.0, 1e-7),
        "block_up": (*uniform, "muon", 0.02, 0.0, 1e-7),
        "block_out": ("truncated", None, "muon", 0.02, 0.0, 1e-7),
        "head": ("normal", 0.001, "adamw", pytest.approx(0.004 * share), 0.0, 1e-10),
    }


def test_a_learning_rate_axis_moves_all_rates_and_names_the_run() -> None:
    low, high = runs("preset=flt_quick", "optimizer.base_lr=0.01,0.04")
    for a, b in zip(low.config.table, high.config.table, strict=True):
        assert b.lr == pytest.approx(4 * a.lr)
    assert [run.config.base_lr for run in (low, high)] == [pytest.approx(0.01), pytest.approx(0.04)]
    assert low.config.run_id.startswith("L2-N1-lr1e-2-")
    assert [run.axes["base_lr"] for run in (low, high)] == [0.01, 0.04]


def test_parts_and_optimizer_are_part_of_a_runs_identity() -> None:
    changed = {"model.parts": "llama,nanochat", "optimizer.kind": "adamw,muon"}
    every = [runs("preset=flt_quick", "optimizer.kind=adamw", f"model.parts={changed['model.parts']}")]
    every.append(runs("preset=flt_quick", f"optimizer.kind={changed['optimizer.kind']}"))
    ids = [[run.config.run_id for run in pair] for pair in every]
    assert len({*ids[0], *ids[1]}) == 3  # nanochat with AdamW is in both
    assert ids[0][1] == ids[1][0]


@pytest.mark.parametrize(
    ("preset", "sweep"),
    [("flt_quick", "lr_transfer"), ("flt_quick", "architectures"), ("flt_paper_318m", "architectures")],
)
def test_the_presets_are_for_the_sweeps_of_both_papers(preset, sweep) -> None:
    found = runs(f"+sweep={sweep}", f"preset={preset}")
    assert {run.config.model.parts for run in found} == {"nanochat"}
    rates = sorted({run.axes["base_lr"] for run in found})
    assert rates[0] < 0.02 < rates[-1]
    assert max(run.axes["n_loops"] for run in found) == 12


def test_muon_with_a_tied_head_is_one_line_that_names_the_keys(command_line) -> None:
    refused = command_line("preset=flt_quick", "model.parts=llama")
    assert refused.status == 2
    assert refused.err == (
        "error: optimizer.kind=muon has different rates for embedding and head, which model.parts=llama ties; "
        "use model.parts=nanochat\n"
    )


def test_without_the_tokenizers_file_the_paper_preset_says_which_key_names_it(command_line, tmp_path) -> None:
    paths = [f"paths.{name}={tmp_path / name}" for name in ("runs", "data")]
    refused = command_line("preset=flt_paper", "execution.device=cpu", "execution.micro_batch=1", *paths)
    assert refused.status == 2
    assert refused.err.startswith("error: data.tokenizer.path=data/qwen3-4b/tokenizer.json: no such file")
    assert refused.err.count("\n") == 1
