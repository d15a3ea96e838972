"""Files are replaced completely or not at all."""

import errno
import json
import os
import threading
from pathlib import Path

import pytest

from sweeper import files
from sweeper.errors import UserError
from sweeper.files import read_json, replacing, write_json, write_text


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"a": [1, 2.5, None]})
    assert read_json(tmp_path / "x.json") == {"a": [1, 2.5, None]}
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_an_error_while_writing_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    write_text(path, "old")

    def fail_halfway() -> None:
        with replacing(path) as file:
            file.write(b"half of the n")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_halfway()
    assert path.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["x.txt"]


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, [0] * 50_000)

    def rewrite() -> None:
        for value in range(1, 30):
            write_json(path, [value] * 50_000)

    writer = threading.Thread(target=rewrite)
    writer.start()
    reads = 0
    while writer.is_alive():
        seen = json.loads(path.read_text())
        assert len(seen) == 50_000
        assert len(set(seen)) == 1
        reads += 1
    writer.join()
    assert reads > 0


def test_content_is_on_the_disk_before_it_takes_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, synced = tmp_path / "x.txt", []

    def fsync(fd: int) -> None:
        synced.append((os.fstat(fd).st_size, path.exists()))

    monkeypatch.setattr(files.os, "fsync", fsync)
    write_text(path, "12345")
    assert synced == [(5, False)]


def test_a_full_disk_is_an_error_with_a_way_out_and_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.txt"
    write_text(path, "old")

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(UserError, match=r"no space left for .*x\.txt: free some, or move it with paths\.runs=DIR"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["x.txt"]


def test_other_errors_of_the_disk_are_not_taken_for_a_full_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_text(tmp_path / "no" / "x.txt", "")


def test_a_missing_file_is_none_and_a_broken_one_an_error_that_names_it(tmp_path: Path) -> None:
    assert read_json(tmp_path / "x.json") is None
    (tmp_path / "x.json").write_text('{"a": ')
    with pytest.raises(UserError, match=r"x\.json is not JSON .*; remove this one file"):
        read_json(tmp_path / "x.json")
