"""The fast composition of a grid is Hydra's own; the paper's grid is the paper's, to the digit."""

import math
import sys
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf, open_dict

import sweeper.train
from analysis.refine.grid import UTILISATION
from sweeper.config.checks import check_rates
from sweeper.config.resolve import resolve
from sweeper.errors import UserError
from sweeper.grid.compose import _refers, check_axes, compose_jobs
from sweeper.grid.gpu_times import GpuTimes


@dataclass
class Grid:
    """What Hydra handed to the launcher."""

    context: Any
    config: Any
    jobs: list[list[str]]

    def runs(self) -> list[Any]:
        return [resolve(job, "0" * 16) for job in compose_jobs(self.context, self.config, self.jobs)]


def capture(*overrides: str) -> Grid:
    """The grid of a multirun, which is not carried out."""
    seen: list[Grid] = []

    def launch(context, config, jobs, **_):
        seen.append(Grid(context, config, [list(job) for job in jobs]))

    GlobalHydra.instance().clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sweeper.execution.local.launch_local", launch)
        patch.setattr(sys, "argv", ["sweeper.train", "--multirun", *overrides])
        sweeper.train.main()
    [caught] = seen
    return caught


@pytest.mark.parametrize(
    "overrides",
    [
        ("+sweep=lr_transfer", "preset=smoke"),
        ("preset=smoke", "panel=b,d", "optimizer.grad_clip=null,0.5", "schedule.steps=7"),
        ("preset=smoke,quick", "model.n_loops=1,2"),
        ("+sweep=init_probe", "preset=smoke"),
        ("+sweep=increments", "preset=smoke"),
    ],
    ids=["smoke", "values and panels", "values and presets", "probes", "two grids"],
)
def test_every_job_is_composed_as_hydra_composes_it(overrides) -> None:
    caught = capture(*overrides)
    count = 0
    for job, composed in zip(caught.jobs, compose_jobs(caught.context, caught.config, caught.jobs), strict=True):
        expected = caught.context.config_loader.load_sweep_config(caught.config, job)
        with open_dict(expected):
            del expected["hydra"]
        assert OmegaConf.to_container(composed, resolve=True) == OmegaConf.to_container(expected, resolve=True), job
        count += 1
    assert count == len(caught.jobs) > 1


def test_no_jobs_compose_to_nothing() -> None:
    caught = capture("preset=smoke", "model.n_loops=1,2")
    assert list(compose_jobs(caught.context, caught.config, [])) == []


@pytest.fixture(scope="module")
def paper_runs() -> list[Any]:
    return capture("+sweep=lr_transfer", "preset=paper").runs()


class TestPaper:
    """PAPER.md's numbers, spelled out once more."""

    RATES = (5e-4, 7.5e-4, 1e-3, 1.25e-3, 1.5e-3, 2e-3, 3e-3, 4e-3)

    def test_grid(self, paper_runs) -> None:
        """Four panels × N × rates; at N = 1 sqrt and linear are the same model at L = 12."""
        assert len(paper_runs) == 128
        assert len({run.config.run_id for run in paper_runs}) == 120
        panels = {"a": ("sqrt", 12), "b": ("linear", 12), "c": ("linear", 24), "d": ("linear", 48)}
        points = Counter(
            (run.axes["panel"], run.axes["rule"], run.axes["n_layers"], run.axes["n_loops"], run.axes["base_lr"])
            for run in paper_runs
        )
        assert points == Counter(
            (panel, rule, layers, n, rate)
            for panel, (rule, layers) in panels.items()
            for n in (1, 2, 4, 8)
            for rate in self.RATES
        )
        shared = [run.config.run_id for run in paper_runs if run.axes["panel"] in "ab" and run.axes["n_loops"] == 1]
        assert len(shared) == 16
        assert len(set(shared)) == 8

    def test_model(self, paper_runs) -> None:
        millions = {}
        for run in paper_runs:
            shape = run.config.model
            assert (shape.d_model, shape.n_heads, shape.head_dim, shape.mlp_dim) == (768, 12, 64, 2048)
            assert (shape.vocab_size, shape.rope_theta, shape.norm_eps) == (128_256, 500_000.0, 1e-5)
            millions[shape.n_layers] = round(shape.n_params / 1e6, 1)
        assert millions == {12: 183.5, 24: 268.4, 48: 438.3}

    def test_depth_multiplier_and_residual_scale(self, paper_runs) -> None:
        assert {run.axes["n_layers"]: run.axes["depth_multiplier"] for run in paper_runs} == {12: 1, 24: 2, 48: 4}
        for run in paper_runs:
            n, depth = run.axes["n_loops"], run.axes["depth_multiplier"]
            power = 0.5 if run.axes["panel"] == "a" else 1
            assert run.config.model.residual_scale == pytest.approx(1 / (n**power * math.sqrt(depth)), rel=1e-12)

    def test_training(self, paper_runs) -> None:
        for config in (run.config for run in paper_runs):
            assert config.batch_tokens == 524_288
            assert (config.schedule.steps, config.schedule.warmup, config.schedule.decay) == (20_000, 500, 1_000)
            assert config.total_tokens == pytest.approx(10e9, rel=0.05)
            assert (config.betas, config.grad_clip, config.seed) == ((0.9, 0.95), 1.0, 0)
            assert (config.precision, config.diverged_above) == ("bf16", 4.0)

    def test_a_smaller_micro_batch_comes_before_recomputation(self, paper_runs) -> None:
        by_shape = {
            (run.config.model.n_layers, run.config.model.n_loops): run.execution.micro_batch for run in paper_runs
        }
        assert by_shape[12, 1] == 32 > by_shape[48, 8]
        assert not any(run.execution.recompute for run in paper_runs)

    def test_per_tensor_numbers_at_48_layers(self, paper_runs) -> None:
        """m_L = 4 halves the blocks' own rate and AdamW ε."""
        [run] = [r for r in paper_runs if (r.axes["panel"], r.axes["n_loops"], r.axes["base_lr"]) == ("d", 8, 1.25e-3)]
        numbers = {r.kind: (r.init_std, r.lr, r.eps, r.weight_decay) for r in run.config.table}
        assert numbers == {
            "embedding": (0.02, 1.25e-3, 1e-8, 0.0),
            "block_norm": (None, 6.25e-4, 5e-9, 0.0),
            "block_matrix": (0.02, 6.25e-4, 5e-9, 0.1),
            "final_norm": (None, 1.25e-3, 1e-8, 0.0),
        }

    def test_cost(self, paper_runs) -> None:
        """5.8e21 FLOPs without attention. By the roofline 5,300 H100-hours at most."""
        distinct = {run.config.run_id: run for run in paper_runs}.values()
        total = sum(run.config.flops for run in distinct)
        assert f"{total:.1e}" == "5.8e+21"
        assert 0.1 * total < sum(run.config.attention_flops for run in distinct) < total
        times = GpuTimes.learned("H100", {}, {})
        assert 5_000 < times.hours(distinct) < 5_300
        # Of what `refine` takes hours for, where nothing was measured.
        assert times.utilisation(distinct)["6N + attention"] == pytest.approx(UTILISATION, abs=0.001)


@pytest.mark.parametrize("preset", ["smoke", "quick", "laptop", "gpu", "paper"])
def test_every_preset_keeps_the_papers_regime(preset) -> None:
    """σ0·√d_model within 1% of the paper's (values are rounded), m_L ∈ {1, 2, 4}, the same optimizer."""
    caught = capture("+sweep=lr_transfer", f"preset={preset}")
    runs = caught.runs()
    assert {run.axes["depth_multiplier"] for run in runs} == {1, 2, 4}
    assert {run.axes["panel"] for run in runs} == {"a", "b", "c", "d"}
    for config in (run.config for run in runs):
        assert config.table[0].init_std * math.sqrt(config.model.d_model) == pytest.approx(0.02 * 768**0.5, rel=0.01)
        assert config.model.mlp_dim / config.model.d_model == pytest.approx(8 / 3, rel=0.08)
        assert config.table[2].weight_decay == 0.1
        assert config.total_tokens == config.batch_tokens * config.schedule.steps
    middle = list(caught.config.grid.base_lr)
    assert middle[0] < caught.config.optimizer.base_lr < middle[-1]


@pytest.mark.parametrize(
    ("rates", "message"),
    [
        ([], r"x=\[\] is empty; give at least one value"),
        ([1e-3, 0.0], r"x=\[0\.001, 0\]: 0 must be positive"),
        ([-1e-3], "must be positive"),
        ([math.nan], "must be a finite number"),
        ([1e-3, math.inf], "must be a finite number"),
        ([1e-3, 1e-3], r"x=\[0\.001, 0\.001\] is not strictly increasing"),
        ([2e-3, 1e-3], "not strictly increasing"),
    ],
)
def test_a_rate_axis_is_positive_and_increasing(rates, message) -> None:
    with pytest.raises(UserError, match=message):
        check_rates("x", rates)


def test_rates_given_as_an_axis_are_checked_too() -> None:
    check_axes([["optimizer.base_lr=1e-3", "panel=a"], ["optimizer.base_lr=2e-3", "panel=a"]])
    check_axes([["panel=a"]])
    for rates in ("2e-3", "1e-3"), ("1e-3", "-1"), ("1e-3", "many"):
        with pytest.raises(UserError, match=r"optimizer\.base_lr=\["):
            check_axes([[f"optimizer.base_lr={rate}"] for rate in rates])


@pytest.mark.parametrize("by_hand", ["true", "false"])
def test_recomputation_can_be_decided_by_hand(by_hand) -> None:
    budgets = capture("preset=smoke", "execution.memory_gib=1e-6,100", f"execution.recompute={by_hand}").runs()
    assert [run.execution.recompute for run in budgets] == [by_hand == "true"] * 2


@pytest.fixture(scope="module")
def probes() -> dict[tuple[str, int, int], Any]:
    """The paper's, by panel, depth and seed."""
    runs = capture("+sweep=init_probe", "preset=paper").runs()
    return {(run.axes["panel"], run.config.applications, run.config.seed): run.config for run in runs}


class TestProbes:
    """Figures 2 to 4: no text, no schedule, the same rate for every tensor, rules that count loops or layers alike."""

    def test_the_rules_read_one_over_k_whether_k_counts_loops_or_layers(self, probes) -> None:
        exponents = {"a": 0, "b": 0.5, "c": 1, "d": 0, "e": 0.5, "f": 1}
        assert len(probes) == 6 * 7 * 10
        for (panel, depth, _), run in probes.items():
            assert run.residual_scale == pytest.approx(depth ** -exponents[panel[-1]])
            shape = (depth, 1) if panel[-1] in "abc" else (1, depth)
            assert (run.model.n_layers, run.model.n_loops) == shape

    def test_width_steps_tokens_and_rates_are_the_papers(self, probes) -> None:
        for run in probes.values():
            assert (run.model.d_model, run.model.vocab_size, run.model.head_dim) == (768, 128_256, 64)
            assert (run.steps, run.sequences, run.seq_len) == (10, 1, 128)
            assert {row.lr for row in run.table} == {1e-4}

    def test_one_block_applied_once_is_one_run_in_all_six_panels(self, probes) -> None:
        assert len({run.run_id for run in probes.values()}) == 10 * (6 * 6 + 1)


def test_a_key_is_found_in_an_interpolation_of_any_length() -> None:
    config = OmegaConf.create({"model": {"text": ["${resolver:" + "word " * 40 + "n_loops}"]}, "n_layers": 2})
    assert _refers(config, ["model.n_loops"])
    assert not _refers(config, ["batch.n_layers"])


def test_an_argument_takes_the_place_of_an_axis() -> None:
    part = capture("+sweep=lr_transfer", "preset=smoke", "panel=b", "model.n_loops=1,16").runs()
    assert {run.axes["panel"] for run in part} == {"b"}
    assert {run.axes["n_loops"] for run in part} == {1, 16}


def test_of_several_grids_the_panels_asked_for_choose() -> None:
    [run] = capture("+sweep=increments", "preset=paper", "panel=fig3b").runs()
    assert (run.config.model.n_layers, run.config.model.n_loops, run.config.model.d_model) == (12, 64, 768)


def test_the_exponent_sweep_meets_the_rules_it_interpolates() -> None:
    exponents = capture("+sweep=exponent", "preset=quick").runs()
    transfer = {run.config.run_id for run in capture("+sweep=lr_transfer", "preset=quick", "panel=a,b").runs()}
    meet = {run.config.run_id for run in exponents if run.axes["rule"] in ("alpha=0.5", "alpha=1")}
    assert meet == transfer
