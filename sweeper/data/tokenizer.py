"""The tokenizers: a byte-level BPE trained on the training split, the published Llama 3 tokenizer, or a custom file.

Llama 3's ranks run in tiktoken with one thread per process. `tokenizers` gives the same tokens several times slower,
and tiktoken's threads do not help (`benchmarks/data.py tokenizers` compares them).
"""

import base64
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sweeper.data import pypi
from sweeper.data.spec import TokenizerSpec
from sweeper.errors import UserError

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Library

_BPE_BOS = "<|bos|>"
# Names of the token that begins a text, or else ends it, in a custom tokenizer.json.
_KNOWN_BOS = (_BPE_BOS, "<|begin_of_text|>", "<s>", "<bos>", "[BOS]", "<|endoftext|>", "</s>")

# As published with the model: https://github.com/meta-llama/llama-models, models/llama3/tokenizer.py.
_LLAMA3_MEMBER = "llama_models/llama3/tokenizer.model"
_LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
_LLAMA3_SPECIAL = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|reserved_special_token_0|>",
    "<|reserved_special_token_1|>",
    "<|finetune_right_pad_id|>",
    "<|step_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
    "<|python_tag|>",
    "<|image|>",
)
_LLAMA3_N_SPECIAL = 256
# tiktoken overflows its stack on long texts and is slow on long runs without a break.
_LONGEST_PIECE = 400_000
_LONGEST_RUN = 25_000
_RUN = re.compile(r"\S+|\s+")


@dataclass(frozen=True)
class Tokenizer:
    """A loaded tokenizer. `encode` adds no special token. `bos` is the document separator."""

    kind: str
    vocab_size: int
    bos: int
    content: bytes
    encode: Callable[[Sequence[str]], list[list[int]]]
    decode: Callable[[Sequence[int]], str]

    @property
    def file(self) -> str:
        """Name of the file that holds `content`."""
        return "tokenizer.model" if self.kind == "llama3" else "tokenizer.json"

    @property
    def sha256(self) -> str:
        """Hex sha256 of `content`."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def dtype(self) -> Literal["uint16", "uint32"]:
        """The smallest of the two that holds every token."""
        return "uint16" if self.vocab_size <= 2**16 else "uint32"

    def provenance(self) -> dict[str, object]:
        """Identity of the tokenizer, for the manifest."""
        return {"kind": self.kind, "vocab_size": self.vocab_size, "bos": self.bos, "sha256": self.sha256}


def build_tokenizer(spec: TokenizerSpec, texts: Iterable[str], root: Path, report: pypi.Report) -> Tokenizer:
    """The tokenizer of `spec`: trained on `texts` (bpe), downloaded below `root` (llama3), or read from a custom file.

    Raises `UserError` if it cannot be loaded, or has another number of entries.
    """
    if spec.path is not None:
        tokenizer = _from_custom_file(Path(spec.path).expanduser(), spec.format)
        if tokenizer.vocab_size != spec.vocab_size:
            raise UserError(
                f"data.tokenizer.vocab_size={spec.vocab_size}: {spec.path} has {tokenizer.vocab_size} entries; set that"
            )
        return tokenizer
    if spec.kind == "llama3":
        path = pypi.fetch(pypi.LLAMA3, root, report)
        return llama3(pypi.read(path, _LLAMA3_MEMBER))
    report(f"training a byte-level BPE of {spec.vocab_size} entries")
    return train_bpe(spec.vocab_size, texts)


@lru_cache(maxsize=1)
def load_tokenizer(kind: str, file: Path) -> Tokenizer:
    """A tokenizer from the file with its content. A process loads it once."""
    return _from_content(kind, file.read_bytes())


def train_bpe(vocab_size: int, texts: Iterable[str]) -> Tokenizer:
    """Train a byte-level BPE on `texts`. The same texts give the same file.

    Raises `UserError` if there is too little text for `vocab_size` entries.
    """
    from tokenizers import Tokenizer as Library
    from tokenizers import decoders, models, pre_tokenizers, trainers

    bpe = Library(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[_BPE_BOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    if bpe.get_vocab_size() < vocab_size:
        raise UserError(
            f"data.tokenizer.vocab_size={vocab_size}: the training text yields only {bpe.get_vocab_size()} "
            "entries; ask for fewer, or give more text"
        )
    # Special tokens come first, and there is only one.
    return _from_library("bpe", bpe, bpe.to_str(pretty=True).encode(), bos=0)


def llama3(model: bytes) -> Tokenizer:
    """The Llama 3 tokenizer from its `tokenizer.model`: 128,000 BPE ranks and 256 special tokens."""
    import tiktoken

    ranks = {
        base64.b64decode(token): int(rank) for token, rank in (line.split() for line in model.splitlines() if line)
    }
    reserved = (f"<|reserved_special_token_{2 + i}|>" for i in range(_LLAMA3_N_SPECIAL - len(_LLAMA3_SPECIAL)))
    special = {name: len(ranks) + i for i, name in enumerate((*_LLAMA3_SPECIAL, *reserved))}
    encoding = tiktoken.Encoding("llama3", pat_str=_LLAMA3_PATTERN, mergeable_ranks=ranks, special_tokens=special)

    def encode(batch: Sequence[str]) -> list[list[int]]:
        return [[token for piece in cut(text) for token in encoding.encode_ordinary(piece)] for text in batch]

    return Tokenizer(
        kind="llama3",
        vocab_size=encoding.n_vocab,
        bos=special["<|begin_of_text|>"],
        content=model,
        encode=encode,
        decode=lambda tokens: encoding.decode([token for token in tokens if token < len(ranks)]),
    )


def _from_custom_file(file: Path, kind: str) -> Tokenizer:
    try:
        return _from_content(kind, file.read_bytes())
    except OSError as error:
        raise UserError(f"data.tokenizer.path={file}: {error.strerror}; give a readable file") from None
    except UserError as error:
        raise UserError(f"data.tokenizer.path={file}: {error}") from None
    except Exception as error:  # the libraries' parsers raise many kinds
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"data.tokenizer.path={file}: not a readable tokenizer ({reason})") from None


def _from_content(kind: str, content: bytes) -> Tokenizer:
    if kind == "llama3":
        return llama3(content)
    from tokenizers import Tokenizer as Library

    library = Library.from_str(content.decode())
    ids = (library.token_to_id(token) for token in _KNOWN_BOS)
    bos = next((token_id for token_id in ids if token_id is not None), None)
    if bos is None:
        raise UserError(f"has no token for the beginning of a document; it must have one of {', '.join(_KNOWN_BOS)}")
    return _from_library(kind, library, content, bos)


def _from_library(kind: str, library: "Library", content: bytes, bos: int) -> Tokenizer:
    # A special token's name inside a text is encoded as ordinary text.
    library.encode_special_tokens = True
    library.no_truncation()
    library.no_padding()

    def encode(batch: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in library.encode_batch_fast(list(batch), add_special_tokens=False)]

    return Tokenizer(
        kind=kind,
        vocab_size=1 + max(library.get_vocab(with_added_tokens=True).values()),
        bos=bos,
        content=content,
        encode=encode,
        decode=lambda tokens: str(library.decode(list(tokens), skip_special_tokens=True)),
    )


def cut(text: str) -> Iterator[str]:
    """Cut a text into pieces that tiktoken can encode. Joined, they are the text again.

    No piece is longer than 400,000 characters. None has a run of more than 25,000 characters, all spaces or all not.
    """
    for start in range(0, len(text), _LONGEST_PIECE):
        piece = text[start : start + _LONGEST_PIECE]
        done = 0
        if _may_hold_a_long_run(piece):
            for run in _RUN.finditer(piece):
                for end in range(run.start() + _LONGEST_RUN, run.end(), _LONGEST_RUN):
                    yield piece[done:end]
                    done = end
        yield piece[done:]


def _may_hold_a_long_run(text: str) -> bool:
    """False only if no run is too long: a longer run fills a window of half the length at a multiple of that half."""
    half = _LONGEST_RUN // 2
    runs = (_RUN.match(text, start, start + half) for start in range(0, len(text) - half, half))
    return any(run is not None and run.end() - run.start() == half for run in runs)
