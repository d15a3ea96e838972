"""A run's directory: frozen once, read back verified, and its metrics never half a line."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from sweeper.errors import UserError
from sweeper.records.run_dir import RunDir

ROWS = [{"step": step, "loss": 5.0 - step} for step in range(1, 5)]


def with_metrics(path: Path, tail: str = "") -> RunDir:
    path.mkdir(parents=True, exist_ok=True)
    rundir = RunDir(path)
    rundir.metrics.write_text("".join(json.dumps(row) + "\n" for row in ROWS) + tail)
    return rundir


def test_what_is_frozen_is_loaded(runs, literal_run, execution) -> None:
    assert runs.write_config(literal_run).load() == (literal_run, execution)


def test_an_unfinished_run_submitted_again_takes_the_new_execution(runs, literal_run, execution) -> None:
    runs.write_config(literal_run)
    again = replace(execution, threads=7, micro_batch=1)
    assert runs.write_config(literal_run, again).load() == (literal_run, again)


def test_a_finished_run_keeps_the_configuration_it_ran_with(runs, literal_run, execution) -> None:
    rundir = runs.write_config(literal_run)
    rundir.write_result({"state": "done"})
    runs.write_config(literal_run, replace(execution, threads=7))
    assert rundir.load() == (literal_run, execution)


def test_a_configuration_edited_after_submission_is_refused(runs, literal_run) -> None:
    rundir = runs.write_config(literal_run)
    config = rundir.path / "config.yaml"
    config.write_text(config.read_text().replace("seed: 0", "seed: 1"))
    with pytest.raises(UserError, match=rf"config\.yaml describes run .*; it was edited .*{literal_run.run_id}"):
        rundir.load()


@pytest.mark.parametrize(
    "content", ["", "run: {", "[]", "run: {}\nexecution: {}", "run: !!python/object/apply:os.getcwd []"]
)
def test_a_broken_configuration_is_an_error_that_names_the_file(runs, literal_run, content) -> None:
    rundir = runs.write_config(literal_run)
    (rundir.path / "config.yaml").write_text(content)
    with pytest.raises(UserError, match=r"config\.yaml|schema"):
        rundir.load()


def test_a_missing_configuration_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"config\.yaml cannot be read .* submit the sweep again"):
        RunDir(tmp_path).load()


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_torn_last_line_of_metrics_is_none(tmp_path: Path, cut: int) -> None:
    torn = json.dumps({"step": 5, "loss": 1.25})[:cut]
    assert with_metrics(tmp_path, torn).read_metrics() == ROWS


def test_truncation_drops_what_was_logged_after_the_step_and_what_was_torn(tmp_path: Path) -> None:
    rundir = with_metrics(tmp_path, '{"step": 5, "lo')
    rundir.truncate_metrics(3)
    assert rundir.read_metrics() == ROWS[:3]
    assert rundir.metrics.read_text().endswith("}\n")
    rundir.truncate_metrics(0)
    assert rundir.metrics.read_text() == ""


def test_truncation_keeps_the_bytes_of_what_it_keeps(tmp_path: Path) -> None:
    rundir = with_metrics(tmp_path)
    before = rundir.metrics.read_bytes()
    rundir.truncate_metrics(4)
    assert rundir.metrics.read_bytes() == before


def test_a_run_without_records_has_none(tmp_path: Path) -> None:
    rundir = RunDir(tmp_path / "none")
    assert (rundir.read_metrics(), rundir.result(), rundir.failure(), rundir.log_tail(3)) == ([], None, None, [])


def test_a_result_ends_an_earlier_failure(tmp_path: Path) -> None:
    rundir = RunDir(tmp_path)
    rundir.log.write_text("one\ntwo\nthree\n")
    rundir.write_failure("it broke", attempts=2)
    assert rundir.failure() == {"reason": "it broke", "attempts": 2, "log": ["one", "two", "three"]}
    assert rundir.log_tail(2) == ["two", "three"]
    rundir.write_result({"state": "done"})
    assert rundir.failure() is None
    assert rundir.result() == {"state": "done"}
