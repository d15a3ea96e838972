"""`loopsweep data`: it prepares the data that a sweep needs, and an impossible request is one line."""

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra.core.global_hydra import GlobalHydra
from rich.console import Console

from sweeper.__main__ import main
from sweeper.data import Progress
from sweeper.display.data_progress import DataView


@pytest.fixture
def data(text_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """`data(*overrides)`: exit status, output and errors of the command on a small corpus."""

    def call(*overrides: str) -> tuple[int, str, str]:
        GlobalHydra.instance().clear()
        corpus = [f"data.path={text_dir}", "data.val_fraction=0.3", f"paths.data={tmp_path / 'data'}"]
        try:
            main(["data", "preset=smoke", *corpus, *overrides])
        except SystemExit as end:
            return int(end.code or 0), *capfd.readouterr()
        return 0, *capfd.readouterr()

    return call


def test_data_is_prepared_once_and_a_sweep_finds_it(
    data: Callable[..., tuple[int, str, str]], tmp_path: Path, text_dir: Path, command_line: Callable[..., Any]
) -> None:
    status, first, _ = data()
    [directory] = (path for path in (tmp_path / "data").iterdir() if path.is_dir())
    assert status == 0
    assert "tokenizing local" in first
    assert f"{directory} is ready, manifest " in first
    assert data()[1] == first.splitlines()[-1] + "\n"
    paths = [f"paths.{name}={tmp_path / name}" for name in ("data", "runs", "sweeps")]
    plan = ["--multirun", "+sweep=lr_transfer", "hydra.launcher.plan_only=true", "hydra.launcher.workers=1"]
    corpus = [f"data.path={text_dir}", "data.val_fraction=0.3"]
    assert "not prepared" not in command_line("preset=smoke", *plan, *corpus, *paths).out


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.fils=3", "error: data.fils: Key 'fils' not in 'DataSection'"),
        ("=5", "error: Hydra cannot read this command line"),
        ("preset=none", "error: In 'config': Could not find 'preset/none'"),
        ("data.shard_tokens=0", "error: data.shard_tokens=0 must be at least 1"),
        ("data.path=nowhere", "error: data.path=nowhere: not a directory"),
        ("hydra/launcher=slurm", "error: hydra/launcher=slurm, but there is no sbatch on this machine"),
    ],
)
def test_an_impossible_request_is_one_line_and_status_2(
    data: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch, override: str, message: str
) -> None:
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    status, _, errors = data(override)
    assert status == 2
    assert errors.startswith(message)
    assert errors.count("\n") == 1


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize(
    ("done", "shown"),
    [
        (200_000_000, ["tokenizing", "75%", "2,500,000 tokens/s", "10.0 MB/s", "left 0:00:10"]),
        (300_000_000, ["tokenizing took 20.0 s", "3,750,000 tokens/s", "15.0 MB/s"]),
    ],
)
def test_progress_shows_rate_and_time_left(
    terminal: bool, done: int, shown: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("sweeper.display.data_progress.time.monotonic", lambda: now)
    screen = io.StringIO()
    with DataView(Console(file=screen, force_terminal=terminal, width=120)) as view:
        view.watch(Progress("tokenizing", total=400_000_000, before=100_000_000, done=0, tokens=0))
        now = 20.0
        view.watch(Progress("tokenizing", total=400_000_000, before=100_000_000, done=done, tokens=done // 4))
    for text in shown:
        assert text in screen.getvalue()
