"""The pool of workers: a death costs one attempt, a signal costs nothing, and losses do not change."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from sweeper.errors import UserError
from sweeper.execution.worker_pool import WorkerPool, worker_environment
from sweeper.records.lock import read_owner
from sweeper.records.run_dir import RunDir
from sweeper.records.status import State, run_status
from sweeper.run.outcome import Outcome
from sweeper.run.schedule import Schedule


@dataclass
class RecordingView:
    """A view that records its events."""

    events: list[tuple[Any, ...]] = field(default_factory=list)

    def started(self, slot: int, run_id: str) -> None:
        self.events.append(("started", run_id))

    def progress(self, slot: int, event: dict[str, Any]) -> None:
        assert 0 < event["step"] <= event["steps"]

    def ended(self, slot: int, run_id: str, outcome: Outcome, reason: str) -> None:
        self.events.append(("ended", run_id, outcome))

    def retrying(self, run_id: str, reason: str) -> None:
        self.events.append(("retrying", run_id, reason))

    def stopping(self) -> None:
        self.events.append(("stopping",))

    def tick(self) -> None: ...

    def count(self, kind: str, run_id: str) -> int:
        return sum(event[:2] == (kind, run_id) for event in self.events)


@pytest.fixture
def long_runs(run_config, execution) -> tuple[list[Any], Any]:
    """Three runs of about a second, and their execution: long enough to be killed in the middle."""
    schedule = Schedule(steps=100, warmup=2, decay=4)
    configs = [replace(run_config, schedule=schedule, seed=seed) for seed in range(3)]
    return configs, replace(execution, checkpoint_every=10, validate_every=100)


@pytest.fixture
def pool(runs, data_root) -> Callable[..., tuple[WorkerPool, RecordingView]]:
    def make(workers: int = 2) -> tuple[WorkerPool, RecordingView]:
        view = RecordingView()
        return WorkerPool(runs.root, data_root, workers=workers, threads=1, gpus=False, view=view), view

    return make


def logged(rundir: RunDir) -> int:
    return rundir.metrics.read_bytes().count(b"\n") if rundir.metrics.exists() else 0


def kill_owner(rundir: RunDir, times: int, wait_until) -> threading.Thread:
    """Kill −9 its owner `times` times, each time after more logged steps than a checkpoint interval."""

    def watch() -> None:
        killed: set[int] = set()
        for attempt in range(times):

            def at_work(steps: int = 20 * (attempt + 1)) -> bool:
                owner = read_owner(rundir.lock)
                return owner is not None and owner["pid"] not in killed and logged(rundir) >= steps

            wait_until(at_work, f"attempt {attempt + 1} of {rundir.path.name}")
            pid = read_owner(rundir.lock)["pid"]
            os.kill(pid, signal.SIGKILL)
            killed.add(pid)

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def test_a_killed_worker_costs_its_run_one_attempt_and_others_nothing(
    pool, runs, reference_runs, long_runs, wait_until
) -> None:
    configs, execution = long_runs
    once, twice, *_ = rundirs = [runs.write_config(config, execution) for config in configs]
    once_id, twice_id = once.path.name, twice.path.name
    twice.log.write_text("a line of an earlier attempt\n")
    killers = [kill_owner(once, 1, wait_until), kill_owner(twice, 2, wait_until)]
    work, view = pool()
    outcomes = work.run([rundir.path.name for rundir in rundirs])
    for killer in killers:
        killer.join()

    assert outcomes.pop(twice_id) == (Outcome.ERROR, "worker died with signal SIGKILL")
    assert {outcome for outcome, _ in outcomes.values()} == {Outcome.DONE}
    assert [view.count(kind, once_id) for kind in ("started", "retrying", "ended")] == [2, 1, 1]
    assert [view.count(kind, twice_id) for kind in ("started", "retrying", "ended")] == [2, 1, 1]
    assert all(view.count("started", rundir.path.name) == 1 for rundir in rundirs[2:])

    assert twice.failure() == {
        "reason": "worker died with signal SIGKILL",
        "attempts": 2,
        "log": ["a line of an earlier attempt"],
    }
    assert run_status(twice.path).state is State.FAILED
    reference, _ = reference_runs.train(configs[0], execution)
    assert once.metrics.read_bytes() == reference.metrics.read_bytes()

    again, _ = pool(workers=1)
    assert again.run([twice_id]) == {twice_id: (Outcome.DONE, "")}
    assert twice.failure() is None
    reference, _ = reference_runs.train(configs[1], execution)
    assert twice.metrics.read_bytes() == reference.metrics.read_bytes()


def test_a_signal_leaves_everything_resumable(pool, runs, reference_runs, long_runs, wait_until) -> None:
    """SIGTERM here; SIGINT in test_smoke_sweep."""
    configs, execution = long_runs
    rundirs = [runs.write_config(config, execution) for config in configs]

    def interrupt() -> None:
        wait_until(lambda: any(logged(rundir) >= 12 for rundir in rundirs), "twelve steps of a run")
        os.kill(os.getpid(), signal.SIGTERM)

    interrupter = threading.Thread(target=interrupt)
    interrupter.start()
    work, view = pool()
    handler = signal.getsignal(signal.SIGTERM)
    outcomes = work.run([rundir.path.name for rundir in rundirs])
    interrupter.join()
    assert ("stopping",) in view.events
    assert signal.getsignal(signal.SIGTERM) is handler
    assert {outcome for outcome, _ in outcomes.values()} == {Outcome.STOPPED}
    assert rundirs[2].path.name not in outcomes  # nothing new was started
    assert {run_status(rundir.path).state for rundir in rundirs} == {State.PENDING}
    assert not any(rundir.lock.exists() for rundir in rundirs)

    again, _ = pool()
    outcomes = again.run([rundir.path.name for rundir in rundirs])
    assert [outcome for outcome, _ in outcomes.values()] == [Outcome.DONE] * 3
    reference, _ = reference_runs.train(configs[0], execution)
    assert rundirs[0].metrics.read_bytes() == reference.metrics.read_bytes()


def test_workers_that_cannot_start_are_an_error_and_not_a_loop(pool, monkeypatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(UserError, match="worker processes end with status 1 before they start; try "):
        pool()[0].run(["a", "b", "c"])


def test_an_invalid_run_is_not_retried_and_others_continue(pool, runs, run_config) -> None:
    bad, good = runs.write_config(run_config), runs.write_config(replace(run_config, seed=1))
    config = bad.path / "config.yaml"
    config.write_text(config.read_text().replace("seed: 0", "seed: 7"))
    work, view = pool(workers=1)
    outcomes = work.run([bad.path.name, good.path.name])
    assert outcomes[bad.path.name][0] is Outcome.INVALID
    assert "edited after submission" in outcomes[bad.path.name][1]
    assert outcomes[good.path.name] == (Outcome.DONE, "")
    assert view.count("started", bad.path.name) == 1
    assert run_status(bad.path).state is State.FAILED


def test_a_worker_exits_at_the_end_of_its_input(repository, data_root) -> None:
    command = [sys.executable, "-m", "sweeper.execution.worker", str(data_root)]
    done = subprocess.run(command, cwd=repository, input="", capture_output=True, text=True, check=True)
    assert done.stdout == '{"event": "ready"}\n'


def test_a_worker_on_a_gpu_has_its_allocator_set_unless_the_user_did(monkeypatch) -> None:
    monkeypatch.delenv("PYTORCH_ALLOC_CONF", raising=False)
    assert "PYTORCH_ALLOC_CONF" not in worker_environment(1)
    assert worker_environment(1, on_gpu=True)["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "max_split_size_mb:512")
    assert worker_environment(1, on_gpu=True)["PYTORCH_ALLOC_CONF"] == "max_split_size_mb:512"
