"""Offline files are read as wandb writes them. Another format is an error, not an empty run."""

from pathlib import Path

import pytest

from sweeper.errors import UserError
from sweeper.run.execution import Tracking
from sweeper.tracking.offline import BLOCK, FILE_HEADER, is_ended, read_directory
from sweeper.tracking.wandb_run import Entry, WandbRun

ROWS = 400  # enough for records that cross blocks


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of the installed client."""
    root = tmp_path_factory.mktemp("written")
    wandb_run = WandbRun(
        Tracking("offline", project="p"), root, Entry("one", "b-N1", "run", config={"a": [1]}), pytest.fail
    )
    for step in range(ROWS):
        wandb_run.log(step, {"loss": 1 / (step + 3), "grad_norm": None})
    wandb_run.summarize(result={"state": "done"})
    wandb_run.close(finished=True)
    [file] = root.rglob("*.wandb")
    assert file.stat().st_size > 2 * BLOCK
    assert is_ended(file)
    return file


def copy(content: bytes, directory: Path) -> Path:
    (directory / "offline-run-1-one").mkdir()
    (directory / "offline-run-1-one" / "run-one.wandb").write_bytes(content)
    return directory


def test_the_installed_clients_file_is_read_to_the_digit(written: Path) -> None:
    """If this fails, wandb's format has changed: see sweeper/tracking/offline.py."""
    [run] = read_directory(written.parent)
    assert (run.id, run.name, run.job_type, run.config["a"]) == ("one", "b-N1", "run", [1])
    assert {step: row["loss"] for step, row in run.history().items()} == {s: 1 / (s + 3) for s in range(ROWS)}
    assert all(row["grad_norm"] != row["grad_norm"] for row in run.history().values())  # nan
    assert run.summary["result"] == {"state": "done"}


@pytest.mark.parametrize("kept", [0, 3, 7, 10, 500, BLOCK - 3, BLOCK + 5, 2 * BLOCK])
def test_a_torn_file_gives_what_is_whole(kept: int, written: Path, tmp_path: Path) -> None:
    found = read_directory(copy(written.read_bytes()[:kept], tmp_path))
    steps = [list(run.history()) for run in found]
    assert steps in ([], [list(range(len(steps[0]) if steps else 0))])
    assert bool(steps and steps[0]) == (kept >= BLOCK - 3)
    assert not is_ended(next(tmp_path.rglob("*.wandb")))


@pytest.mark.parametrize("at", [0, 4, 6, len(FILE_HEADER), len(FILE_HEADER) + 6, len(FILE_HEADER) + 20, BLOCK + 100])
def test_another_format_is_refused(at: int, written: Path, tmp_path: Path) -> None:
    content = bytearray(written.read_bytes())
    content[at] ^= 0x15
    with pytest.raises(UserError, match=r"run-one.wandb is not in the format.*installed is 0\.") as caught:
        read_directory(copy(bytes(content), tmp_path))
    assert "\n" not in str(caught.value)


def test_a_directory_without_files_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no run-\*\.wandb below"):
        read_directory(tmp_path)


def test_of_several_attempts_the_later_one_counts(tmp_path: Path) -> None:
    for attempt, losses in enumerate(([3.0, 2.0, 9.0], [3.0, 2.0, 1.0, 0.5])):
        wandb_run = WandbRun(Tracking("offline"), tmp_path, Entry("one", "b", "run"), pytest.fail)
        for step, loss in enumerate(losses):
            wandb_run.log(step, {"loss": loss})
        wandb_run.close(finished=attempt == 1)
    [run] = read_directory(tmp_path)
    assert [row["loss"] for row in run.history().values()] == [3.0, 2.0, 1.0, 0.5]
