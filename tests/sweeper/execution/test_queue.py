"""Which job a run has, from what squeue lists and what sacct remembers."""

import subprocess
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from sweeper.errors import UserError
from sweeper.execution.slurm import queue
from sweeper.execution.slurm.queue import GONE, NEVER_STARTED, Job, live_jobs, run_jobs
from sweeper.execution.slurm.submission import JobArray, Submission


@dataclass
class Answers:
    """What squeue and sacct print, and how they were called."""

    squeue: list[str] = field(default_factory=list)
    sacct: list[str] | None = None
    failure: str | None = None
    calls: list[list[str]] = field(default_factory=list)

    def which(self, program: str) -> str | None:
        return None if program == "sacct" and self.sacct is None else program

    def run(self, command: list[str], **_: object) -> "subprocess.CompletedProcess[str]":
        self.calls.append(command)
        if self.failure is not None:
            return subprocess.CompletedProcess(command, 1, "", self.failure)
        lines = self.squeue if command[0] == "squeue" else self.sacct or []
        return subprocess.CompletedProcess(command, 0, "".join(f"{line}\n" for line in lines), "")

    def programs(self) -> list[str]:
        return [command[0] for command in self.calls]


@pytest.fixture
def slurm(monkeypatch: pytest.MonkeyPatch) -> Answers:
    """A cluster without accounting whose queue is empty."""
    answers = Answers()
    monkeypatch.setattr(queue, "subprocess", SimpleNamespace(run=answers.run))
    monkeypatch.setattr(queue, "shutil", SimpleNamespace(which=answers.which))
    return answers


def submission(name: str, *elements: tuple[str, ...], created: float = 1e9) -> Submission:
    return Submission(Path(name), created, {}, (JobArray(name, elements, "1"),))


def test_every_element_has_its_job_and_packed_runs_share_one(slurm: Answers) -> None:
    slurm.squeue = ["5_0|s|RUNNING|None", "5_1|s|PENDING|Priority", "6|else|RUNNING|None"]
    jobs = run_jobs([submission("s", ("a", "b"), ("c",))], ["a", "b", "c", "never-submitted"])
    first = Job("5_0", "RUNNING")
    assert jobs == {"a": first, "b": first, "c": Job("5_1", "PENDING", "Priority")}
    assert slurm.programs() == ["squeue"]


def test_a_job_without_an_array_is_its_only_element(slurm: Answers) -> None:
    slurm.squeue = ["7|s|COMPLETING|None"]
    assert run_jobs([submission("s", ("a",))], ["a"]) == {"a": Job("7", "COMPLETING")}


@pytest.mark.parametrize(
    ("older", "newer", "counts"),
    [
        ("FAILED", "PENDING", "newer"),
        ("FAILED", "COMPLETED", "newer"),
        ("PENDING", "FAILED", "older"),
        ("RUNNING", "COMPLETED", "older"),
        ("PENDING", "RUNNING", "newer"),
    ],
)
def test_of_two_jobs_of_a_run_the_live_one_counts_and_else_the_newer(
    slurm: Answers, older: str, newer: str, counts: str
) -> None:
    slurm.squeue = [f"1_0|older|{older}|None", f"2_0|newer|{newer}|None"]
    jobs = run_jobs([submission("older", ("a",)), submission("newer", ("a",))], ["a"])
    assert jobs["a"].id == {"older": "1_0", "newer": "2_0"}[counts]


def test_accounting_is_asked_only_for_jobs_that_squeue_does_not_list(slurm: Answers) -> None:
    """Elements that did not start share a line of sacct. squeue knows better whether they wait."""
    slurm.squeue = ["1_0|s|RUNNING|None"]
    slurm.sacct = ["1_0|s|PENDING|0:0", "1_1|s|CANCELLED by 0|0:15", "1_[2,5-6%2]|s|CANCELLED by 0|0:0"]
    slurm.sacct += ["1_3|s|PENDING|0:0", "1_4|s|FAILED|1:0"]
    elements = [("a",), ("b",), ("c",), ("d",), ("e",)]
    assert run_jobs([submission("s", *elements)], ["a", "b", "c", "d", "e"]) == {
        "a": Job("1_0", "RUNNING"),
        "b": Job("1_1", "CANCELLED", "exit 0:15"),
        "c": Job("1_2", "CANCELLED", "exit 0:0"),
        "d": NEVER_STARTED,
        "e": Job("1_4", "FAILED", "exit 1:0"),
    }
    run_jobs([submission("s", *elements)], ["a"])
    assert slurm.programs() == ["squeue", "sacct", "squeue"]


def test_accounting_is_asked_about_all_submissions_from_before_the_oldest(slurm: Answers) -> None:
    slurm.sacct = []
    run_jobs([submission("s", ("a",), created=86400.0 * 365), submission("t", ("b",), created=2e9)], ["a", "b"])
    [command] = [command for command in slurm.calls if command[0] == "sacct"]
    assert "--jobs=1,1" in command
    started = command[command.index("-S") + 1]
    assert started < "1971-01-02"
    assert started > "1970-12-30"


def test_without_accounting_the_log_tells_whether_a_job_that_squeue_does_not_list_has_started(
    slurm: Answers, tmp_path: Path
) -> None:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "1_0_0_log.out").touch()
    forgotten = replace(submission("s", ("a",), ("b",)), path=tmp_path)
    assert run_jobs([forgotten], ["a", "b"]) == {"a": GONE, "b": NEVER_STARTED}
    assert not GONE.lives
    assert not NEVER_STARTED.lives


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        (
            "started\nerror: data is gone\nsrun: error: node1: task 0: Exited with exit code 1\n",
            "exit 1:0: data is gone",
        ),
        ("", "exit 1:0"),
        ("x" * 5000, "exit 1:0: " + 300 * "x"),
    ],
)
def test_a_failed_job_ends_with_the_last_line_of_its_log(log: str, reason: str, slurm: Answers, tmp_path: Path) -> None:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "1_0_log.out").write_text(log)
    slurm.sacct = ["1|s|FAILED|1:0"]
    assert run_jobs([replace(submission("s", ("a",)), path=tmp_path)], ["a"]) == {"a": Job("1", "FAILED", reason)}


def test_a_submission_that_slurm_never_got_has_no_jobs(slurm: Answers) -> None:
    """sbatch refused it, or this process died before the call."""
    never = Submission(Path("s"), 1e9, {}, (JobArray("s", (("a",), ("b",)), None),))
    assert run_jobs([never], ["a", "b"]) == {}
    slurm.squeue = ["4_1|s|RUNNING|None"]  # or after the call, before it recorded the id
    assert run_jobs([never], ["a", "b"]) == {"b": Job("4_1", "RUNNING")}


def test_jobs_are_looked_up_by_name_whoever_submitted_them(slurm: Answers) -> None:
    slurm.sacct = []
    run_jobs([submission("s", ("a",)), submission("t", ("b",)), submission("u", ("c",))], ["a", "b"])
    squeue, sacct = slurm.calls
    assert "--name=s,t" in squeue
    assert "-a" in sacct
    assert not {"-u", "--me", "--user"} & {*squeue, *sacct}


def test_both_jobs_of_a_run_are_live(slurm: Answers) -> None:
    slurm.squeue = ["1_0|older|PENDING|None", "2_0|newer|RUNNING|None", "2_1|newer|FAILED|None"]
    both = [submission("older", ("a",)), submission("newer", ("a",), ("b",))]
    assert live_jobs(both, ["a", "b"]) == ["1_0", "2_0"]


def test_slurm_is_not_asked_without_a_submitted_run(slurm: Answers) -> None:
    assert run_jobs([submission("s", ("a",))], ["b"]) == run_jobs([], ["a"]) == {}
    assert slurm.calls == []


@pytest.mark.parametrize(("stderr", "shown"), [("first\nlast line\n", "last line"), ("", "no answer")])
def test_a_squeue_that_fails_is_one_line(slurm: Answers, stderr: str, shown: str) -> None:
    slurm.failure = stderr
    with pytest.raises(UserError, match=f"^{shown}; try again later") as caught:
        run_jobs([submission("s", ("a",))], ["a"])
    assert "\n" not in str(caught.value)
