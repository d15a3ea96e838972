"""Times of runs on GPUs: modelled, corrected by the runs that finished on the same kind, unknown for other kinds."""

import io
import math
from collections.abc import Mapping
from dataclasses import replace

import pytest
from rich.console import Console

from sweeper.config.resolve import ResolvedRun
from sweeper.grid.gpu_times import GpuTimes
from sweeper.grid.plan import Plan, gpu_times, print_plan
from sweeper.hardware import GPUS
from sweeper.records.status import RunStatus, State
from sweeper.records.sweep_manifest import Sweep
from sweeper.run.roofline import Settings, step_time

H100 = "NVIDIA H100 80GB HBM3"
SHAPES = [(12, 1), (12, 8), (48, 8)]


@pytest.fixture
def runs(literal_run, execution) -> list[ResolvedRun]:
    """Three of the paper's shapes, on GPUs."""
    shape = replace(literal_run.model, vocab_size=128256, d_model=768, n_heads=12, mlp_dim=2048, max_seq_len=2048)
    configs = [
        replace(
            literal_run,
            model=replace(shape, n_layers=layers, n_loops=loops),
            batch_sequences=256,
            seq_len=2048,
            precision="bf16",
        )
        for layers, loops in SHAPES
    ]
    on_gpu = replace(execution, device="cuda", micro_batch=8, compile=True)
    return [ResolvedRun(config, on_gpu, {"rule": "sqrt", "seed": 0}) for config in configs]


def plan(runs: list[ResolvedRun], status: Mapping[int, RunStatus] = {}) -> Plan:
    """Status by position."""
    by_id = {run.config.run_id: run for run in runs}
    states = {run_id: status.get(i, RunStatus(State.PENDING)) for i, run_id in enumerate(by_id)}
    return Plan(Sweep("s", "e", "p", ()), by_id, states)


def finished(run: ResolvedRun, blocks: float, rest: float, gpu: str = H100, gpus: int = 1) -> RunStatus:
    """As if blocks and all else took so many times as long as modelled."""
    time = step_time(run.config, GPUS["H100"], Settings.of(run.execution, gpus))
    seconds = blocks * time.of_blocks + rest * (time.seconds - time.of_blocks)
    return RunStatus(State.DONE, step=100, step_seconds=100 * seconds, gpu=gpu, gpus=gpus)


def printed(plan: Plan, gpu: str) -> str:
    console = Console(file=io.StringIO(), width=200)
    print_plan(plan, gpu_times(plan, gpu), 1, console)
    return console.file.getvalue()


def test_without_a_finished_run_times_are_the_models_and_are_called_so(runs) -> None:
    times = gpu_times(plan(runs), "H100")
    modelled = step_time(runs[0].config, GPUS["H100"], Settings.of(runs[0].execution))
    assert times.run_hours(runs[0]) == pytest.approx(modelled.seconds * runs[0].config.steps / 3600)
    assert "modelled, never run" in printed(plan(runs), "H100")


def test_runs_of_two_depths_correct_blocks_and_the_rest_apart(runs) -> None:
    times = gpu_times(plan(runs, {0: finished(runs[0], 1.2, 1.5), 2: finished(runs[2], 1.2, 1.5)}), "H100")
    assert (times.blocks, times.rest) == (pytest.approx(1.2), pytest.approx(1.5))
    middle = finished(runs[1], 1.2, 1.5)
    assert times.run_hours(runs[1]) == pytest.approx(middle.step_seconds / middle.step * runs[1].config.steps / 3600)


def test_one_run_corrects_everything_alike_and_the_plan_says_so(runs) -> None:
    one = plan(runs, {0: finished(runs[0], 1.3, 1.3)})
    times = gpu_times(one, "H100")
    assert times.blocks == times.rest == pytest.approx(1.3)
    assert "corrected by 1 finished run: blocks x 1.30" in printed(one, "H100")


def test_a_correction_that_no_step_can_have_is_not_made(runs) -> None:
    """By these two runs, blocks would take less than no time."""
    times = gpu_times(plan(runs, {0: finished(runs[0], 1, 5), 2: finished(runs[2], 0.05, 0.1)}), "H100")
    assert times.blocks == times.rest > 0


def test_runs_count_for_the_kind_of_gpu_that_they_finished_on(runs) -> None:
    status = {0: finished(runs[0], 2, 2), 1: finished(runs[1], 3, 3, gpu="NVIDIA A100-SXM4-80GB")}
    assert gpu_times(plan(runs, status), "H100").blocks == pytest.approx(2)
    assert gpu_times(plan(runs, status), "H200").finished == 0
    assert gpu_times(plan(runs, status), "NVIDIA A100-SXM4-80GB").finished == 1


def test_a_run_on_eight_gpus_is_compared_with_eight(runs) -> None:
    times = gpu_times(plan(runs, {0: finished(runs[0], 1.1, 1.1, gpus=8)}), "H100")
    assert times.blocks == pytest.approx(1.1)


def test_an_unknown_gpu_is_named_and_has_no_time(runs) -> None:
    times = gpu_times(plan(runs), "L40S")
    assert math.isnan(times.run_hours(runs[0]))
    text = printed(plan(runs), "L40S")
    assert "GPU time: unknown; L40S is no GPU whose rates are known (H100, H200, A100)" in text
    assert "L40S-hours" not in text


def test_a_sweep_for_cpus_has_no_gpu_times(runs, execution) -> None:
    assert gpu_times(plan([replace(run, execution=execution) for run in runs]), "H100") is None


def test_the_plan_counts_utilisation_both_ways(runs) -> None:
    shares = GpuTimes.learned("H100", {}, {}).utilisation(runs)
    assert 0.25 < shares["6N"] < shares["6N + attention"] < 0.5
    assert "(6N), " in printed(plan(runs), "H100")
