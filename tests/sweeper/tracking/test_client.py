"""wandb has what the run's directory has, and no problem of the mirror affects the training."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from sweeper.records.export import readouts_table
from sweeper.records.sweep_manifest import Sweep
from sweeper.run.execution import Tracking
from sweeper.run.outcome import Outcome
from sweeper.tracking import client
from sweeper.tracking.mirrored_run import MirroredRun
from sweeper.tracking.offline import read_directory
from sweeper.tracking.tables import MirroredSweep, from_files, from_server
from sweeper.tracking.wandb_api import Project
from sweeper.tracking.wandb_run import Entry, WandbRun

from .conftest import KEY, Train, Trained
from .wandb_server import ENTITY, WandbServer

OFFLINE = Tracking("offline", project="p")


def check(run: MirroredRun, trained: Trained) -> None:
    """`run` equals the records of `trained`."""
    assert run.history() == trained.by_step()
    assert run.summary["result"] == trained.rundir.result()


def on(server: WandbServer, trained: Trained) -> MirroredRun:
    [run] = Project(f"{ENTITY}/p", server.url).runs([trained.rundir.path.name])
    return run


def in_files(trained: Trained) -> MirroredRun:
    [run] = read_directory(trained.rundir.path.parent.parent / "wandb")
    return run


def children(pid: int) -> list[int]:
    """Processes that a process started."""
    return [int(child) for path in Path(f"/proc/{pid}/task").glob("*/children") for child in path.read_text().split()]


def follower_children() -> list[int]:
    """Children of the follower: wandb's service."""
    assert client._follower is not None
    return children(client._follower.process.pid)


def test_a_server_holds_what_the_run_recorded(train: Train, server, online, run_config) -> None:
    trained = train(online)
    assert (trained.outcome, trained.warnings) == (Outcome.DONE, [])
    stored = server.runs["p", run_config.run_id]
    assert stored.fields["displayName"] == "b-N2-L1-lr8e-3"
    assert (stored.fields["groupName"], stored.fields["tags"], stored.state) == ("s-test", ["b", "c"], "finished")
    assert stored.config["run"]["value"] == run_config.to_dict()
    run = on(server, trained)
    check(run, trained)
    assert [row["tokens"] for row in stored.history() if "tokens" in row] == [128 * step for step in range(1, 13)]
    assert stored.summary["tokens_per_second"] > 0
    axis = stored.config["_wandb"]["value"]["m"]
    assert [metric.get("1") or metric.get("2") for metric in axis] == ["train_step", "*"]


def test_an_offline_file_holds_the_same(train: Train) -> None:
    trained = train(OFFLINE)
    run = in_files(trained)
    check(run, trained)
    assert (run.name, run.group, run.tags) == ("b-N2-L1-lr8e-3", "s-test", ("b", "c"))


def test_utilisation_is_what_was_computed_over_the_gpus_peak(train: Train, run_config, monkeypatch) -> None:
    monkeypatch.setattr(client, "_peak_flops", lambda *_: 2e12)
    trained = train(OFFLINE)
    summary = in_files(trained).summary
    flops = (run_config.flops + run_config.attention_flops) / run_config.total_tokens
    assert summary["mfu"] == pytest.approx(summary["tokens_per_second"] * flops / 2e12, rel=1e-12)


@pytest.mark.parametrize("mode", ["offline", "online"])
def test_readouts_become_tables_and_come_back(mode: str, train: Train, server, online) -> None:
    trained = train(replace(online, mode=mode))
    run = on(server, trained) if mode == "online" else in_files(trained)
    mirrored = MirroredSweep(Sweep("s", "x", "test", ({"run_id": run.id},)), {run.id: run}).readouts()
    recorded = readouts_table(trained.rundir.path.parent, [run.id])
    assert set(recorded["readout"]) == {"residual_norm", "loop_loss", "increment_cosine"}
    tables = (table.sort_values(["readout", "i", "j"], ignore_index=True) for table in (mirrored, recorded))
    pd.testing.assert_frame_equal(*tables, check_exact=True)


@pytest.mark.parametrize("mode", ["offline", "online"])
def test_a_sweep_that_gains_cells_is_mirrored_with_all_of_them(mode: str, server, online, tmp_path) -> None:
    first = Sweep("s", "x", "test", ({"panel": "a", "architecture": "plain", "run_id": "r1"},), id="0a1b2c")
    second = replace(first, cells=(*first.cells, {**first.cells[0], "panel": "b", "values": {"optimizer.beta2": 0.9}}))
    for sweep in (first, second):
        session = WandbRun(replace(online, mode=mode), tmp_path, Entry.of_sweep(sweep), pytest.fail)
        session.close(finished=True)
    found = from_server(f"{ENTITY}/p") if mode == "online" else from_files(tmp_path / "wandb")
    assert found.sweep == second


def test_off_starts_nothing(train: Train, fresh_follower, monkeypatch) -> None:
    monkeypatch.setattr(client, "FollowerProcess", pytest.fail)
    assert train(Tracking("off")).outcome is Outcome.DONE


def test_a_finished_run_is_not_opened_again(train: Train, server, online, data_root) -> None:
    trained = train(online)
    before = len(server.operations)
    assert train(online).outcome is Outcome.DONE
    assert len(server.operations) == before
    assert trained.warnings == []


@pytest.mark.parametrize("mode", ["offline", "online"])
def test_a_run_that_stops_and_resumes_is_mirrored_once(mode: str, train: Train, server, online) -> None:
    tracking = replace(online, mode=mode)
    assert train(tracking, stop_at=7).outcome is Outcome.STOPPED
    trained = train(tracking)
    assert (trained.outcome, trained.warnings) == (Outcome.DONE, [])
    check(on(server, trained) if mode == "online" else in_files(trained), trained)


def test_a_server_that_loses_its_clients_midway_has_everything_in_the_end(
    train: Train, server, online, fresh_follower, wait_until: Callable[..., None], run_config
) -> None:
    """First the newest checkpoint is lost, so the server is ahead of the run. Then the follower is killed."""
    first = train(online, stop_at=7)
    assert len(server.runs["p", run_config.run_id].rows) == 7  # six steps and a validation
    for path in first.rundir.checkpoints.glob("step-00000006.*"):
        path.unlink()
    assert [path.stem for path in first.rundir.checkpoints.glob("*.pt")] == ["step-00000004"]
    opened = server.operations.count("RunResumeStatus")

    def cut() -> None:
        wait_until(lambda: server.operations.count("RunResumeStatus") > opened, "a second client")
        assert client._follower is not None
        # The follower first: it would log a warning about its killed service.
        for pid in (client._follower.process.pid, *follower_children()):
            os.kill(pid, signal.SIGKILL)

    second = train(online, at_step={4: cut}, stop_at=5)
    assert [first.outcome, second.outcome] == [Outcome.STOPPED, Outcome.STOPPED]
    assert len(second.warnings) == 1
    trained = train(online)
    assert trained.outcome is Outcome.DONE
    check(on(server, trained), trained)


def test_rows_that_a_server_refuses_for_a_while_arrive_later(
    train: Train, server, online, wait_until: Callable[..., None]
) -> None:
    def refuse() -> None:
        wait_until(lambda: server.runs, "the run on the server")
        server.refusals = 2

    trained = train(online, at_step={3: refuse})
    assert (trained.outcome, trained.warnings, server.refusals) == (Outcome.DONE, [], 0)
    check(on(server, trained), trained)


SERVER_FAILURES = {
    "hangs": lambda server: setattr(server, "silent", True),
    "answers 429": lambda server: setattr(server, "failing", 429),
    "answers 500": lambda server: setattr(server, "failing", 500),
    "is down": lambda server: server.stop(),
}


@pytest.mark.parametrize("failure", list(SERVER_FAILURES))
def test_a_server_that_cannot_be_logged_to_is_replaced_by_files(
    failure: str, train: Train, server, online, fresh_follower
) -> None:
    SERVER_FAILURES[failure](server)
    trained = train(replace(online, init_timeout=1.0))
    assert trained.outcome is Outcome.DONE
    [warning] = trained.warnings
    assert "wandb: logging to http://" in warning
    assert "mirrored to files in wandb" in warning
    check(in_files(trained), trained)


def test_the_first_step_waits_for_nothing(train: Train, fresh_follower) -> None:
    """The follower is stopped until that step is done. Then it logs everything."""
    client._follower = client.FollowerProcess()
    follower = client._follower.process.pid
    os.kill(follower, signal.SIGSTOP)
    trained = train(OFFLINE, at_step={2: lambda: os.kill(follower, signal.SIGCONT)})
    assert (trained.outcome, trained.warnings) == (Outcome.DONE, [])
    check(in_files(trained), trained)


def test_without_a_key_files_are_written(train: Train, online, fresh_follower, monkeypatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY")
    trained = train(online)
    [warning] = trained.warnings
    assert "No API key configured" in warning
    check(in_files(trained), trained)


def test_a_server_that_hangs_at_the_end_is_not_waited_for(
    train: Train, server, online, fresh_follower, wait_until: Callable[..., None]
) -> None:
    def hang() -> None:
        wait_until(lambda: server.runs, "the run on the server")
        server.silent = True

    trained = train(replace(online, finish_timeout=1.0), at_step={12: hang})
    assert trained.outcome is Outcome.DONE
    [warning] = trained.warnings
    assert "did not receive everything within 1 s; `wandb sync wandb/run-" in warning
    check(in_files(trained), trained)


def test_a_killed_service_costs_the_rest_of_one_mirror(
    train: Train, fresh_follower, wait_until: Callable[..., None], run_config, runs
) -> None:
    def kill_service() -> None:
        wait_until(lambda: list((runs.root.parent / "wandb").glob("*/*.wandb")), "an offline file")
        for pid in follower_children():
            os.kill(pid, signal.SIGKILL)

    trained = train(OFFLINE, at_step={6: kill_service})
    assert trained.outcome is Outcome.DONE
    [warning] = trained.warnings
    assert "mirroring stopped" in warning
    another = train(OFFLINE, config=replace(run_config, seed=1))
    assert (another.outcome, another.warnings) == (Outcome.DONE, [])


def test_a_follower_that_does_not_answer_is_abandoned(train: Train, fresh_follower, monkeypatch, run_config) -> None:
    monkeypatch.setattr(client, "GRACE_SECONDS", 0.5)

    def freeze() -> None:
        assert client._follower is not None
        os.kill(client._follower.process.pid, signal.SIGSTOP)

    hasty = Tracking("offline", init_timeout=0.2, finish_timeout=0.2)
    trained = train(hasty, at_step={2: freeze})
    assert trained.outcome is Outcome.DONE
    [warning] = trained.warnings
    assert warning.startswith("wandb: mirroring stopped (no answer within 0.9 s)")


def test_if_no_file_can_be_written_the_run_continues_without(train: Train, runs, fresh_follower) -> None:
    runs.root.parent.mkdir(exist_ok=True)
    (runs.root.parent / "wandb").touch()  # in the way of wandb's directory
    trained = train(OFFLINE)
    assert trained.outcome is Outcome.DONE
    [warning] = trained.warnings
    assert "mirroring stopped (FileExistsError" in warning


def test_a_worker_that_is_killed_leaves_its_rows_and_no_process(
    runs, run_config, execution, data_root, wait_until: Callable[..., None]
) -> None:
    """kill -9: the follower's input ends, it logs the rest and exits."""
    schedule = replace(run_config.schedule, steps=100_000)
    rundir = runs.write_config(replace(run_config, schedule=schedule), replace(execution, tracking=OFFLINE))
    worker = subprocess.Popen(
        [sys.executable, "-m", "sweeper.execution.worker", str(data_root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    assert worker.stdin is not None
    worker.stdin.write(json.dumps({"run": str(rundir.path), "rank_info": {}}).encode() + b"\n")
    worker.stdin.flush()
    wandb = runs.root.parent / "wandb"
    wait_until(lambda: list(wandb.glob("*/*.wandb")) and rundir.read_metrics(), "an offline file and a row")
    [follower] = children(worker.pid)
    recorded = {line["step"] for line in rundir.read_metrics()}  # a validation is a second line of its step
    worker.kill()
    worker.wait()
    wait_until(lambda: not Path(f"/proc/{follower}").exists(), "the end of the follower")
    [run] = read_directory(wandb)
    assert recorded
    assert recorded <= run.history().keys()


def test_the_key_stands_in_no_file(train: Train, server, online) -> None:
    trained = train(online)
    files = [path for path in trained.rundir.path.parent.parent.rglob("*") if path.is_file()]
    assert any(path.suffix == ".wandb" for path in files)
    assert not [path for path in files if KEY.encode() in path.read_bytes()]
