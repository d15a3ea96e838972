"""`loopsweep` on a sweep that was submitted before: logs, watch, retry, cancel, on this machine and through SLURM."""

import errno
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sweeper.errors import UserError
from sweeper.execution.slurm.submission import Submission, new_submission, submit
from sweeper.records.lock import Guard, RunLock
from sweeper.records.run_dir import RunDir
from sweeper.run.stop import StopFlag

from .conftest import RESULT, FakeSlurm, TypedSweep


def log(rundir: RunDir, name: str) -> None:
    rundir.log.write_text("".join(f"{name} {number}\n" for number in range(30)))


def headings(out: str) -> list[str]:
    """The logs that were shown, by run or job."""
    paths = [Path(line.removeprefix("==> ")) for line in out.splitlines() if line.startswith("==> ")]
    return [path.parent.name if path.name == "log.txt" else path.name for path in paths]


class TestLogs:
    @pytest.fixture(autouse=True)
    def _states(self, sweep: TypedSweep) -> None:
        """One done, one failed, two that have not started. All have a log."""
        done, failed, *_ = sweep.rundirs
        for number, rundir in enumerate(sweep.rundirs):
            log(rundir, f"run{number}")
        done.write_result(RESULT)
        failed.write_failure("it broke", attempts=2)

    def test_without_a_name_the_last_lines_of_failed_and_running_runs_are_shown(self, sweep: TypedSweep) -> None:
        _, failed, running, _ = sweep.rundirs
        with RunLock(running.lock, StopFlag()):
            result = sweep.type("logs")
        assert (result.status, result.err) == (0, "")
        assert headings(result.out) == [failed.path.name, running.path.name]
        lines = [line for line in result.out.splitlines() if not line.startswith("==> ")]
        assert lines == [f"run{number} {line}" for number in (1, 2) for line in range(10, 30)]

    def test_a_run_is_chosen_by_a_part_of_its_name_whatever_its_state(self, sweep: TypedSweep) -> None:
        done = sweep.rundirs[0]
        result = sweep.type("logs", "--run", done.path.name[-6:], "--lines", "2")
        assert result.out.splitlines() == [f"==> {done.log}", "run0 28", "run0 29"]

    def test_an_unknown_run_is_one_line(self, sweep: TypedSweep) -> None:
        result = sweep.type("logs", "--run", "nothing-like-it")
        assert (result.status, result.out) == (2, "")
        assert result.err == "error: no run of mine is named like 'nothing-like-it'; `loopsweep status` lists them\n"

    def test_what_a_job_printed_is_shown_below_what_its_run_printed(self, sweep: TypedSweep, slurm: FakeSlurm) -> None:
        submission = slurm.submit(sweep)
        (submission.path / "jobs" / "12_1_0_log.out").write_text("first\nsecond\n")
        result = sweep.type("logs", "--run", sweep.configs[1].run_id, "--lines", "1")
        assert headings(result.out) == [sweep.configs[1].run_id, "12_1_0_log.out"]
        lines = [line for line in result.out.splitlines() if not line.startswith("==> ")]
        assert lines == ["run1 29", "second"]


class TestWatch:
    @pytest.fixture
    def waits(self, monkeypatch: pytest.MonkeyPatch) -> list[float]:
        """Seconds that `watch` waited; none of them pass."""
        waits: list[float] = []
        monkeypatch.setattr("sweeper.cli.status_table.time.sleep", waits.append)
        return waits

    def test_a_sweep_that_has_ended_is_shown_once(self, sweep: TypedSweep, waits: list[float]) -> None:
        for rundir in sweep.rundirs[:3]:
            rundir.write_result(RESULT)
        sweep.rundirs[3].write_failure("it broke", attempts=2)
        result = sweep.type("watch")
        assert (result.status, result.err, waits) == (0, "", [])
        assert result.out.splitlines()[-1].strip() == "3 done · 1 failed"
        assert result.out.rstrip() == sweep.type("status").out.rstrip()

    def test_it_goes_on_until_nothing_moves(
        self, sweep: TypedSweep, waits: list[float], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A run ends between one look and the next."""

        def finish_one(seconds: float) -> None:
            waits.append(seconds)
            unfinished.pop().write_result(RESULT)

        unfinished = sweep.rundirs
        monkeypatch.setattr("sweeper.cli.status_table.time.sleep", finish_one)
        result = sweep.type("watch", "--seconds", "7")
        assert waits == [7.0] * 4
        assert result.out.splitlines()[-1].strip() == "4 done"

    def test_into_a_pipe_it_prints_what_changes_and_the_whole_table_at_the_end(
        self, sweep: TypedSweep, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """At every second look a run has ended. What was printed can be read before the next look."""
        looks = 0
        seen: list[str] = []

        def finish_one_in_two(_: float) -> None:
            nonlocal looks
            looks += 1
            seen.append(sweep.capture.readouterr().out)
            if looks % 2 == 0:
                unfinished.pop().write_result(RESULT)

        unfinished = sweep.rundirs
        monkeypatch.setattr("sweeper.cli.status_table.time.sleep", finish_one_in_two)
        last = sweep.type("watch").out
        counts = [line.partition("  ")[2] for line in "".join(seen).splitlines()]
        assert counts == ["4 pending", "3 pending · 1 done", "2 pending · 2 done", "1 pending · 3 done"]
        assert last == sweep.type("status").out

    def test_slurm_is_asked_rarely_and_run_directories_at_every_look(
        self, sweep: TypedSweep, slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = 0.0

        def finish_one(seconds: float) -> None:
            nonlocal now
            now += seconds
            unfinished.pop().write_result(RESULT)

        slurm.queue(slurm.submit(sweep), *4 * ["PENDING"])
        unfinished = sweep.rundirs
        clock = SimpleNamespace(monotonic=lambda: now, sleep=finish_one, strftime=lambda _: "")
        monkeypatch.setattr("sweeper.cli.status_table.time", clock)
        monkeypatch.setattr("sweeper.execution.slurm.status.time", clock)
        out = sweep.type("watch", "--seconds", "10").out
        assert out.splitlines()[0].strip() == "4 pending"
        assert out.splitlines()[-1] == "4 done"
        assert len(slurm.calls("squeue")) == 2  # at 0 and 30 seconds

    def test_a_controller_that_stops_to_answer_does_not_end_it(
        self, sweep: TypedSweep, slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(_: float) -> None:
            slurm.answer("squeue", "Unable to contact slurm controller", status=1)
            unfinished.pop().write_result(RESULT)

        slurm.queue(slurm.submit(sweep), *4 * ["PENDING"])
        unfinished = sweep.rundirs
        monkeypatch.setattr("sweeper.cli.status_table.time.sleep", fail)
        monkeypatch.setattr("sweeper.execution.slurm.status.QUEUE_SECONDS", 0.0)
        result = sweep.type("watch")
        assert (result.status, result.err) == (0, "")
        assert "3 pending · 1 done · Unable to contact slurm controller; try again later" in result.out

    def test_ctrl_c_ends_it_without_a_traceback(self, sweep: TypedSweep, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupt(_: float) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr("sweeper.cli.status_table.time.sleep", interrupt)
        result = sweep.type("watch")
        assert (result.status, result.err) == (130, "")


class TestRetryHere:
    def test_a_failed_run_resumes_and_ends_as_one_left_alone(
        self, sweep: TypedSweep, data_root: Path, runs: Any, reference_runs: Any
    ) -> None:
        for rundir in sweep.rundirs[1:]:
            rundir.write_result(RESULT)
        failed = sweep.rundirs[0]

        class StopsAfterSix(StopFlag):
            asked = 0

            def is_set(self) -> bool:
                self.asked += 1
                return self.asked > 6

        assert runs.root / failed.path.name == failed.path
        runs.train(sweep.configs[0], sweep.execution, StopsAfterSix())
        half = failed.metrics.read_bytes()
        failed.write_failure("worker died with signal SIGKILL", attempts=2)
        result = sweep.type("retry", "--data", str(data_root))
        assert result.status == 0, result.err
        assert "mine: 1 done, 0 diverged, 0 failed, 0 left" in result.out
        reference, _ = reference_runs.train(sweep.configs[0], sweep.execution)
        assert failed.metrics.read_bytes() == reference.metrics.read_bytes()
        assert failed.metrics.read_bytes().startswith(half), "it began anew"
        assert failed.failure() is None

    def test_a_run_that_fails_again_is_named_and_the_status_is_3(self, sweep: TypedSweep, tmp_path: Path) -> None:
        for rundir in sweep.rundirs[1:]:
            rundir.write_result(RESULT)
        failed = sweep.rundirs[0]
        failed.write_failure("it broke", attempts=2)
        result = sweep.type("retry", "--data", str(tmp_path / "nowhere"))
        assert result.status == 3
        assert result.err.startswith("error: 1 of 1 runs failed; ")
        assert result.err.count("\n") == 1
        assert f"{failed.path.name} failed: data {sweep.configs[0].data} not found below" in result.out

    def test_pending_running_and_finished_runs_are_left_alone(self, sweep: TypedSweep) -> None:
        done, running, *_ = sweep.rundirs
        done.write_result(RESULT)
        with RunLock(running.lock, StopFlag()):
            result = sweep.type("retry")
        assert (result.status, result.err) == (0, "")
        assert result.out == "nothing to retry: no run of mine is failed, lost, timeout, held\n"


def test_a_sweep_that_never_went_to_slurm_has_nothing_to_cancel(sweep: TypedSweep) -> None:
    result = sweep.type("cancel")
    assert (result.status, result.out) == (2, "")
    assert result.err == "error: mine has no SLURM jobs; a local sweep stops with Ctrl-C where it runs\n"


class TestCancelOnSlurm:
    def test_jobs_that_wait_or_run_are_cancelled_in_one_call(self, sweep: TypedSweep, slurm: FakeSlurm) -> None:
        slurm.queue(slurm.submit(sweep), "COMPLETED", "RUNNING", "PENDING", "FAILED")
        result = sweep.type("cancel")
        assert slurm.calls("scancel") == [["12_1", "12_2"]]
        assert (result.status, result.err) == (0, "")
        assert result.out == "cancelled 2 jobs of mine; results and checkpoints stay\n"

    def test_both_jobs_of_a_run_are_cancelled(self, sweep: TypedSweep, slurm: FakeSlurm) -> None:
        slurm.queue(slurm.submit(sweep), "RUNNING")
        first = (slurm.bin / "squeue").read_text()
        slurm.queue(slurm.submit(sweep), "PENDING")
        second = (
            (slurm.bin / "squeue").read_text().replace("12_0", "13_0").replace("#!/bin/sh", "").replace("exit 0", "")
        )
        (slurm.bin / "squeue").write_text(first.replace("exit 0", "") + second)
        assert sweep.type("cancel").out == "cancelled 2 jobs of mine; results and checkpoints stay\n"
        assert slurm.calls("scancel") == [["12_0", "13_0"]]

    def test_without_such_jobs_nothing_is_called(self, sweep: TypedSweep, slurm: FakeSlurm) -> None:
        slurm.queue(slurm.submit(sweep), "COMPLETED", "FAILED")
        result = sweep.type("cancel")
        assert slurm.calls("scancel") == []
        assert (result.status, result.out) == (0, "no job of mine waits or runs\n")

    def test_a_refusal_is_one_line(self, sweep: TypedSweep, slurm: FakeSlurm) -> None:
        slurm.queue(slurm.submit(sweep), "RUNNING")
        slurm.answer("scancel", "scancel: error: Access/permission denied", status=1)
        result = sweep.type("cancel")
        assert (result.status, result.err) == (
            2,
            "error: scancel failed: scancel: error: Access/permission denied\n",
        )

    def test_a_controller_that_does_not_answer_is_one_line(self, sweep: TypedSweep, slurm: FakeSlurm) -> None:
        slurm.submit(sweep)
        slurm.answer("squeue", "slurm_load_jobs error: Unable to contact slurm controller", status=1)
        result = sweep.type("cancel")
        assert result.status == 2
        assert result.err.startswith(
            "error: slurm_load_jobs error: Unable to contact slurm controller; try again later"
        )
        assert result.err.count("\n") == 1
        assert slurm.calls("scancel") == []


class TestHeld:
    """A job that SLURM holds after a failed launch waits for ever unless somebody releases it."""

    @pytest.fixture(autouse=True)
    def _queue(self, sweep: TypedSweep, slurm: FakeSlurm) -> None:
        name = slurm.submit(sweep).arrays[0].name
        jobs = [
            f"12_{i}|{name}|PENDING|{reason}" for i, reason in enumerate(("launch failed requeued held", "JobHeldUser"))
        ]
        slurm.answer("squeue", "\n".join([*jobs, f"12_2|{name}|FAILED|None", f"12_3|{name}|COMPLETING|None"]))

    def test_status_names_the_reason_and_what_to_type(self, sweep: TypedSweep) -> None:
        out = sweep.type("status").out
        assert "launch failed requeued held; `loopsweep retry` releases it" in out
        assert out.splitlines()[-1] == "2 held · 1 running · 1 failed"

    def test_watch_does_not_wait_for_it(self, sweep: TypedSweep, slurm: FakeSlurm) -> None:
        for rundir in sweep.rundirs[2:]:
            rundir.write_result(RESULT)
        assert "2 held · 2 done" in sweep.type("watch").out

    def test_retry_releases_it_and_submits_what_has_failed(self, sweep: TypedSweep, slurm: FakeSlurm) -> None:
        out = sweep.type("retry").out
        assert "submitted 1 runs as 13" in out
        assert out.endswith("released 2 held jobs of mine\n")
        assert ["release", "12_0", "12_1"] in slurm.calls("scontrol")

    def test_a_job_that_only_an_administrator_may_release_is_one_line(
        self, sweep: TypedSweep, slurm: FakeSlurm
    ) -> None:
        sweep.rundirs[2].write_result(RESULT)
        slurm.answer("scontrol", "Access/permission denied for job 12\nfor job 13", status=1)
        result = sweep.type("retry")
        assert (result.status, result.out) == (2, "")
        assert result.err == (
            "error: jobs 12_0 12_1 are not released: Access/permission denied for job 12 for job 13; "
            "ask the administrators of the cluster\n"
        )


class TestRefused:
    """sbatch refuses a submission of four runs, in arrays of at most two."""

    LIMIT = "sbatch: error: AssocMaxSubmitJobLimit"

    @pytest.fixture
    def submission(self, sweep: TypedSweep, slurm: FakeSlurm) -> Submission:
        run_ids = [config.run_id for config in sweep.configs]
        return new_submission(slurm.sweeps, "mine", run_ids, slurm.options(), 2)

    def submit(self, submission: Submission, sweep: TypedSweep) -> str:
        with pytest.raises(UserError) as refused:
            submit(submission, sweep.root, sweep.root / "runs", sweep.root / "data")
        return str(refused.value)

    def test_runs_of_which_nothing_was_queued_are_pending_and_not_lost(
        self, submission: Submission, sweep: TypedSweep, slurm: FakeSlurm
    ) -> None:
        slurm.answer("sbatch", self.LIMIT, status=1)
        assert self.submit(submission, sweep).startswith("sbatch refused: AssocMaxSubmitJobLimit; this site allows")
        assert sweep.type("status").out.splitlines()[-1] == "4 pending"

    def test_what_was_queued_before_is_named(self, submission: Submission, sweep: TypedSweep, slurm: FakeSlurm) -> None:
        done = slurm.bin / "once"
        (slurm.bin / "sbatch").write_text(
            f"#!/bin/sh\n[ -e {done} ] && {{ echo '{self.LIMIT}' >&2; exit 1; }}\n: > {done}\n"
            "echo Submitted batch job 13\n"
        )
        assert self.submit(submission, sweep).endswith(
            ". 13 (2 jobs) were queued before and stay; the same command submits the others"
        )
        first = submission.arrays[0].name
        slurm.answer("squeue", f"13_0|{first}|RUNNING|None\n13_1|{first}|PENDING|Priority")
        assert sweep.type("status").out.splitlines()[-1] == "3 pending · 1 running"

    def test_retry_does_not_use_options_that_were_refused(self, sweep: TypedSweep, slurm: FakeSlurm) -> None:
        slurm.queue(slurm.submit(sweep, mem="2G"), *4 * ["FAILED"])
        slurm.answer("sbatch", "sbatch: error: invalid partition specified: none", status=1)
        assert sweep.type("retry", "--set", "partition=none").status == 2
        slurm.answer("sbatch", "Submitted batch job 13")
        assert "submitted 4 runs" in sweep.type("retry").out
        [script] = (path.read_text() for path in slurm.sweeps.glob("mine/slurm/*/jobs/13_submission.sh"))
        assert "--mem=2G" in script
        assert "partition" not in script
        assert "wckey" not in script


class TestRetryOnSlurm:
    def test_failed_and_lost_runs_go_into_one_array_with_the_options_of_before_and_the_changed_ones(
        self, sweep: TypedSweep, slurm: FakeSlurm
    ) -> None:
        """The first has failed, the second's job is gone, the third waits and the last runs."""
        slurm.queue(slurm.submit(sweep, partition="long"), "FAILED", "CANCELLED", "PENDING", "RUNNING")
        failed = sweep.rundirs[0]
        failed.write_failure("failed 3 times from step 0: it broke", attempts=3)
        result = sweep.type("retry", "--set", "mem=128G", "time=02:30:00")
        assert (result.status, result.err) == (0, "")
        assert "submitted 2 runs as 13 (2 jobs)" in result.out
        assert len(slurm.calls("sbatch")) == 1
        [script] = (path.read_text() for path in slurm.sweeps.glob("mine/slurm/*/jobs/13_submission.sh"))
        for line in ("--array=0-1%2", "--mem=128G", "--time=150", "--partition=long"):
            assert f"#SBATCH {line}\n" in script, line
        assert failed.failure() is None
        newest = max((slurm.sweeps / "mine" / "slurm").glob("*/submission.json"), key=lambda path: path.stat().st_mtime)
        text = newest.read_text()
        assert [config.run_id in text for config in sweep.configs] == [True, True, False, False]

    def test_a_job_does_not_inherit_the_array_in_which_it_was_submitted(
        self, sweep: TypedSweep, slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        slurm.queue(slurm.submit(sweep), *4 * ["FAILED"])
        monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "5")
        (slurm.bin / "sbatch").write_text('#!/bin/sh\necho "Submitted batch job 1${SLURM_ARRAY_JOB_ID:-3}"\n')
        assert "submitted 4 runs as 13 (4 jobs)" in sweep.type("retry").out

    def test_an_option_that_is_not_allowed_is_one_line_and_nothing_is_submitted(
        self, sweep: TypedSweep, slurm: FakeSlurm
    ) -> None:
        slurm.queue(slurm.submit(sweep), "FAILED", "FAILED", "FAILED", "FAILED")
        for words, named in ((("memory=1G",), "hydra.launcher.memory: "), (("mem",), "--set mem: give key=")):
            result = sweep.type("retry", "--set", *words)
            assert result.status == 2
            assert result.err.startswith(f"error: {named}")
            assert result.err.count("\n") == 1
        assert slurm.calls("sbatch") == []

    def test_what_sbatch_refuses_is_one_line(self, sweep: TypedSweep, slurm: FakeSlurm) -> None:
        slurm.queue(slurm.submit(sweep), "FAILED", "COMPLETED", "COMPLETED", "COMPLETED")
        slurm.answer("sbatch", "sbatch: error: invalid partition specified: long", status=1)
        result = sweep.type("retry")
        assert result.status == 2
        assert result.err.startswith("error: sbatch refused: ")
        assert "invalid partition" in result.err
        assert result.err.count("\n") == 1


@pytest.mark.parametrize("command", ["remove", "retry"])
def test_a_sweep_that_belongs_to_another_user_is_one_line(
    command: str, sweep: TypedSweep, slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    slurm.queue(slurm.submit(sweep), *4 * ["FAILED"])

    def refuse(guard: Guard) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(sweep.root / "sweeps" / "a.guard"))

    monkeypatch.setattr(Guard, "__enter__", refuse)
    result = sweep.type(command, *(["seed=1", "--yes"] if command == "remove" else []))
    owner = Path(sweep.root).owner()
    assert result.status == 2
    assert result.err.startswith(f"error: no permission for {sweep.root}/sweeps/a.guard, which belongs to {owner}; ")
    assert result.err.count("\n") == 1
