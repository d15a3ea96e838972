"""When a training has learned too little to count: the one place where collapse is defined.

A finished run has collapsed if its final validation loss is not finite, or is above `diverged_above`, or is not more
than `MARGIN` below the unigram entropy of the validation tokens. In the first two cases its state is "diverged". In the
last it has learned little more than how frequent the tokens are.
"""

from collections.abc import Mapping
from typing import Any

MARGIN = 0.05  # nats per token


def has_collapsed(cell: Mapping[str, Any]) -> bool:
    """Whether the run of a cell has. False without a result. Without a unigram entropy only a diverged run counts."""
    if cell["state"] == "diverged":
        return True
    entropy, loss = cell.get("unigram_entropy"), cell.get("val_loss")
    if cell["state"] != "done" or entropy is None or loss is None:
        return False
    return bool(entropy - loss <= MARGIN)
