"""Matrix products in fp32 on a CPU, by whichever library of torch uses all of it.

torch multiplies fp32 matrices by MKL. On an AMD EPYC with AVX-512, oneDNN, the library behind torch's convolutions,
took half of MKL's time (193 GFLOP/s against 420, 1024 × 128 by 128 × 688, two threads).
"""

from functools import cache

import torch
from torch import Tensor

FEW = 2**21  # multiplications below which oneDNN's longer way to the product costs what it saves


@cache
def machine_prefers_onednn() -> bool:
    """Whether oneDNN multiplies fp32 matrices faster than MKL on this machine."""
    has_it: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    cpu = torch.cpu.get_capabilities()
    return has_it and bool(cpu.get("avx512_f")) and "Intel" not in cpu["cpu_name"]


def prefers_onednn(x: Tensor) -> bool:
    """Whether oneDNN multiplies matrices of this type and device faster than what torch takes by itself."""
    return x.device.type == "cpu" and x.dtype == torch.float32 and machine_prefers_onednn()


def mm(a: Tensor, b: Tensor) -> Tensor:
    """a (M, K) · b (K, N) on any device, in any type, by the faster library. Not differentiable."""
    return onednn_mm(a, b) if a.numel() * b.shape[1] >= FEW and prefers_onednn(a) else torch.mm(a, b)


def by_onednn(a: Tensor, b: Tensor) -> Tensor:
    """a (M, K) · b (K, N), fp32 on a CPU, by oneDNN."""
    if not b.mT.is_contiguous():
        b = b.contiguous()  # other strides are left to loops that take a thousand times as long
    product: Tensor = torch.ops.mkldnn._linear_pointwise(a, b.mT, None, "none", [], "")
    return product


onednn_mm = torch.library.custom_op("loopsweep::onednn_mm", by_onednn, mutates_args=())  # kept whole in a trace


@onednn_mm.register_fake
def _(a: Tensor, b: Tensor) -> Tensor:
    return a.new_empty(a.shape[0], b.shape[1])
