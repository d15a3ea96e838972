"""A local wandb server, and runs that are mirrored to it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from sweeper.execution.execute_run import execute_run
from sweeper.records.run_dir import RunDir
from sweeper.run.execution import Execution, Tracking
from sweeper.run.outcome import Outcome
from sweeper.run.spec import RunConfig
from sweeper.run.stop import StopFlag
from sweeper.tracking import client

from .wandb_server import WandbServer

KEY = "local-" + "0123456789" * 4


@pytest.fixture(scope="session", autouse=True)
def _one_follower_for_all() -> Iterator[None]:
    """It gets its environment from the test that starts it, so the environment is the same in all tests."""
    yield
    _end_follower()


def _end_follower() -> None:
    if client._follower is not None:
        client._follower.kill()
    client._follower, client._failures = None, 0


@pytest.fixture
def fresh_follower() -> Iterator[None]:
    """A follower process for one test alone."""
    _end_follower()
    yield
    _end_follower()


def account(home: Path) -> dict[str, str]:
    """Environment with a key, and without the settings of the user who runs the tests."""
    places = dict.fromkeys(("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"), str(home))
    return {**places, "NETRC": str(home / "netrc"), "WANDB_API_KEY": KEY, "WANDB_ERROR_REPORTING": "false"}


@pytest.fixture(autouse=True)
def _account(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    for name, value in account(tmp_path_factory.mktemp("account")).items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    """A server on this machine, set as WANDB_BASE_URL."""
    with WandbServer().serving() as serving:
        monkeypatch.setenv("WANDB_BASE_URL", serving.url)
        yield serving


@pytest.fixture
def online(server: WandbServer) -> Tracking:
    """Tracking on that server."""
    return Tracking("online", project="p", base_url=server.url)


@dataclass(frozen=True)
class Trained:
    """A run that has ended: its directory and outcome."""

    rundir: RunDir
    outcome: Outcome
    reason: str

    @property
    def warnings(self) -> list[str]:
        """Lines about wandb in its log."""
        return [line for line in self.rundir.log_tail(100) if "wandb" in line]

    def by_step(self) -> dict[int, dict[str, Any]]:
        """Metrics by step, as the mirror should have them."""
        steps: dict[int, dict[str, Any]] = {}
        for row in self.rundir.read_metrics():
            step = row.pop("step")
            steps[step] = steps.get(step, {}) | row
        return steps


class StepHooks(StopFlag):
    """Calls functions before certain steps, and is set before another. The training loop checks it before each step."""

    def __init__(self, at_step: dict[int, Callable[[], Any]], stop_at: int | None) -> None:
        super().__init__()
        self.at_step, self.stop_at, self.step = at_step, stop_at, 0
        self.reports: list[Any] = []

    def is_set(self) -> bool:
        self.step += 1
        self.at_step.get(self.step, lambda: None)()
        return self.step == self.stop_at


Train = Callable[..., Trained]


@pytest.fixture
def train(
    runs: Any, run_config: RunConfig, execution: Execution, data_root: Path, capfd: pytest.CaptureFixture[str]
) -> Train:
    """`train(tracking, at_step={3: function}, stop_at=…)`: executes a run as a worker does."""

    def execute(
        tracking: Tracking,
        at_step: dict[int, Callable[[], Any]] | None = None,
        stop_at: int | None = None,
        config: RunConfig = run_config,
    ) -> Trained:
        rundir = RunDir(runs.root / config.run_id)
        labels = {"rule": "linear", "panels": ["b", "c"], "sweep": "s-test", "preset": "test"}
        rundir.write_config(config, replace(execution, tracking=tracking), labels)
        stop = StepHooks(at_step or {}, stop_at)
        with capfd.disabled():  # the log is made of what standard output really gets
            outcome, reason = execute_run(rundir.path, data_root, stop, stop.reports.append)
        return Trained(rundir, outcome, reason)

    return execute
