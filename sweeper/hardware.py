"""The GPUs that this process may use, found without a driver, their peak rates, and the machine's memory."""

import os
import re
from pathlib import Path

PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}  # dense bf16, of the SXM boards


def visible_gpus() -> list[str]:
    """Names for CUDA_VISIBLE_DEVICES, one per GPU: those in the variable if it is set, else one per device file."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name for name in chosen.split(",") if name]
    return [str(index) for index in range(len(list(Path("/dev").glob("nvidia[0-9]*"))))]


def memory_bytes() -> int:
    """Memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def peak_flops(name: str) -> float | None:
    """Peak rate in FLOP/s of a GPU with this driver name; None if it is unknown.

    H100s on PCIe and in NVL pairs are slower than the SXM board and count as unknown.
    """
    if re.search("H100 (PCIe|NVL)", name):
        return None
    return next((rate for board, rate in PEAK_FLOPS.items() if re.search(rf"\b{board}\b", name)), None)
