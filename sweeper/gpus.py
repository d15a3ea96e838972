"""Which GPUs this process may use, without asking a driver."""

import os
from pathlib import Path


def visible_gpus() -> list[str]:
    """Names for CUDA_VISIBLE_DEVICES, one a GPU: the variable's own where it is set, else one a device file."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name for name in chosen.split(",") if name]
    return [str(index) for index in range(len(list(Path("/dev").glob("nvidia[0-9]*"))))]
