"""A run's directory: frozen once, read back verified, and its metrics never half a line."""

import json
import re
from dataclasses import replace
from functools import reduce
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml

from sweeper.errors import UserError
from sweeper.records.run_dir import RunDir
from sweeper.run.base import Run
from sweeper.run.identity import run_id

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


KEEPS = "submit the sweep again, which writes it anew and keeps the run's checkpoint"
WAY_OUT = "use that version, or another directory with paths.runs=DIR"


def refusal(rundir: RunDir) -> str:
    """Why the configuration is not loaded: one line that names the file and advises no deletion."""
    with pytest.raises(UserError) as refused:
        rundir.load()
    message = str(refused.value)
    assert message.startswith(str(rundir.config))
    assert "\n" not in message
    assert "delete" not in message
    assert "remove" not in message
    return message.removeprefix(str(rundir.config))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("seed: 0", "seed: 1"),
        ("lr: 0.008", "lr: 0.009"),
        ("seed: 0", "seed: 2026-01-01"),
        ("seed: 0", "luck: 0"),
    ],
    ids=["a value", "a value in a table", "a value that no run has", "a field"],
)
def test_only_a_configuration_that_was_edited_is_called_edited(runs, literal_run, before, after) -> None:
    rundir = runs.write_config(literal_run)
    text = rundir.config.read_text()
    assert before in text
    rundir.config.write_text(text.replace(before, after, 1))
    assert refusal(rundir) == f" was edited after submission; {KEEPS}"


def test_what_is_not_hashed_may_be_edited(runs, literal_run, execution) -> None:
    rundir = runs.write_config(literal_run)
    rundir.config.write_text(rundir.config.read_text().replace("threads: 1", "threads: 3").replace("preset: test", ""))
    assert rundir.load() == (literal_run, replace(execution, threads=3))


def test_submitting_again_repairs_what_was_edited_and_keeps_the_checkpoint(runs, literal_run, execution) -> None:
    rundir = runs.write_config(literal_run)
    rundir.checkpoints.mkdir()
    (rundir.checkpoints / "step-00000004.pt").write_bytes(b"weights")
    rundir.config.write_text(rundir.config.read_text().replace("seed: 0", "seed: 1"))
    refusal(rundir)
    assert runs.write_config(literal_run).load() == (literal_run, execution)
    assert [(path.name, path.read_bytes()) for path in rundir.checkpoints.iterdir()] == [
        ("step-00000004.pt", b"weights")
    ]


def of_another_version(runs: Any, run: Run, changes: dict[str, Any], **written_by: str) -> RunDir:
    """The directory of a run as a version writes it whose records have other fields; None takes a field away."""
    config = yaml.safe_load(runs.write_config(run).config.read_text())
    for key, value in changes.items():
        *sections, name = key.split(".")
        section = reduce(dict.__getitem__, sections, config["run"])
        section[name] = value
        if value is None:
            del section[name]
    config["written_by"] = written_by
    rundir = RunDir(runs.root / "other" / run_id(run.head, config["run"]))
    rundir.path.mkdir(parents=True)
    rundir.config.write_text(yaml.safe_dump(config))
    return rundir


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"mood": 3}, "RunConfig has no field 'mood' here"),
        ({"model.n_heads_kv": 1}, "ModelConfig has no field 'n_heads_kv' here"),
        ({"seed": None}, "RunConfig needs a field 'seed'"),
        ({"schema": 1, "kind": None}, "it has schema 1, this version reads 2"),
        ({"schema": 3}, "it has schema 3, this version reads 2"),
        ({"kind": "dream"}, "it has kind 'dream', this version knows training, probe, theory"),
        ({"precision": "fp4"}, "precision=fp4 is unknown; allowed: fp32, bf16"),
        ({"model.block": "dream"}, "block=dream is unknown; allowed: pre_norm"),
        ({"table": []}, "list index|tuple index"),
        ({"model": 7}, "not iterable"),
        ({"schedule.warmup": 100}, "schedule.warmup=100"),
    ],
    ids=[
        "field",
        "nested",
        "missing",
        "older",
        "newer",
        "kind",
        "value",
        "choice",
        "empty table",
        "no section",
        "refused value",
    ],
)
def test_a_configuration_of_another_version_is_called_that_and_not_edited(runs, literal_run, changes, reason) -> None:
    said = refusal(of_another_version(runs, literal_run, changes, loopsweep="9.9.0", commit="c0ffee"))
    schema = changes.get("schema", 2)
    begin = f" was written by another version of loopsweep (version 9.9.0, commit c0ffee, schema {schema}): "
    assert said.startswith(begin)
    assert said.endswith(f"; {WAY_OUT}")
    assert re.search(reason, said.removeprefix(begin))


def test_a_configuration_whose_id_this_version_computes_otherwise_is_another_versions(runs, literal_run) -> None:
    """It lacks a field that has a default here, and that is hashed."""
    said = refusal(of_another_version(runs, literal_run, {"model.rope_theta": None}))
    assert said == (
        " was written by another version of loopsweep (schema 2): "
        f"this version gives the run the id {literal_run.run_id}; {WAY_OUT}"
    )


def test_a_configuration_tells_the_version_that_wrote_it(runs, literal_run) -> None:
    record = yaml.safe_load(runs.write_config(literal_run).config.read_text())
    assert record["written_by"]["loopsweep"] == metadata.version("loopsweep")
    assert "written_by" not in record["run"]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "run: {",
        "[]",
        "run: {}",
        "run: 3\nexecution: {}",
        "run: !!python/object/apply:os.getcwd []",
        "\x00",
        "a: b: c",
    ],
)
def test_a_broken_configuration_is_written_anew_by_submitting_again(runs, literal_run, execution, content) -> None:
    rundir = runs.write_config(literal_run)
    rundir.config.write_text(content)
    assert re.fullmatch(rf" cannot be read \(.+\); {KEEPS}", refusal(rundir))
    assert runs.write_config(literal_run).load() == (literal_run, execution)


def test_a_configuration_cut_off_anywhere_never_loads_as_another_run(runs, literal_run) -> None:
    rundir = runs.write_config(literal_run)
    text = rundir.config.read_text()
    loaded = set()
    for cut in range(0, len(text), 7):
        rundir.config.write_text(text[:cut])
        try:
            loaded.add(rundir.load()[0])
        except UserError:
            assert refusal(rundir).endswith(KEEPS)
    assert loaded == {literal_run}  # of the cuts behind what it needs


def test_an_unknown_way_to_execute_is_written_anew_by_submitting_again(runs, literal_run) -> None:
    rundir = runs.write_config(literal_run)
    rundir.config.write_text(rundir.config.read_text().replace("  threads: 1", "  threads: 1\n  turbo: true"))
    assert refusal(rundir) == f": section execution: Execution has no field 'turbo' here; {KEEPS}"


def test_a_missing_configuration_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    assert refusal(RunDir(tmp_path)) == f" is missing; {KEEPS}"


def test_a_broken_result_costs_that_file_alone(tmp_path: Path) -> None:
    rundir = RunDir(tmp_path)
    (tmp_path / "result.json").write_text('{"state": "do')
    with pytest.raises(UserError, match=r"result\.json is not JSON .*; remove this one file and submit"):
        rundir.result()


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
