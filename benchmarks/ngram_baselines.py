"""What counting alone reaches: unigram, bigram and trigram cross-entropy of every prepared data set.

    python benchmarks/ngram_baselines.py [DATA_DIR]

Counts come from the whole training split, with Witten-Bell interpolation down to add-one unigrams; nats per token over
the first 32,768 validation tokens, which is what the small presets validate on. `diverged_above` of a small preset is
the unigram figure: a run that ends above it has learned nothing from context.
"""

import sys
from pathlib import Path

import numpy as np

from sweeper.files import read_json

VALIDATION_TOKENS = 32_768


def main(root: Path) -> None:
    """Print one line per prepared data set below `root`."""
    for path in sorted(root.glob("*/manifest.json")):
        directory, manifest = path.parent, read_json(path)
        assert manifest is not None
        if manifest["vocab_size"] > 4096:
            continue  # a dense table of bigrams would not fit
        splits = {
            split: np.concatenate([np.fromfile(directory / s["file"], manifest["dtype"]) for s in shards])
            for split, shards in manifest["splits"].items()
        }
        train, val = splits["train"].astype(np.int64), splits["val"][: VALIDATION_TOKENS + 1].astype(np.int64)
        losses = ngram_losses(train, val, manifest["vocab_size"])
        print(f"{directory.name}: unigram {losses[0]:.3f}  bigram {losses[1]:.3f}  trigram {losses[2]:.3f}")


def ngram_losses(train: np.ndarray, val: np.ndarray, vocab_size: int) -> list[float]:
    """Cross-entropies of orders 1, 2, 3 in nats per token."""
    counts = np.bincount(train, minlength=vocab_size) + 1.0
    probability = (counts / counts.sum())[val]  # of val[i] given ever longer contexts
    losses = [-np.log(probability[1:]).mean()]
    for order in (2, 3):
        contexts, val_contexts = (_keys(tokens, order - 1, vocab_size) for tokens in (train, val))
        grams, val_grams = (_keys(tokens, order, vocab_size) for tokens in (train, val))
        seen = _lookup(*np.unique(contexts[:-1], return_counts=True), val_contexts[:-1])
        kinds = np.unique(grams)
        distinct = _lookup(*np.unique(kinds // vocab_size, return_counts=True), val_contexts[:-1])
        both = _lookup(*np.unique(grams, return_counts=True), val_grams)
        backed_off = probability[order - 1 :]
        probability = np.concatenate(
            (probability[: order - 1], (both + distinct * backed_off) / np.maximum(seen + distinct, 1))
        )
        unseen = np.concatenate((np.zeros(order - 1, bool), seen + distinct == 0))
        probability[unseen] = backed_off[unseen[order - 1 :]]
        losses.append(-np.log(probability[order - 1 :]).mean())
    return losses


def _keys(tokens: np.ndarray, order: int, vocab_size: int) -> np.ndarray:
    """Every run of `order` tokens as one integer."""
    keys = tokens[: len(tokens) - order + 1].copy()
    for offset in range(1, order):
        keys = keys * vocab_size + tokens[offset : len(tokens) - order + 1 + offset]
    return keys


def _lookup(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Value of every wanted key, 0 where it does not occur; `keys` are sorted."""
    index = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
    return np.where(keys[index] == wanted, values[index], 0)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "data"))
