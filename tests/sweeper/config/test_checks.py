"""What cannot work is one line on standard error and exit status 2, before anything is written."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

from model import BLOCKS, LOOPS
from sweeper.cli.data_command import prepare
from sweeper.config.checks import check_data, fitted
from sweeper.data import passages
from sweeper.errors import UserError
from sweeper.files import check_writable
from sweeper.grid.plan import StepTimes


def arguments(tmp_path: Path, text_dir: Path, *more: str) -> list[str]:
    paths = [f"paths.{name}={tmp_path / name}" for name in ("runs", "sweeps", "data")]
    data = [f"data.path={text_dir}", "data.val_fraction=0.3"]
    sweep = [] if any(text.startswith("+sweep=") for text in more) else ["+sweep=lr_transfer"]
    return ["--multirun", *sweep, "preset=smoke", *paths, *data, *more]


SLURM = "hydra/launcher=slurm"
LONG = "x" * 300
CASES = {
    # what Hydra and OmegaConf refuse
    "unknown key": (["model.depth=3"], "model.depth"),
    "unknown key, added": (["+optimizer.momentum=0.9"], "optimizer.momentum is unknown; allowed: kind, base_lr, "),
    "unknown preset": (["preset=huge"], "preset/huge"),
    "unknown panel": (["panel=e"], "panel/e"),
    "no preset": (["preset=null"], "look for an override without key or value"),
    "no key": (["=5"], "look for an override without key or value"),
    "a section without values": (["~model"], "model.vocab_size has no value; give model.vocab_size=VALUE"),
    "wrong type": (["schedule.steps=many"], "schedule.steps: Value 'many'"),
    "fraction of a step": (["schedule.steps=1.5"], "schedule.steps: Value '1.5'"),
    "wrong type in a list": (["grid.base_lr=[fast]"], "grid.base_lr[0]: Value 'fast'"),
    "value of another axis": (["model.n_loops=two"], "model.n_loops: Value 'two'"),
    "half a list": (["model.n_loops=[1,"], "model.n_loops=[1,: no viable alternative at input"),
    # names
    "unknown rule": (["scaling.rule=cubic"], "scaling.rule=cubic is unknown; allowed: none, sqrt, linear"),
    "unknown precision": (["precision=fp8"], "precision=fp8 is unknown; allowed: fp32, bf16"),
    "unknown device": (["execution.device=tpu"], "execution.device=tpu"),
    "unknown loop": (["model.loop=foo"], f"model.loop=foo is unknown; allowed: {', '.join(LOOPS)}"),
    "unknown block": (["model.block=foo"], f"model.block=foo is unknown; allowed: {', '.join(BLOCKS)}"),
    "no name": (["experiment="], "experiment='' must be a name"),
    "a long name": ([f"experiment={LONG}"], "must be a name of at most 64"),
    "project": (["tracking.project=a/b"], "tracking.project=a/b must be a wandb project"),
    "server": (["tracking.base_url=localhost"], "tracking.base_url=localhost must be an address such as https://"),
    # numbers
    "no loops": (["model.n_loops=0"], "model.n_loops=0 must be at least 1"),
    "no steps": (["schedule.steps=0", "schedule.warmup=0", "schedule.decay=0"], "schedule.steps=0"),
    "negative warmup": (["schedule.warmup=-1"], "schedule.warmup=-1 must be at least 0"),
    "negative seed": (["seed=-1"], "seed=-1 must be at least 0"),
    "a seed beyond int64": (["seed=9223372036854775808"], "seed=9223372036854775808 must be at most"),
    "beta2": (["optimizer.beta2=1.5"], "optimizer.beta2=1.5 must be below 1"),
    "beta2 = 1": (["optimizer.beta2=1"], "optimizer.beta2=1 must be below 1"),
    "negative weight decay": (["optimizer.weight_decay=-1"], "optimizer.weight_decay=-1 must be at least 0"),
    "weight decay that is no number": (["optimizer.weight_decay=nan"], "optimizer.weight_decay=nan must be a finite"),
    "clipping at infinity": (["optimizer.grad_clip=inf"], "optimizer.grad_clip=inf must be a finite number"),
    "beyond fp32": (["optimizer.init_std=1e39"], "optimizer.init_std=1e+39 must be at most 3.4e+38"),
    "negative init": (["optimizer.init_std=-1"], "optimizer.init_std=-1 must be positive"),
    "rotary base": (["model.rope_theta=-1"], "model.rope_theta=-1 must be at least 1"),
    "exponent": (["scaling.alpha=-1000", "model.n_loops=8"], "scaling.alpha=-1000 must be at least -16"),
    "epsilon overflows": (["scaling.alpha=-16", "model.n_loops=1000000"], "scaling: residual_scale=1e+96 must be"),
    "epsilon of a probe overflows": (
        [
            "+sweep=init_probe",
            "panel=fig2a",
            "scaling.alpha=-16",
            f"model.n_loops={10**18}",
            f"model.n_layers={10**18}",
        ],
        "scaling: residual_scale overflows; choose another scaling.alpha",
    ),
    "no memory": (["execution.memory_gib=0"], "execution.memory_gib=0 must be positive"),
    "threads": (["execution.threads=1000000"], "execution.threads=1000000 must be at most 1024"),
    "a timeout of years": (["tracking.init_timeout=1e300"], "tracking.init_timeout=1e+300 must be at most 86400"),
    "reference depth": (["scaling.ref_layers=0"], "scaling.ref_layers=0 must be at least 1"),
    "millions of draws": (["theory.draws=100000000000"], "theory.draws=100000000000 must be at most 1000000"),
    # numbers against each other
    "width and heads": (
        ["model.d_model=17", "model.n_heads=2"],
        "model.d_model=17 is not divisible by model.n_heads=2",
    ),
    "odd head dimension": (["model.d_model=18", "model.n_heads=2"], "model.d_model/model.n_heads=9 is odd"),
    "a probe's heads": (
        ["+sweep=init_probe", "probe.n_heads=3"],
        "probe.d_model=16 is not divisible by probe.n_heads=3",
    ),
    "copies": (["+sweep=increments", "probe.copies.d_model=17"], "probe.copies.d_model/probe.copies.n_heads=17 is odd"),
    "increments": (["+sweep=increments", "panel=fig3b", "probe.increment_layers=5"], "probe.increment_layers=5"),
    "schedule": (["schedule.warmup=8", "schedule.decay=8"], "schedule.warmup=8 + schedule.decay=8 exceed"),
    "micro batch": (["execution.micro_batch=3"], "batch.sequences=4 is not a multiple of execution.micro_batch=3"),
    "validation on a GPU": (
        ["execution.device=cuda", "execution.micro_batch=4", "validation.tokens=96", "batch.seq_len=32"],
        "validation.tokens=96 is 3 sequences, not a multiple of execution.micro_batch=4",
    ),
    "vocabulary": (
        ["model.vocab_size=300", "data.tokenizer.vocab_size=512"],
        "model.vocab_size=300 is smaller than data.tokenizer.vocab_size=512",
    ),
    "no sequence to validate on": (["batch.seq_len=4096"], "validation.tokens=2048 is not a whole number of sequences"),
    "half a sequence to validate on": (["validation.tokens=2050"], "batch.seq_len=32; the nearest is 2048"),
    # axes
    "rates that fall": (["grid.base_lr=[2e-3,1e-3]"], "grid.base_lr=[0.002, 0.001] is not strictly increasing"),
    "rates that repeat": (["grid.base_lr=[1e-3,1e-3]"], "grid.base_lr"),
    "a rate of zero": (["grid.base_lr=[0,1e-3]"], "grid.base_lr=[0, 0.001]: 0 must be positive"),
    "rates given as an axis": (["optimizer.base_lr=2e-3,1e-3"], "optimizer.base_lr=[0.002, 0.001]"),
    "rates that repeat as an axis": (
        ["optimizer.base_lr=1e-3,0.001"],
        "optimizer.base_lr=1e-3,0.001 has a value twice",
    ),
    "no rates": (["grid.base_lr=[]"], "grid.base_lr=[] is empty; give at least one value"),
    "no loop counts": (["grid.n_loops=[]"], "grid.n_loops=[] is empty; give at least one value"),
    "no seeds": (["grid.seeds=[]"], "grid.seeds=[] is empty; give at least one value"),
    "no depths": (["+sweep=init_probe", "probe.depths=[]"], "probe.depths=[] is empty"),
    "no seeds of probes": (["+sweep=init_probe", "probe.seeds=[]"], "probe.seeds=[] is empty"),
    "a negative seed among seeds": (["grid.seeds=[0,-1]"], "grid.seeds=[0, -1]: -1 must be at least 0"),
    "seeds that repeat": (["grid.seeds=[0,0]"], "grid.seeds=[0, 0] has a value twice"),
    "seeds that repeat as an axis": (["seed=0,1,0"], "seed=0,1,0 has a value twice"),
    "panels that repeat": (["panel=a,a"], "panel=a,a has a value twice"),
    "an empty range": (["seed=range(0,0)"], "seed=range(0,0) is empty; give at least one value"),
    "a panel of another sweep": (
        ["+sweep=theory", "panel=a"],
        "panel=a is in no grid of this sweep; its panels: shared",
    ),
    # launchers
    "no workers": (["hydra.launcher.workers=0"], "hydra.launcher.workers=0 must be at least 1"),
    "fewer than no workers": (["hydra.launcher.workers=-1"], "hydra.launcher.workers=-1"),
    "workers in words": (["hydra.launcher.workers=two"], "hydra.launcher.workers: Value 'two'"),
    "unknown option": (["hydra.launcher.worker=1"], "hydra.launcher.worker: Key 'worker' not in 'LocalNode'"),
    "unknown option, added": (["+hydra.launcher.worker=1"], "hydra.launcher.worker is unknown"),
    "setup as text": (
        [SLURM, "hydra.launcher.setup='module load cuda'"],
        "hydra.launcher.setup: must be a list, such as [a, b]",
    ),
    "srun_args as text": (
        [SLURM, "hydra.launcher.srun_args=--foo"],
        "hydra.launcher.srun_args: must be a list, such as [a, b]",
    ),
    "extra as text": ([SLURM, "hydra.launcher.extra=foo"], "hydra.launcher.extra: must be names with values"),
    "a list in setup": ([SLURM, "hydra.launcher.setup=[[a]]"], "hydra.launcher.setup=[[a]]: [a] must be text"),
    "no setup at all": ([SLURM, "hydra.launcher.setup=null"], "hydra.launcher.setup: must not be null"),
    "a list in extra": ([SLURM, "+hydra.launcher.extra.exclude=[a]"], "hydra.launcher.extra={exclude: [a]} must be"),
    "GPU-hours": ([SLURM, "hydra.launcher.max_gpu_hours=nan"], "hydra.launcher.max_gpu_hours=nan must be a finite"),
    "hours and minutes": ([SLURM, "hydra.launcher.time=10:30"], "hydra.launcher.time=10:30 must be minutes, HH:MM:SS"),
    "memory": ([SLURM, "hydra.launcher.mem=much"], "hydra.launcher.mem=much must be megabytes, or a size such as 64G"),
    "warning": ([SLURM, "hydra.launcher.time=1"], "hydra.launcher.warning_seconds=300 is not below the time limit"),
    "an axis as a list": (["hydra.sweeper.params.panel=[a,b]"], "hydra.sweeper.params={panel: [a, b], "),
    # data, directories, this machine
    "text that is not there": (["data.path=nowhere"], "data.path=nowhere: not a directory"),
    "unknown source": (["data.path=null", "data.name=c4"], "data.name='c4'"),
    "no runs there": (["paths.runs=/proc/runs"], "paths.runs=/proc/runs cannot be used"),
    "no sweeps there": (["paths.sweeps=/proc/sweeps"], "paths.sweeps=/proc/sweeps cannot be used"),
    "no data there": (["paths.data=/proc/data"], "paths.data=/proc/data cannot be used"),
    "a file in place of runs": ([f"paths.runs={__file__}"], "test_checks.py is not a directory); give another"),
    "a file above runs": ([f"paths.runs={__file__}/runs"], "test_checks.py is not a directory); give another"),
    "too long a path": ([f"paths.runs={LONG}"], "has a part longer than 255 bytes"),
    "a home of nobody's": (["paths.runs='~/runs'"], "paths.runs=~/runs begins with ~"),
    "more than all memory": (["model.d_model=100000000"], "model.d_model=100000000, model.mlp_dim=40"),
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


def test_a_gpu_that_is_not_there_is_said_before_anything_is_prepared(
    command_line, tmp_path, text_dir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    grid = arguments(tmp_path, text_dir, "execution.device=cuda")
    for typed in (grid, grid[2:]):  # without `--multirun` and the sweep, one run
        told = command_line(*typed)
        assert told.status == 2
        assert told.err.startswith("error: execution.device=cuda, but no GPU is visible")
        assert told.err.count("\n") == 1
        assert list(tmp_path.iterdir()) == []


TOO_MUCH_DATA = {
    "validation": (["validation.tokens=1024000"], "validation.tokens=1024000 exceeds the validation split, which has"),
    "sequence": (["batch.seq_len=1000000", "validation.tokens=1000000"], "batch.seq_len=1000000 needs 1000001 tokens"),
}


@pytest.mark.usefixtures("measured")
@pytest.mark.parametrize(("overrides", "named"), TOO_MUCH_DATA.values(), ids=TOO_MUCH_DATA.keys())
@pytest.mark.parametrize("how", ["plan", "grid", "run"])
def test_more_data_than_there_is_is_named_before_a_run_is_written(
    command_line, tmp_path, text_dir, data_root, run_data, how, overrides, named
) -> None:
    there = [f"paths.data={data_root}", f"data.shard_tokens={100_000}", *overrides]
    grid = arguments(tmp_path, text_dir, *there)
    typed = {"plan": [*grid, "hydra.launcher.plan_only=true"], "grid": grid, "run": grid[2:]}[how]
    told = command_line(*typed)
    assert told.status == 2
    assert named in told.err
    assert told.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_vocabulary_of_the_data_above_the_models_is_named(run_config, run_data) -> None:
    smaller = replace(run_config, model=replace(run_config.model, vocab_size=299))
    check_data(run_config, run_data.manifest)
    with pytest.raises(UserError, match=r"model\.vocab_size=299 is smaller than the data's vocabulary of 300"):
        check_data(smaller, run_data.manifest)


def test_the_last_whole_sequence_of_the_split_is_enough(run_config, run_data) -> None:
    """What is asked for and what there is may be equal; one sequence more is too much."""
    available = (run_data.manifest.tokens("val") - 1) // 32 * 32
    check_data(replace(run_config, validation_tokens=available), run_data.manifest)
    assert run_data.validation(32, available).shape == (available // 32, 33)
    with pytest.raises(UserError, match=f"validation.tokens={available + 32} exceeds"):
        check_data(replace(run_config, validation_tokens=available + 32), run_data.manifest)


@pytest.mark.parametrize("override", ["grid.seeds=[-1]", "data.val_fraction=2", "paths.data=/proc/data"])
def test_the_data_command_checks_as_a_grid_does(tmp_path, text_dir, override) -> None:
    GlobalHydra.instance().clear()
    places = [f"data.path={text_dir}", f"paths.data={tmp_path / 'data'}"]
    with pytest.raises(UserError, match=re.escape(override.split("=")[0])):
        prepare(["preset=smoke", *places, override])
    assert list(tmp_path.iterdir()) == []


def test_probing_a_directory_leaves_nothing(tmp_path) -> None:
    check_writable("here", tmp_path / "new" / "runs")
    check_writable("here", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_link_to_nowhere_is_no_directory(tmp_path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    with pytest.raises(UserError, match="link is not a directory"):
        check_writable("paths.runs=link", tmp_path / "link" / "runs")


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


def test_validation_is_cut_to_a_small_split_and_nowhere_else(run_config, run_data) -> None:
    whole = run_data.manifest
    small = replace(whole, source={**whole.source, "split": passages.NAME})
    available = (whole.tokens("val") - 1) // run_config.seq_len * run_config.seq_len
    long = replace(run_config, validation_tokens=available + run_config.seq_len)
    assert fitted(long, whole) == long
    with pytest.raises(UserError, match=r"validation\.tokens"):
        check_data(long, whole)
    assert fitted(long, small).validation_tokens == available
    check_data(fitted(long, small), small)
    assert fitted(run_config, small) == run_config  # already short enough
