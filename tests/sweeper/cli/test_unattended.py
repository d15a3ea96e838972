"""`loopsweep watch --retry --notify`: nobody is at the keyboard."""

import json
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from sweeper.cli.unattended import TRIES, AutomaticRetry, Notifier
from sweeper.records.status import RunStatus, State

from .conftest import RESULT, FakeSlurm, TypedSweep


@pytest.fixture(autouse=True)
def looks(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """One entry for every time that `watch` waits. SLURM may be asked at every look."""
    looks: list[None] = []
    # In the module alone: a wait for a process sleeps too.
    clock = SimpleNamespace(sleep=lambda _: looks.append(None), strftime=time.strftime)
    monkeypatch.setattr("sweeper.cli.status_table.time", clock)
    monkeypatch.setattr("sweeper.execution.slurm.status.QUEUE_SECONDS", 0.0)
    return looks


def test_runs_whose_jobs_ended_are_submitted_again_a_few_times_and_failed_ones_are_not(
    sweep: TypedSweep, slurm: FakeSlurm, looks: list[None], tmp_path: Path
) -> None:
    """The jobs that are submitted never start."""
    _, failed, *done = sweep.rundirs
    failed.write_failure("it broke", attempts=3)
    for rundir in done:
        rundir.write_result(RESULT)
    slurm.queue(slurm.submit(sweep), "CANCELLED", "FAILED", "COMPLETED", "COMPLETED")
    told = tmp_path / "told"
    result = sweep.type("watch", "--retry", "--notify", f'echo "$LINE" >> {told}')
    assert (result.status, result.err) == (0, "")
    assert result.out.count("submitted 1 runs as 13") == len(slurm.calls("sbatch")) == TRIES
    assert len(looks) == TRIES - 1
    assert told.read_text().splitlines() == [
        f"mine: first trouble: {failed.path.name} is failed: it broke",
        "mine has ended: 2 done · 1 failed · 1 lost",
    ]


def test_a_refusal_of_sbatch_does_not_end_the_watch(sweep: TypedSweep, slurm: FakeSlurm) -> None:
    slurm.queue(slurm.submit(sweep), *4 * ["CANCELLED"])
    slurm.answer("sbatch", "sbatch: error: AssocMaxSubmitJobLimit", status=1)
    result = sweep.type("watch", "--retry")
    assert (result.status, result.err) == (0, "")
    assert "4 lost · sbatch refused: AssocMaxSubmitJobLimit" in result.out


@pytest.mark.parametrize("option", [("--retry",), ("--notify", "true")])
def test_a_page_does_not_retry_or_notify(option: tuple[str, ...], sweep: TypedSweep) -> None:
    result = sweep.type("watch", "--web", *option)
    assert (result.status, result.out) == (2, "")
    assert result.err == ("error: --web with --retry or --notify: a page only shows; give these to a second `watch`\n")


def test_a_sweep_that_never_went_to_slurm_is_not_retried(sweep: TypedSweep) -> None:
    result = sweep.type("watch", "--retry")
    assert (result.status, result.out) == (2, "")
    assert result.err == "error: --retry: mine has no SLURM jobs; submit it again to resume it here\n"


class View:
    """The states of a sweep that has one run, which ends again and again."""

    def __init__(self, *steps: int) -> None:
        self.steps, self.is_fresh = iter(steps), True
        self.ask_anew()

    def ask_anew(self) -> None:
        self.step = next(self.steps)

    def statuses(self) -> dict[str, RunStatus]:
        return {"a": RunStatus(State.LOST, step=self.step)}


def test_a_run_is_submitted_again_as_long_as_it_comes_further(tmp_path: Path) -> None:
    submitted: list[list[str]] = []
    retries, view = AutomaticRetry(tmp_path, submitted.append), View(0, 0, 5, 5, 9, 9, 9, 9)
    tries = 0
    while retries.look(view)[1]:  # type: ignore[arg-type]
        tries += 1
    assert len(submitted) == tries + 1 == 7  # the last three from step 9
    assert set(map(tuple, submitted)) == {("a",)}


def test_nothing_is_submitted_on_an_old_answer_of_slurm(tmp_path: Path) -> None:
    submitted: list[list[str]] = []
    view = View(0)
    view.is_fresh = False
    assert AutomaticRetry(tmp_path, submitted.append).look(view)[1] == ["a"]  # type: ignore[arg-type]
    assert submitted == []


def test_a_web_hook_gets_the_line_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []

    def urlopen(request: urllib.request.Request, **_: Any) -> Any:
        sent.append((request.full_url, json.loads(request.data or b"")))  # type: ignore[arg-type]
        return SimpleNamespace(close=lambda: None)

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    notifier = Notifier("mine", "https://hooks.example/T0/secret", Console())
    held = {"a": RunStatus(State.HELD, reason="launch failed requeued held")}
    notifier.see(held, "1 held", due=[], ended=False)
    notifier.see(held, "1 held", due=[], ended=True)
    lines = ["mine: first trouble: a is held: launch failed requeued held", "mine has ended: 1 held"]
    assert sent == [("https://hooks.example/T0/secret", {"text": line}) for line in lines]


@pytest.mark.parametrize("target", ["https://localhost:1/secret", "exit 7 # secret"])
def test_a_failure_to_tell_is_one_line_without_the_address(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    Notifier("mine", target, Console(soft_wrap=True)).send("the line")
    out = capsys.readouterr().out
    assert out.startswith("warning: --notify failed (")
    assert out.endswith("; it should have said: the line\n")
    assert "secret" not in out
