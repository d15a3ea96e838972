"""A GPU's peak rate is known by name, or not at all."""

import pytest

from sweeper.hardware import peak_flops


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA H100 NVL", None),
        ("NVIDIA A10", None),
        ("NVIDIA L4", None),
    ],
)
def test_an_unknown_gpu_has_no_peak_rate(name, peak) -> None:
    assert peak_flops(name) == peak
