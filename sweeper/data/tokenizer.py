"""The two tokenizers: a byte-level BPE trained on the training split, and the published Llama 3 one."""

import base64
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sweeper.data import wheels
from sweeper.data.spec import TokenizerSpec
from sweeper.errors import UserError

_BPE_BOS = "<|bos|>"

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


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer ready for use. `encode` adds no special token; `bos` is the document separator."""

    kind: str
    vocab_size: int
    bos: int
    file: str
    content: bytes
    encode: Callable[[Sequence[str]], list[list[int]]]
    decode: Callable[[Sequence[int]], str]

    def provenance(self) -> dict[str, object]:
        """What identifies it, for the manifest."""
        digest = hashlib.sha256(self.content).hexdigest()
        return {"kind": self.kind, "vocab_size": self.vocab_size, "bos": self.bos, "sha256": digest}


def build_tokenizer(spec: TokenizerSpec, texts: Iterable[str], root: Path, report: wheels.Report) -> Tokenizer:
    """The tokenizer that `spec` names: trained on `texts` (bpe), or fetched below `root` (llama3)."""
    if spec.kind == "llama3":
        path = wheels.fetch(wheels.LLAMA3, root, report)
        return llama3(wheels.read(path, _LLAMA3_MEMBER))
    report(f"training a byte-level BPE of {spec.vocab_size} entries")
    return train_bpe(spec.vocab_size, texts)


def train_bpe(vocab_size: int, texts: Iterable[str]) -> Tokenizer:
    """Train a byte-level BPE on `texts`; the same texts give the same file.

    Raises `UserError` when the texts are too few for `vocab_size` entries.
    """
    from tokenizers import Tokenizer as Bpe
    from tokenizers import decoders, models, pre_tokenizers, trainers

    bpe = Bpe(models.BPE())
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
    # A text that happens to spell <|bos|> is text.
    bpe.encode_special_tokens = True

    def encode(batch: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in bpe.encode_batch_fast(list(batch), add_special_tokens=False)]

    return Tokenizer(
        kind="bpe",
        vocab_size=vocab_size,
        bos=0,  # special tokens come first, and it is the only one
        file="tokenizer.json",
        content=bpe.to_str(pretty=True).encode(),
        encode=encode,
        decode=lambda tokens: str(bpe.decode(list(tokens), skip_special_tokens=True)),
    )


def llama3(model: bytes) -> Tokenizer:
    """The Llama 3 tokenizer out of its `tokenizer.model`: 128,000 BPE ranks and 256 special tokens."""
    import tiktoken

    ranks = {
        base64.b64decode(token): int(rank) for token, rank in (line.split() for line in model.splitlines() if line)
    }
    reserved = (f"<|reserved_special_token_{2 + i}|>" for i in range(_LLAMA3_N_SPECIAL - len(_LLAMA3_SPECIAL)))
    special = {name: len(ranks) + i for i, name in enumerate((*_LLAMA3_SPECIAL, *reserved))}
    encoding = tiktoken.Encoding("llama3", pat_str=_LLAMA3_PATTERN, mergeable_ranks=ranks, special_tokens=special)
    n_threads = os.cpu_count() or 1

    def encode(batch: Sequence[str]) -> list[list[int]]:
        pieces = [list(cut(text)) for text in batch]
        encoded = iter(encoding.encode_ordinary_batch([p for cuts in pieces for p in cuts], num_threads=n_threads))
        return [[token for _ in cuts for token in next(encoded)] for cuts in pieces]

    return Tokenizer(
        kind="llama3",
        vocab_size=encoding.n_vocab,
        bos=special["<|begin_of_text|>"],
        file="tokenizer.model",
        content=model,
        encode=encode,
        decode=lambda tokens: encoding.decode([token for token in tokens if token < len(ranks)]),
    )


def cut(text: str) -> Iterator[str]:
    """Cut a text into pieces that tiktoken takes; together they are the text again.

    No piece is longer than 400,000 characters, or holds more than 25,000 in a row with or without space.
    """
    for start in range(0, len(text), _LONGEST_PIECE):
        piece = text[start : start + _LONGEST_PIECE]
        done = 0
        if len(piece) > _LONGEST_RUN:
            for run in re.finditer(r"\S+|\s+", piece):
                for end in range(run.start() + _LONGEST_RUN, run.end(), _LONGEST_RUN):
                    yield piece[done:end]
                    done = end
        yield piece[done:]
