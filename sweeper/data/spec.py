"""The data settings of conf/data, checked on creation."""

from dataclasses import dataclass
from pathlib import Path

from sweeper.data.task import Task
from sweeper.data.tasks import TASKS
from sweeper.errors import UserError

SOURCES = ("wikipedia", "fineweb_edu", "local")
LLAMA3_VOCAB_SIZE = 128_256
# <|bos|> and the 256 bytes; anything above is merges.
SMALLEST_BPE = 257
# Custom tokenizer files: the format of the `tokenizers` library, and the format in which Llama 3 is published.
TOKENIZER_FILES = {".json": "json", ".model": "llama3"}
SYMBOLS = "symbols"  # the kind of "tokenizer" of a task, whose tokens are its symbols


@dataclass(frozen=True)
class TokenizerSpec:
    """Which tokenizer: `bpe` is trained on the training split, `llama3` is the published one.

    `path`, if set, replaces both by a custom file: a `tokenizer.json` or a Llama 3 `tokenizer.model`. `vocab_size`
    includes special tokens. Raises `UserError` for an unknown kind or an impossible size.
    """

    kind: str
    vocab_size: int
    path: str | None = None

    def __post_init__(self) -> None:
        if self.path is not None:
            if Path(self.path).suffix not in TOKENIZER_FILES:
                raise UserError(f"data.tokenizer.path={self.path}: must be a tokenizer.json or a tokenizer.model")
        elif self.kind == "llama3":
            if self.vocab_size != LLAMA3_VOCAB_SIZE:
                raise UserError(
                    f"data.tokenizer.vocab_size={self.vocab_size}: the llama3 tokenizer has "
                    f"{LLAMA3_VOCAB_SIZE} entries; set that, or data.tokenizer.kind=bpe for another size"
                )
        elif self.kind == "bpe":
            if self.vocab_size < SMALLEST_BPE:
                raise UserError(
                    f"data.tokenizer.vocab_size={self.vocab_size}: a byte-level bpe needs at least "
                    f"{SMALLEST_BPE} entries (one special token and 256 bytes)"
                )
        elif self.kind != SYMBOLS:
            raise UserError(f"data.tokenizer.kind={self.kind!r}: must be bpe or llama3")

    @property
    def format(self) -> str:
        """What is loaded: `bpe` (trained here), `llama3`, or `json` (a custom `tokenizer.json`)."""
        return TOKENIZER_FILES[Path(self.path).suffix] if self.path else self.kind


@dataclass(frozen=True)
class DataSpec:
    """Where the text comes from and how it becomes shards.

    `path`, if set, replaces the named source with a file or directory of .txt, .jsonl or .parquet. `shard_tokens` is
    the number of tokens in a shard file. `val_fraction` is the share of documents held out if the source has no
    validation split. `files` limits a source of the hub to its first files; None means all. `task` is what is drawn in
    place of text; then the others mean nothing. Raises `UserError` for a value that is not allowed.
    """

    name: str
    path: str | None
    text_column: str
    tokenizer: TokenizerSpec
    shard_tokens: int
    val_fraction: float
    files: int | None = None
    task: Task | None = None

    def __post_init__(self) -> None:
        if self.task is not None:
            if self.path is not None or self.tokenizer.path is not None:
                raise UserError(
                    f"data.path={self.path}: data={self.name} is a task and reads no file; choose another data"
                )
            return
        if self.name not in SOURCES:
            raise UserError(
                f"data.name={self.name!r}: must be one of {', '.join((*SOURCES, *TASKS))}; "
                "data.path=PATH reads text of your own"
            )
        if self.tokenizer.format == SYMBOLS:
            raise UserError(f"data.tokenizer.kind={SYMBOLS}: data={self.name} is text and needs bpe or llama3")
        if self.name == "local" and not self.path:
            raise UserError(
                "data.name=local needs data.path=PATH, a .txt, .jsonl or .parquet file, or a directory of them"
            )
        if self.shard_tokens < 1:
            raise UserError(f"data.shard_tokens={self.shard_tokens}: must be at least 1 token")
        if not 0 < self.val_fraction < 1:
            raise UserError(f"data.val_fraction={self.val_fraction}: must lie between 0 and 1, both excluded")
        if self.files is not None and self.files < 1:
            raise UserError(f"data.files={self.files}: must be at least 1; null is all files")

    @property
    def source(self) -> str:
        """The source that is read: `local` if `path` is set, else `name`."""
        return "local" if self.path else self.name
