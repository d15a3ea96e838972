"""A command's options are checked before it reads or writes anything."""

import re
from pathlib import Path

import pytest

from sweeper.__main__ import main
from sweeper.cli.commands import _options
from sweeper.errors import UserError


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("watch", "--seconds", "-1"), "argument --seconds: -1 must be a number of seconds, at least 1"),
        (("watch", "--seconds", "0"), "argument --seconds: 0 must be a number of seconds, at least 1"),
        (("watch", "--seconds", "nan"), "argument --seconds: nan must be a number of seconds, at least 1"),
        (("watch", "--seconds", "soon"), "argument --seconds: soon must be a number of seconds, at least 1"),
        (("logs", "--lines", "0"), "argument --lines: 0 must be a whole number of at least 1"),
    ],
)
def test_a_wrong_option_is_named(arguments, named: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    assert end.value.code == 2
    assert named in capsys.readouterr().err


@pytest.mark.parametrize("name", ["tables", "cells.parquet"])
@pytest.mark.parametrize("source", [(), ("--wandb-dir", "nowhere")], ids=["runs", "wandb"])
def test_an_export_that_cannot_be_written_is_named_before_anything_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, source: tuple[str, ...]
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as end:
        main(["export", "--out", str(tmp_path / "file" / name), *source])
    assert end.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith(f"error: --out {tmp_path}/file/{name} cannot be used ({tmp_path}/file is not a directory)")
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    ("change", "value"),
    [
        ("time=24:00:00", {"time": "24:00:00"}),
        ("time=90", {"time": 90}),
        ("mem=128G", {"mem": "128G"}),
        ("setup=[module load cuda]", {"setup": ["module load cuda"]}),
        ("extra={exclude:node7}", {"extra": {"exclude": "node7"}}),
        ("partition=null", {"partition": None}),
    ],
)
def test_a_changed_option_is_read_as_on_hydras_command_line(change: str, value: dict[str, object]) -> None:
    assert _options([change]) == value


@pytest.mark.parametrize("change", ["time", "time=[1,"])
def test_a_change_that_cannot_be_read_is_named(change: str) -> None:
    with pytest.raises(UserError, match=re.escape(change)):
        _options([change])
