"""Windows of tokens as a pure function of (manifest, seed, index), read from memory-mapped shards."""

from itertools import accumulate
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sweeper.data.manifest import MANIFEST_FILE, Manifest
from sweeper.data.tasks import TaskData, task_of
from sweeper.errors import UserError

Rows = npt.NDArray[np.int64]


def open_data(manifest_hash: str, root: Path) -> "TokenData | TaskData":
    """Open the prepared directory below `root` whose manifest has `manifest_hash`: text, or the examples of a task.

    Raises `UserError` if there is no such directory, if its manifest is damaged, or if a shard is missing or has the
    wrong size.
    """
    found = []
    unreadable = []
    for path in sorted(root.glob(f"*/{MANIFEST_FILE}")):
        try:
            manifest = Manifest.read(path.parent)
        except UserError as error:
            unreadable.append(str(error))
            continue
        if manifest.hash == manifest_hash:
            task = task_of(manifest)
            return TokenData(manifest, path.parent) if task is None else TaskData(manifest, task)
        found.append(f"{manifest.directory} ({manifest.hash})")
    if unreadable:
        raise UserError(f"data {manifest_hash} not found below {root}, where {unreadable[0]}")
    raise UserError(
        f"data {manifest_hash} not found below {root}, which holds {', '.join(found) or 'no prepared data'}; "
        "prepare it again with the data settings of this run, or set the data folder to where it is"
    )


class TokenData:
    """The shards of one manifest, opened for reading."""

    def __init__(self, manifest: Manifest, directory: Path) -> None:
        self.manifest = manifest
        self._train = _TokenStream(manifest, "train", directory)
        self._val = _TokenStream(manifest, "val", directory)
        # Key and order of the epoch that was read last: a cache. One assignment replaces both, so that threads may
        # read at the same time.
        self._epoch: tuple[tuple[int, int, int], npt.NDArray[np.intp]] | None = None

    def n_windows(self, seq_len: int) -> int:
        """Training windows in an epoch: `seq_len` inputs each, at stride `seq_len`, plus one target.

        Raises `UserError` if the training split is shorter than one window.
        """
        return self._train.n_windows(seq_len)

    def sequences(self, first: int, count: int, seq_len: int, seed: int) -> Rows:
        """Training windows `first` … `first + count - 1` of the endless order of `seed`.

        Step t of a run with a global batch of B sequences reads first = t·B, count = B. The rows do not depend on the
        number of devices or the micro-batch. Every epoch visits each window once, in another order.

        Returns int64 of shape (count, seq_len + 1): inputs are `[:, :-1]`, targets `[:, 1:]`.
        """
        n_windows = self.n_windows(seq_len)
        rows = np.empty((count, seq_len + 1), dtype=np.int64)
        for row in range(count):
            epoch, place = divmod(first + row, n_windows)
            window = int(self._epoch_order(seed, epoch, n_windows)[place])
            self._train.read(window * seq_len, rows[row])
        return rows

    def validation(self, seq_len: int, max_tokens: int) -> Rows:
        """The first windows of the validation split, in order: n of them, with n · seq_len ≤ max_tokens.

        Returns int64 of shape (n, seq_len + 1). Raises `UserError` if not even one window fits.
        """
        n = min(self._val.n_windows(seq_len), max_tokens // seq_len)
        if n < 1:
            raise UserError(f"validation over {max_tokens} tokens: must be at least one sequence of {seq_len} tokens")
        rows = np.empty((n, seq_len + 1), dtype=np.int64)
        for row in range(n):
            self._val.read(row * seq_len, rows[row])
        return rows

    def _epoch_order(self, seed: int, epoch: int, n_windows: int) -> npt.NDArray[np.intp]:
        key, known = (seed, epoch, n_windows), self._epoch
        if known is not None and known[0] == key:
            return known[1]
        # Raw draws are sorted because numpy guarantees a bit generator's stream for ever. Generator.permutation may
        # change in a later version, and with it every batch of a resumed run.
        draws = np.random.Philox(np.random.SeedSequence([seed, epoch])).random_raw(n_windows)
        order = np.argsort(draws, kind="stable")
        self._epoch = key, order
        return order


class _TokenStream:
    """The shards of one split, read as one array."""

    def __init__(self, manifest: Manifest, split: str, directory: Path) -> None:
        self._split = split
        self._shards = []
        dtype = np.dtype(manifest.dtype).newbyteorder("<")
        for shard in manifest.splits[split]:
            path = directory / shard.file
            size = path.stat().st_size if path.is_file() else 0
            must_be = shard.tokens * dtype.itemsize
            if size != must_be:
                raise UserError(
                    f"{path}: has {size} bytes, must have {must_be}; "
                    f"delete the folder {directory} and prepare the data again"
                )
            self._shards.append(np.memmap(path, dtype=dtype, mode="r", shape=(shard.tokens,)))
        self._starts = np.array([0, *accumulate(shard.tokens for shard in manifest.splits[split])], dtype=np.int64)

    def n_windows(self, seq_len: int) -> int:
        n_tokens = int(self._starts[-1])
        if n_tokens <= seq_len:
            raise UserError(
                f"seq_len={seq_len}: the {self._split} split has {n_tokens} tokens, a window needs "
                f"{seq_len + 1}; use shorter sequences or more text"
            )
        return (n_tokens - 1) // seq_len

    def read(self, start: int, into: Rows) -> None:
        """Fill `into`, shape (n,), with the tokens at `start` … `start + n - 1`, across shard borders."""
        filled = 0
        shard = int(np.searchsorted(self._starts, start, side="right")) - 1
        while filled < len(into):
            offset = start + filled - int(self._starts[shard])
            part = self._shards[shard][offset : offset + len(into) - filled]
            into[filled : filled + len(part)] = part
            filled += len(part)
            shard += 1
