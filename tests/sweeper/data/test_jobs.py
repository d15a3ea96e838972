"""The jobs of a cluster, run here: shares of the work, then the rest, give the same data."""

import pickle
from pathlib import Path

import pytest

from sweeper.data import find_data, prepare_data, text_files
from sweeper.data.prepare import tokenize_tasks, with_absolute_paths
from sweeper.execution.slurm.prepare_data import Rest, Share

from .corpus import local_spec, quiet, texts, write_txt


@pytest.mark.parametrize("lost", [None, 1])
def test_shares_in_any_order_and_the_rest_make_the_same_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: int | None
) -> None:
    spec = with_absolute_paths(local_spec(write_txt(tmp_path / "texts", texts(60))))
    expected = prepare_data(spec, tmp_path / "undisturbed", quiet)
    monkeypatch.setattr(text_files, "UNIT_BYTES", 2000)
    tasks = tokenize_tasks(spec, tmp_path / "data", quiet)
    shares = [Share(tuple(tasks[number::3])) for number in range(3)]
    for number in (2, 0, 1):
        if number != lost:
            pickle.loads(pickle.dumps(shares[number]))()
    assert find_data(spec, tmp_path / "data") is None
    pickle.loads(pickle.dumps(Rest(spec, tmp_path / "data")))()
    assert find_data(spec, tmp_path / "data") == expected


def test_a_warned_job_is_requeued_with_the_same_work(tmp_path: Path) -> None:
    rest = Rest(local_spec(tmp_path), tmp_path)
    assert rest.checkpoint().function == rest
