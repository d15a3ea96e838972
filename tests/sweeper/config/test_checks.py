"""What cannot work is one line on standard error and exit status 2, before anything is written."""

import subprocess
import sys
from pathlib import Path

import pytest

from sweeper.grid.plan import StepTimes


def arguments(tmp_path: Path, text_dir: Path, *more: str) -> list[str]:
    paths = [f"paths.{name}={tmp_path / name}" for name in ("runs", "sweeps", "data")]
    data = [f"data.path={text_dir}", "data.val_fraction=0.3"]
    return ["--multirun", "+sweep=lr_transfer", "preset=smoke", *paths, *data, *more]


CASES = {
    "unknown key": (["model.depth=3"], "model.depth"),
    "unknown key, added": (["+optimizer.momentum=0.9"], "momentum"),
    "unknown preset": (["preset=huge"], "huge"),
    "unknown panel": (["panel=e"], "panel/e"),
    "wrong type": (["schedule.steps=many"], "schedule.steps"),
    "fraction of a step": (["schedule.steps=1.5"], "schedule.steps"),
    "wrong type in a list": (["grid.base_lr=[fast]"], "grid.base_lr"),
    "value of another axis": (["model.n_loops=two"], "model.n_loops"),
    "unknown rule": (["scaling.rule=cubic"], "scaling.rule=cubic"),
    "unknown precision": (["precision=fp8"], "precision=fp8 is unknown; allowed: fp32, bf16"),
    "unknown device": (["execution.device=tpu"], "execution.device=tpu"),
    "width and heads": (["model.d_model=17", "model.n_heads=2"], "d_model=17 is not divisible by n_heads=2"),
    "odd head dimension": (["model.d_model=18", "model.n_heads=2"], "d_model/n_heads=9 is odd"),
    "no loops": (["model.n_loops=0"], "n_loops=0"),
    "schedule": (["schedule.warmup=8", "schedule.decay=8"], "schedule.warmup=8 + schedule.decay=8 exceed"),
    "no steps": (["schedule.steps=0", "schedule.warmup=0", "schedule.decay=0"], "schedule.steps=0"),
    "rates that fall": (["grid.base_lr=[2e-3,1e-3]"], "grid.base_lr=[0.002, 0.001] is not strictly increasing"),
    "rates that repeat": (["grid.base_lr=[1e-3,1e-3]"], "grid.base_lr"),
    "a rate of zero": (["grid.base_lr=[0,1e-3]"], "grid.base_lr=[0, 0.001] has a rate that is not positive"),
    "rates given as an axis": (["optimizer.base_lr=2e-3,1e-3"], "optimizer.base_lr=[0.002, 0.001]"),
    "no rates": (["grid.base_lr=[]"], "grid.base_lr is empty"),
    "no loop counts": (["grid.n_loops=[]"], "n_loops"),
    "no seeds": (["grid.seeds=[]"], "seed"),
    "micro batch": (["execution.micro_batch=3"], "batch.sequences=4 is not a multiple of execution.micro_batch=3"),
    "no memory": (["execution.memory_gib=0"], "execution.memory_gib=0.0 must be positive"),
    "negative init": (["optimizer.init_std=-1"], "optimizer.init_std=-1.0 must be positive"),
    "vocabulary": (
        ["model.vocab_size=300", "data.tokenizer.vocab_size=512"],
        "model.vocab_size=300 is smaller than data.tokenizer.vocab_size=512",
    ),
    "reference depth": (["scaling.ref_layers=0"], "ref_layers"),
    "no workers": (["hydra.launcher.workers=0"], "hydra.launcher.workers=0"),
    "fewer than no workers": (["hydra.launcher.workers=-1"], "hydra.launcher.workers=-1"),
    "text that is not there": (["data.path=nowhere"], "data.path=nowhere: not a directory"),
    "unknown source": (["data.path=null", "data.name=c4"], "data.name='c4'"),
}


@pytest.mark.parametrize(("overrides", "named"), CASES.values(), ids=CASES.keys())
def test_an_impossible_configuration_is_one_line_and_nothing_is_written(
    command_line, tmp_path, text_dir, overrides, named
) -> None:
    told = command_line(*arguments(tmp_path, text_dir, *overrides))
    assert told.status == 2
    assert told.err.startswith("error: ")
    assert told.err.count("\n") == 1, told.err
    assert named in told.err
    assert list(tmp_path.iterdir()) == []


def test_a_process_of_its_own_ends_the_same_way(repository, tmp_path, text_dir) -> None:
    command = [sys.executable, "-m", "sweeper.train", *arguments(tmp_path, text_dir, "model.depht=3")]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "depht" in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_single_run_is_checked_as_a_grid_is(command_line, tmp_path) -> None:
    paths = [f"paths.{name}={tmp_path / name}" for name in ("runs", "sweeps", "data")]
    told = command_line("preset=smoke", "execution.micro_batch=3", *paths)
    assert told.status == 2
    assert "execution.micro_batch=3" in told.err
    assert told.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Step times without timing any."""
    times = StepTimes([(1, 0.01), (2, 0.015)])
    monkeypatch.setattr("sweeper.execution.step_timing.measured_step_times", lambda *_: times)


@pytest.mark.usefixtures("measured")
def test_a_depth_between_multiples_of_the_reference_is_a_warning_that_says_what_becomes_of_it(
    command_line, tmp_path, text_dir
) -> None:
    odd = ["scaling.ref_layers=2", "model.n_layers=3", "hydra.launcher.plan_only=true"]
    told = command_line(*arguments(tmp_path, text_dir, *odd))
    assert told.status == 0, told.err
    shown = " ".join(told.out.split())
    assert "warning: model.n_layers=3 is not a multiple of scaling.ref_layers=2: m_L becomes 1.5" in shown
    assert shown.count("warning") == 1


@pytest.mark.usefixtures("measured")
def test_a_plan_says_what_there_is_to_do_and_writes_nothing(command_line, tmp_path, text_dir) -> None:
    told = command_line(*arguments(tmp_path, text_dir, "hydra.launcher.plan_only=true"))
    assert told.status == 0, told.err
    shown = " ".join(told.out.split())
    assert "24 points, 21 distinct runs: 0 done" in shown
    assert "21 to run" in shown
    assert "FLOPs of all 21" in shown
    assert "data: not prepared yet" in shown
    assert list(tmp_path.iterdir()) == []
