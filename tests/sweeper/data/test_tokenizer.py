"""Custom tokenizer files."""

import base64
from pathlib import Path

import pytest

from sweeper.data import DataSpec, TokenizerSpec, find_data, open_data, prepare_data
from sweeper.data.tokenizer import build_tokenizer, llama3, train_bpe
from sweeper.errors import UserError

from .corpus import quiet, texts, write_txt

BYTES = b"\n".join(base64.b64encode(bytes([byte])) + b" %d" % byte for byte in range(256))


def spec(path: Path, tokenizer: Path, vocab_size: int) -> DataSpec:
    return DataSpec("wikipedia", str(path), "text", TokenizerSpec("bpe", vocab_size, str(tokenizer)), 1000, 0.2)


@pytest.mark.parametrize(("file", "vocab_size"), [("mine.json", 300), ("mine.model", 512)])
def test_a_custom_file_replaces_the_named_tokenizer(tmp_path: Path, file: str, vocab_size: int) -> None:
    corpus = write_txt(tmp_path / "texts", texts(40))
    content = train_bpe(300, texts(40, seed=5)).content if file == "mine.json" else BYTES
    (tmp_path / file).write_bytes(content)
    manifest = prepare_data(spec(corpus, tmp_path / file, vocab_size), tmp_path / "data", quiet)
    assert manifest.vocab_size == vocab_size
    assert find_data(spec(corpus, tmp_path / file, vocab_size), tmp_path / "data") == manifest
    assert open_data(manifest.hash, tmp_path / "data").n_windows(16) > 0
    assert "/" not in (tmp_path / "data" / manifest.directory / "manifest.json").read_text()
    (tmp_path / file).write_bytes(content.replace(b"\n", b"\n\n"))  # another file, the same tokenizer
    assert find_data(spec(corpus, tmp_path / file, vocab_size), tmp_path / "data") is None


def test_llama3_ranks_encode_bytes_and_put_their_special_tokens_last() -> None:
    tokenizer = llama3(BYTES)
    assert (tokenizer.vocab_size, tokenizer.bos) == (512, 256)
    text = "Any text, <|begin_of_text|> too: 日本\n"
    [tokens] = tokenizer.encode([text])
    assert bytes(tokens) == text.encode()
    assert tokenizer.decode(tokens) == text


def test_a_tokenizer_file_that_does_not_fit_is_an_error_that_says_why(tmp_path: Path) -> None:
    def build(name: str, vocab_size: int = 300) -> None:
        build_tokenizer(TokenizerSpec("bpe", vocab_size, str(tmp_path / name)), [], tmp_path, quiet)

    content = train_bpe(300, texts(40)).content
    (tmp_path / "good.json").write_bytes(content)
    (tmp_path / "nameless.json").write_bytes(content.replace(b"<|bos|>", b"<|start|>"))
    (tmp_path / "broken.json").write_bytes(content[:100])
    (tmp_path / "broken.model").write_bytes(b"not ranks")
    build("good.json")
    with pytest.raises(UserError, match=r"vocab_size=301: .*good\.json has 300 entries; set that"):
        build("good.json", 301)
    with pytest.raises(UserError, match=r"nameless\.json: has no token for the beginning of a document; it must have"):
        build("nameless.json")
    for name in ("broken.json", "broken.model"):
        with pytest.raises(UserError, match=rf"{name}: not a readable tokenizer"):
            build(name)
    with pytest.raises(UserError, match=r"nowhere\.json: No such file"):
        build("nowhere.json")
    with pytest.raises(UserError, match=r"path=x\.txt: must be a tokenizer\.json or a tokenizer\.model"):
        TokenizerSpec("bpe", 300, "x.txt")
