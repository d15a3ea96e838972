"""Work spread over processes, killed anywhere and started again, ends in the files of an undisturbed preparation."""

import random
import signal
import subprocess
import sys
from multiprocessing import active_children
from pathlib import Path

import pytest

from sweeper.data import Manifest, Progress, find_data, prepare_data, task_pool, text_files
from sweeper.errors import UserError

from .corpus import local_spec, quiet, texts, write_txt

# A preparation of about twenty tasks, in a process that kills itself after a given number of finished files.
KILLED = """
import os, signal, sys
from pathlib import Path
from sweeper.data import DataSpec, TokenizerSpec, text_files, prepare_data
text_files.UNIT_BYTES = 2000
left, replace = int(sys.argv[1]), Path.replace
def counting(path, target):
    global left
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    return replace(path, target)
Path.replace = counting
prepare_data({spec}, Path({root!r}), print, workers=1)
"""
# The same with two processes. It kills itself after the first task.
ORPHANED = """
import os, signal
from pathlib import Path
from sweeper.data import DataSpec, TokenizerSpec, task_pool, text_files, prepare_data
text_files.UNIT_BYTES, task_pool.WORTH_A_PROCESS = 2000, 1
def watch(progress):
    if progress.done:
        os.kill(os.getpid(), signal.SIGKILL)
prepare_data({spec}, Path({root!r}), print, watch, workers=2)
"""


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Sixty .txt files."""
    return write_txt(tmp_path / "texts", texts(60))


@pytest.fixture
def undisturbed(corpus: Path, tmp_path: Path) -> tuple[Manifest, dict[str, bytes]]:
    """Prepared in one go, in one unit."""
    manifest = prepare_data(local_spec(corpus), tmp_path / "undisturbed", quiet)
    return manifest, files(tmp_path / "undisturbed", manifest)


def files(root: Path, manifest: Manifest) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (root / manifest.directory).iterdir()}


def run(script: str, corpus: Path, root: Path, *arguments: str) -> int:
    """Exit status. Returns when every process that inherited the output has ended."""
    code = script.format(spec=repr(local_spec(corpus)), root=str(root))
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, timeout=60)
    return done.returncode


def test_kill_9_at_any_moment_changes_nothing_in_the_end(
    corpus: Path, tmp_path: Path, undisturbed: tuple[Manifest, dict[str, bytes]]
) -> None:
    root, draw = tmp_path / "data", random.Random(0)
    for _ in range(4):
        assert run(KILLED, corpus, root, str(draw.randint(2, 15))) == -signal.SIGKILL
        assert find_data(local_spec(corpus), root) is None
    manifest = prepare_data(local_spec(corpus), root, quiet)
    assert (manifest, files(root, manifest)) == undisturbed
    assert [path.name for path in root.iterdir() if path.is_dir()] == [manifest.directory]


def test_kill_9_of_the_command_ends_its_processes_and_loses_nothing_finished(
    corpus: Path, tmp_path: Path, undisturbed: tuple[Manifest, dict[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "data"
    assert run(ORPHANED, corpus, root) == -signal.SIGKILL
    monkeypatch.setattr(text_files, "UNIT_BYTES", 2000)
    seen: list[Progress] = []
    manifest = prepare_data(local_spec(corpus), root, quiet, seen.append)
    assert seen[0].before > 0
    assert (manifest, files(root, manifest)) == undisturbed


def test_a_killed_process_is_an_error_and_the_others_work_is_kept(
    corpus: Path, tmp_path: Path, undisturbed: tuple[Manifest, dict[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_files, "UNIT_BYTES", 2000)
    monkeypatch.setattr(task_pool, "WORTH_A_PROCESS", 1)

    def kill_one(progress: Progress) -> None:
        if progress.done:
            for child in active_children()[:1]:  # none where the first kill has been noticed
                child.kill()

    with pytest.raises(UserError, match=r"a process that prepares data was killed.*the same command resumes"):
        prepare_data(local_spec(corpus), tmp_path / "data", quiet, kill_one, workers=2)
    manifest = prepare_data(local_spec(corpus), tmp_path / "data", quiet, workers=2)
    assert (manifest, files(tmp_path / "data", manifest)) == undisturbed


def test_an_error_in_a_process_is_the_commands_error(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_files, "UNIT_BYTES", 2000)
    monkeypatch.setattr(task_pool, "WORTH_A_PROCESS", 1)
    (corpus / "0050.txt").write_bytes(b"\xff")
    (corpus / "rows.jsonl").write_text('{"text": null}\n')
    monkeypatch.setattr("sweeper.data.prepare._BPE_TRAINING_BYTES", 8000)  # ends before the bad file
    with pytest.raises(UserError, match=r"0050\.txt: not UTF-8 at byte 0|rows\.jsonl, line 1"):
        prepare_data(local_spec(corpus), tmp_path / "data", quiet, workers=2)


def test_correcting_one_file_costs_its_own_unit_alone(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_files, "UNIT_BYTES", 2000)
    monkeypatch.setattr("sweeper.data.prepare._BPE_TRAINING_BYTES", 8000)
    (corpus / "0059.txt").write_bytes(b"\xff")
    with pytest.raises(UserError, match="not UTF-8"):
        prepare_data(local_spec(corpus), tmp_path / "data", quiet, workers=1)
    (corpus / "0059.txt").write_bytes(texts(60)[59].encode())
    seen: list[Progress] = []
    prepare_data(local_spec(corpus), tmp_path / "data", quiet, seen.append)
    assert seen[0].total - seen[0].before <= 2000


def test_progress_adds_up(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_files, "UNIT_BYTES", 2000)
    seen: list[Progress] = []
    manifest = prepare_data(local_spec(corpus), tmp_path / "data", quiet, seen.append)
    for stage in ("tokenizing", "writing shards"):
        reports = [progress for progress in seen if progress.stage == stage]
        assert (reports[0].done, reports[-1].done) == (0, reports[-1].total)
        assert [progress.done for progress in reports] == sorted(progress.done for progress in reports)
        assert reports[-1].tokens == sum(manifest.tokens(split) for split in manifest.splits)
