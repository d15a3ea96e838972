"""GPUs: which this process may use, found without a driver, and the rates of the kinds that are known. Its memory."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Gpu:
    """A kind of GPU: its peak, and the rates that training reaches at a width of some 768.

    Attributes:
        name: as the driver's name has it.
        peak: dense bf16, FLOP/s, of the data sheet. MFU is a share of it.
        gemm: of products with thousands of rows, FLOP/s.
        thin_gemm: of the head's products with some 500 rows, FLOP/s.
        fp32: of products in fp32, FLOP/s.
        attention: forward and backward pass of causal attention with heads of 64, FLOP/s, by implementation. The first
            is what PyTorch chooses.
        bandwidth: of its memory in kernels that do nothing else, bytes/s.
        all_reduce: bus bandwidth between the GPUs of a node, bytes/s.
    """

    name: str
    peak: float
    gemm: float
    thin_gemm: float
    fp32: float
    attention: Mapping[str, tuple[float, float]]
    bandwidth: float
    all_reduce: float


# The only table of such numbers. Nothing in it was measured with this project.
#
# H100 (SXM). peak 989e12, memory 3.35e12: data sheet. Products: the best of any shape is 794e12 (Stas Bekman,
#   ml-engineering, MAMF). 600e12 is a judgement for K or N = 768, and 450e12 one for 521 rows. cuDNN: 334e12 forward,
#   from the figures of the FlashAttention-3 paper (2407.08608). 300e12 backward is a judgement below their 395e12
#   without a mask. Flash 2: 300e12 and 240e12, judgements. bandwidth 3.0e12: row kernels of QuACK
#   (2025-07-10). fp32 is 80% of the data sheet's 67e12. That and all_reduce are judgements, here and below.
# H200. The H100's chip, so its rates, and 4.8e12 bytes/s of memory (data sheet), of which the same share is taken.
# A100 (SXM, 80 GB). peak 312e12, memory 2.04e12: data sheet. 235e12, 170e12, 135e12 and 1.8e12 are judgements below the
#   best product of any shape, 271e12 (MAMF). They give llm.c's step to 5%. PyTorch keeps flash there. fp32 is 80% of
#   19.5e12.
_H100_ATTENTION = {"cudnn": (334e12, 300e12), "flash": (300e12, 240e12)}
GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("H100", 989e12, 600e12, 450e12, 54e12, _H100_ATTENTION, 3.0e12, 370e9),
        Gpu("H200", 989e12, 600e12, 450e12, 54e12, _H100_ATTENTION, 4.3e12, 370e9),
        Gpu("A100", 312e12, 235e12, 176e12, 15.6e12, {"flash": (170e12, 135e12)}, 1.8e12, 230e9),
    )
}


# Of processes that train on a GPU: memory without gaps, and a workspace of cuBLAS with which its sums are the same
# each time (`execution.deterministic`), of the size that it has on an H100 anyway.
GPU_ENVIRONMENT = {"PYTORCH_ALLOC_CONF": "expandable_segments:True", "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}


def visible_gpus() -> list[str]:
    """Names for CUDA_VISIBLE_DEVICES, one per GPU: those in the variable if it is set, else one per device file."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name for name in chosen.split(",") if name]
    return [str(index) for index in range(len(list(Path("/dev").glob("nvidia[0-9]*"))))]


def installed_gpu(proc: Path = Path("/proc/driver/nvidia/gpus")) -> str | None:
    """The driver's name of this machine's first GPU, such as NVIDIA H100 80GB HBM3; None if there is none."""
    for file in sorted(proc.glob("*/information")):
        if found := re.search(r"^Model:\s*(.+)$", file.read_text(), re.MULTILINE):
            return found[1].strip()
    return None


def memory_bytes() -> int:
    """Memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def gpu_kind(name: str) -> Gpu | None:
    """The kind of a GPU with this driver name; None if it is unknown.

    H100s on PCIe and in NVL pairs are slower than the SXM board and count as unknown.
    """
    if re.search("H100 (PCIe|NVL)", name):
        return None
    return next((gpu for board, gpu in GPUS.items() if re.search(rf"\b{board}\b", name)), None)


def peak_flops(name: str) -> float | None:
    """Peak rate in FLOP/s of a GPU with this driver name; None if it is unknown."""
    kind = gpu_kind(name)
    return kind.peak if kind else None
