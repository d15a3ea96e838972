"""Windows are a pure function of (manifest, seed, index)."""

import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeper.data import Manifest, TokenData, open_data
from sweeper.errors import UserError


def whole(data: TokenData, split: str, root: Path) -> np.ndarray:
    """A split's tokens, read without memory maps."""
    files = [root / data.manifest.directory / shard.file for shard in data.manifest.splits[split]]
    return np.concatenate([np.fromfile(file, dtype=data.manifest.dtype) for file in files]).astype(np.int64)


@given(
    cuts=st.lists(st.integers(0, 200), max_size=8),
    seq_len=st.sampled_from([7, 16, 64]),
    seed=st.integers(0, 3),
)
def test_any_split_of_a_range_gives_the_same_rows(
    token_data: TokenData, cuts: list[int], seq_len: int, seed: int
) -> None:
    rows = token_data.sequences(0, 200, seq_len, seed)
    edges = sorted({0, 200, *cuts})
    parts = [token_data.sequences(a, b - a, seq_len, seed) for a, b in pairwise(edges)]
    np.testing.assert_array_equal(np.concatenate(parts), rows)


def test_order_of_asking_changes_nothing(token_data: TokenData) -> None:
    first = token_data.sequences(5, 20, 16, seed=1)
    token_data.sequences(10_000, 3, 16, seed=2)
    np.testing.assert_array_equal(token_data.sequences(5, 20, 16, seed=1), first)


@pytest.mark.parametrize("seq_len", [7, 16, 333])
@pytest.mark.parametrize("epoch", [0, 1, 5])
def test_every_window_is_seen_once_an_epoch(token_data: TokenData, root: Path, seq_len: int, epoch: int) -> None:
    tokens = whole(token_data, "train", root)
    n = token_data.n_windows(seq_len)
    assert n == (len(tokens) - 1) // seq_len
    rows = token_data.sequences(epoch * n, n, seq_len, seed=3)
    expected = np.stack([tokens[i * seq_len : i * seq_len + seq_len + 1] for i in range(n)])
    assert sorted(map(tuple, rows)) == sorted(map(tuple, expected))


def test_epochs_and_seeds_have_orders_of_their_own(token_data: TokenData) -> None:
    n = token_data.n_windows(16)
    orders = {token_data.sequences(first, n, 16, seed).tobytes() for first in (0, n) for seed in (0, 1)}
    assert len(orders) == 4


def test_windows_straddle_shards(token_data: TokenData, root: Path) -> None:
    """Every window of 1501 tokens crosses a border of shards of 1000, and some cross two."""
    tokens = whole(token_data, "train", root)
    n = token_data.n_windows(1500)
    rows = token_data.sequences(0, n, 1500, seed=0)
    starts = {row[:50].tobytes() for row in rows}
    assert starts == {tokens[i * 1500 : i * 1500 + 50].tobytes() for i in range(n)}
    for row in rows:
        start = next(i * 1500 for i in range(n) if np.array_equal(tokens[i * 1500 : i * 1500 + 50], row[:50]))
        np.testing.assert_array_equal(row, tokens[start : start + 1501])


def test_the_order_of_batches_is_fixed_for_good(token_data: TokenData) -> None:
    """A run resumed with a later numpy must continue the same order: these orders are part of the format."""
    assert token_data._epoch_order(seed=0, epoch=0, n_windows=8).tolist() == [0, 3, 7, 5, 1, 2, 6, 4]
    assert token_data._epoch_order(seed=7, epoch=2, n_windows=8).tolist() == [0, 3, 5, 1, 4, 2, 6, 7]


@given(seq_len=st.integers(1, 300), max_tokens=st.integers(300, 5000))
def test_validation_is_the_first_windows_in_order(
    token_data: TokenData, root: Path, seq_len: int, max_tokens: int
) -> None:
    rows = token_data.validation(seq_len, max_tokens)
    tokens = whole(token_data, "val", root)
    assert rows.dtype == np.int64
    assert len(rows) == min(max_tokens // seq_len, (len(tokens) - 1) // seq_len)
    np.testing.assert_array_equal(rows[:, :-1].ravel(), tokens[: len(rows) * seq_len])
    np.testing.assert_array_equal(rows[:, 1:].ravel(), tokens[1 : len(rows) * seq_len + 1])


def test_a_window_longer_than_the_text_is_an_error(token_data: TokenData) -> None:
    with pytest.raises(UserError, match=r"seq_len=10000000: the train split has \d+ tokens"):
        token_data.sequences(0, 1, 10_000_000, seed=0)
    with pytest.raises(UserError, match="validation over 10 tokens: must be at least one sequence of 64"):
        token_data.validation(64, 10)


@pytest.fixture
def copy(token_data: TokenData, root: Path, tmp_path: Path) -> Path:
    """A copy of the prepared data that a test may damage."""
    return Path(shutil.copytree(root, tmp_path / "copy"))


def test_data_is_found_by_its_hash_wherever_it_lies(token_data: TokenData, copy: Path) -> None:
    next(copy.glob("local-*")).rename(copy / "renamed")
    assert open_data(token_data.manifest.hash, copy).manifest.directory == "renamed"


def test_an_unknown_hash_is_an_error_that_names_what_is_there(token_data: TokenData, copy: Path) -> None:
    with pytest.raises(UserError, match=rf"data 0123 not found below .*{token_data.manifest.hash}.*prepare it again"):
        open_data("0123", copy)
    with pytest.raises(UserError, match="no prepared data"):
        open_data("0123", copy / "nowhere")


def test_a_manifest_that_does_not_match_its_hash_is_an_error(token_data: TokenData, copy: Path) -> None:
    path = next(copy.glob("local-*/manifest.json"))
    path.write_text(path.read_text().replace('"uint16"', '"uint32"'))
    with pytest.raises(UserError, match=r"but its content has .* delete the folder"):
        open_data(token_data.manifest.hash, copy)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"format": 1}', '{"format": 99}'])
def test_a_broken_manifest_is_an_error_that_names_the_file(copy: Path, content: str) -> None:
    path = next(copy.glob("local-*/manifest.json"))
    path.write_text(content)
    with pytest.raises(UserError, match=r"manifest\.json: .*delete the folder"):
        Manifest.read(path.parent)


@pytest.mark.parametrize("change", ["truncate", "remove"])
def test_a_shard_of_the_wrong_size_is_an_error_that_names_it(token_data: TokenData, copy: Path, change: str) -> None:
    shard = next(copy.glob("local-*/train-00001.bin"))
    if change == "remove":
        shard.unlink()
    else:
        shard.write_bytes(shard.read_bytes()[:-2])
    with pytest.raises(UserError, match=r"train-00001\.bin: has \d+ bytes, must have 2000; delete the folder"):
        open_data(token_data.manifest.hash, copy)
