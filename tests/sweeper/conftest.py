"""A tiny run, a local text corpus, and ways to start a sweep. Nothing here needs the network or prepared data."""

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra

import sweeper.train  # registers the schema and the plugins
from model import ModelConfig, parameter_table
from sweeper.data import DataSpec, TokenData, TokenizerSpec, open_data, prepare_data
from sweeper.records.run_dir import RunDir
from sweeper.run.execution import Execution
from sweeper.run.schedule import Schedule
from sweeper.run.spec import RunConfig
from sweeper.run.stop import StopFlag
from sweeper.training.trainer import Trainer

torch.set_num_threads(1)

REPOSITORY = Path(sweeper.train.__file__).resolve().parents[1]
DEADLINE_SECONDS = 120.0  # for conditions that a healthy machine meets in seconds

RUN = RunConfig(
    model=ModelConfig(
        vocab_size=300,
        d_model=16,
        n_heads=1,
        mlp_dim=40,
        n_layers=1,
        n_loops=2,
        residual_scale=0.5,
        max_seq_len=32,
    ),
    table=parameter_table(base_lr=8e-3, init_std=0.139, eps=1e-8, weight_decay=0.1, depth_multiplier=1),
    betas=(0.9, 0.95),
    grad_clip=1.0,
    schedule=Schedule(steps=12, warmup=2, decay=4),
    batch_sequences=4,
    seq_len=32,
    validation_tokens=512,
    diverged_above=7.0,
    data="0123456789abcdef",
    seed=0,
    precision="fp32",
)
EXECUTION = Execution(
    device="cpu",
    micro_batch=4,
    compile=False,
    recompute=False,
    threads=1,
    log_every=1,
    validate_every=6,
    checkpoint_every=4,
)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def text_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of sixty .txt files, enough for a BPE of 512 and both splits."""
    directory = tmp_path_factory.mktemp("text")
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 9))) for _ in range(300)]
    for i in range(60):
        (directory / f"{i:02d}.txt").write_text(f"{i}. {' '.join(draw.choices(words, k=150))}.\n")
    return directory


@pytest.fixture(scope="session")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of `run_data`. Do not change it."""
    return tmp_path_factory.mktemp("prepared")


@pytest.fixture(scope="session")
def run_data(data_root: Path, text_dir: Path) -> TokenData:
    """Tokens of a 300-entry BPE."""
    spec = DataSpec("wikipedia", str(text_dir), "text", TokenizerSpec("bpe", 300), 100_000, 0.3)
    return open_data(prepare_data(spec, data_root, lambda line: None).hash, data_root)


@pytest.fixture(scope="session")
def run_config(run_data: TokenData) -> RunConfig:
    """Twelve steps of a two-loop model on `run_data`."""
    return replace(RUN, data=run_data.manifest.hash)


@pytest.fixture(scope="session")
def execution() -> Execution:
    """The execution of `run_config`: every step is logged, with a checkpoint every four."""
    return EXECUTION


@pytest.fixture(scope="session")
def literal_run() -> RunConfig:
    """A run without data: it depends only on this file."""
    return RUN


@dataclass
class Runs:
    """Writes and trains runs below one directory."""

    root: Path
    data: TokenData

    def write_config(self, config: RunConfig, execution: Execution = EXECUTION) -> RunDir:
        rundir = RunDir(self.root / config.run_id)
        rundir.write_config(config, execution, {"rule": "linear", "preset": "test"})
        return rundir

    def train(
        self, config: RunConfig, execution: Execution = EXECUTION, stop: StopFlag | None = None, data: Any = None
    ) -> tuple[RunDir, dict[str, Any] | None]:
        """Train in this process, without lock or result.json."""
        rundir = self.write_config(config, execution)
        trainer = Trainer(rundir, config, execution, data or self.data)
        return rundir, trainer.run(stop or StopFlag(), lambda progress: None)


@pytest.fixture
def runs(tmp_path: Path, run_data: TokenData) -> Runs:
    """Runs in a directory of this test."""
    return Runs(tmp_path / "runs", run_data)


@pytest.fixture
def reference_runs(tmp_path: Path, run_data: TokenData) -> Runs:
    """Runs in another directory, for undisturbed runs to compare with."""
    return Runs(tmp_path / "reference", run_data)


@pytest.fixture(scope="session")
def wait_until() -> Callable[..., None]:
    """`wait_until(condition)`: returns once the condition holds, fails after a generous deadline."""

    def wait(condition: Callable[[], object], what: str = "the condition") -> None:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not condition():
            assert time.monotonic() < deadline, f"{what} did not hold within {DEADLINE_SECONDS:g} s"
            time.sleep(0.002)

    return wait


@dataclass
class SweepDir:
    """The smoke sweep on local text, below one directory, started as a user starts it."""

    path: Path
    text: Path
    environment: dict[str, str] = field(default_factory=dict)
    sweep: str = "lr_transfer"

    @property
    def runs(self) -> Path:
        return self.path / "runs"

    def overrides(self, *more: str) -> list[str]:
        paths = [f"paths.{name}={self.path / name}" for name in ("runs", "sweeps", "data")]
        data = [f"data.path={self.text}", "data.val_fraction=0.3"]
        return [f"+sweep={self.sweep}", "preset=smoke", *data, *paths, "hydra.launcher.workers=2", *more]

    def start(self, *more: str) -> subprocess.Popen[str]:
        """Start the sweep in a new process group."""
        return subprocess.Popen(
            [sys.executable, "-m", "sweeper.train", "--multirun", *self.overrides(*more)],
            cwd=REPOSITORY,
            env={**os.environ, "OMP_NUM_THREADS": "1", **self.environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *more: str) -> subprocess.CompletedProcess[str]:
        """Run the sweep to its end."""
        process = self.start(*more)
        out, err = process.communicate(timeout=300)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def metrics(self) -> dict[str, bytes]:
        """metrics.jsonl of every run."""
        return {path.parent.name: path.read_bytes() for path in self.runs.glob("*/metrics.jsonl")}

    def results(self) -> dict[str, dict[str, Any]]:
        """result.json of every finished run."""
        return {path.parent.name: json.loads(path.read_text()) for path in self.runs.glob("*/result.json")}

    def logged_lines(self) -> int:
        """Number of lines in all metrics files."""
        return sum(content.count(b"\n") for content in self.metrics().values())


@pytest.fixture
def sweep_dir(tmp_path: Path, text_dir: Path) -> SweepDir:
    """A smoke sweep that has not been started."""
    return SweepDir(tmp_path, text_dir)


@pytest.fixture(scope="session")
def make_sweep_dir(tmp_path_factory: pytest.TempPathFactory, text_dir: Path) -> Callable[..., SweepDir]:
    """`make_sweep_dir(sweep="lr_transfer")` makes more such sweeps, for fixtures that several tests share."""
    return lambda sweep="lr_transfer": SweepDir(tmp_path_factory.mktemp("sweep"), text_dir, sweep=sweep)


@pytest.fixture(scope="session")
def finished_sweep(tmp_path_factory: pytest.TempPathFactory, text_dir: Path) -> SweepDir:
    """The smoke sweep, run once and undisturbed, with values in its environment that no record may contain."""
    home = tmp_path_factory.mktemp("home-of-somebody")
    planted = {"HOME": str(home), "PLANTED_API_KEY": "planted-secret-0451", "PLANTED_PLAIN": "planted-value-0452"}
    sweep = SweepDir(tmp_path_factory.mktemp("sweep"), text_dir, planted)
    done = sweep.run()
    assert done.returncode == 0, done.stderr
    return sweep


@dataclass(frozen=True)
class CommandResult:
    """Exit status, standard output and standard error of a command."""

    status: int
    out: str
    err: str


@pytest.fixture
def command_line(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., CommandResult]:
    """`command_line(*arguments)`: `python -m sweeper.train` in this process."""

    def call(*arguments: str) -> CommandResult:
        GlobalHydra.instance().clear()
        monkeypatch.setattr(sys, "argv", ["sweeper.train", *arguments])
        status = 0
        try:
            sweeper.train.main()
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
        return CommandResult(status, *capfd.readouterr())

    return call
