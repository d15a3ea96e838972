"""A corpus of one or a few documents is split by passages, and no other corpus is."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeper.data import passages, prepare_data, text_files
from sweeper.data.text_files import split_of

from .corpus import local_spec, quiet, texts, write_txt


@given(st.text(alphabet="ab \n\r\u2028", max_size=20_000))
def test_passages_together_are_the_text_and_neither_tiny_nor_huge(text: str) -> None:
    found = list(passages.cut(text))
    assert "".join(found) == text
    assert all(passages.LEAST <= len(one) < passages.LEAST + passages.MOST for one in found[:-1])


@pytest.mark.parametrize("fraction", [0.001, 0.01, 0.3])
def test_one_file_is_enough_whatever_the_fraction(tmp_path: Path, fraction: float) -> None:
    (tmp_path / "input.txt").write_text("\n".join(texts(400)))
    manifest = prepare_data(local_spec(tmp_path / "input.txt", val_fraction=fraction), tmp_path / "data", quiet)
    share = manifest.text_bytes["val"] / (manifest.text_bytes["val"] + manifest.text_bytes["train"])
    assert abs(share - max(fraction, passages.SHARE)) < 0.08  # some hundred passages
    assert manifest.source["split"] == passages.NAME


def test_three_files_without_a_held_out_one_are_split_and_a_passage_keeps_its_split(tmp_path: Path) -> None:
    bodies = ["".join(texts(100, seed)) for seed in range(3)]
    fraction = 0.01
    assert {split_of(body, fraction) for body in bodies} == {"train"}

    def splits(directory: Path) -> dict[str, str]:
        units = text_files.units(text_files.files(str(directory)), "text", fraction)
        found = text_files.with_both_splits(units)
        return {text: split for unit in found for split, text in unit.documents()}

    before = splits(write_txt(tmp_path / "three", bodies))
    assert set(before.values()) == {"train", "val"}
    after = splits(write_txt(tmp_path / "longer", [*bodies[:2], bodies[2] + "".join(texts(50, 9))]))
    kept = before.keys() & after.keys()
    assert len(kept) >= len(before) - 1  # the last passage grew
    assert all(before[text] == after[text] for text in kept)


def test_a_corpus_with_both_splits_stays_as_it_was(tmp_path: Path) -> None:
    directory = write_txt(tmp_path / "many", texts(60))
    units = text_files.units(text_files.files(str(directory)), "text", 0.2)
    assert text_files.with_both_splits(units) is units
    assert "split" not in prepare_data(local_spec(directory), tmp_path / "data", quiet).source


def test_a_file_and_a_directory_with_only_that_file_are_the_same_data(tmp_path: Path) -> None:
    directory = write_txt(tmp_path / "one", ["".join(texts(200))])
    one, other = (
        prepare_data(local_spec(path), tmp_path / "data", quiet) for path in (directory / "0000.txt", directory)
    )
    assert one.hash == other.hash
