"""A command's options are checked before it reads or writes anything."""

from pathlib import Path

import pytest

from sweeper.__main__ import main


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("watch", "--seconds", "-1"), "argument --seconds: -1 must be a positive number"),
        (("watch", "--seconds", "nan"), "argument --seconds: nan must be a positive number"),
        (("watch", "--seconds", "soon"), "argument --seconds: soon must be a positive number"),
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
