"""Products by oneDNN are products, whatever the strides, called from Python and from compiled programs."""

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from model import matmul
from model.cpu.segment import compile_parts


def pairs(x: Tensor, weight: Tensor, grad: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Operands as the passes of a linear map have them, and sliced ones."""
    return [
        (x, weight.mT),
        (x, weight.mT.contiguous()),
        (grad, weight),
        (grad.mT, x),
        (x.mT, grad),
        (x[:, :16], weight[:, :16].mT),
        (grad[:, 8:], weight[8:]),
        (x.mT[:, ::2], grad[::2, 4:20]),
        (x * 2, (weight + 1).mT),
    ]


@pytest.fixture(scope="module")
def operands() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(*shape, generator=generator) for shape in ((40, 24), (56, 24), (40, 56))]


def assert_products(found: list[Tensor], operands: list[Tensor]) -> None:
    exact = [a.double() @ b.double() for a, b in pairs(*operands)]
    for product, reference in zip(found, exact, strict=True):
        torch.testing.assert_close(product.double(), reference, rtol=0, atol=1e-6 * float(reference.norm()))


def test_called_from_python(operands) -> None:
    assert_products([matmul.by_onednn(a, b) for a, b in pairs(*operands)], operands)


def test_called_from_a_compiled_program(operands) -> None:
    traced = make_fx(lambda *inputs: [matmul.onednn_mm(a, b) for a, b in pairs(*inputs)], tracing_mode="fake")(
        *operands
    )
    [program] = compile_parts(traced, operands, backward=False)
    assert_products(program(list(operands)), operands)


@pytest.mark.parametrize(
    ("cpu", "expected"),
    [
        ({"cpu_name": "AMD EPYC", "avx512_f": True}, True),
        ({"cpu_name": "AMD EPYC", "avx512_f": False}, False),
        ({"cpu_name": "Intel(R) Xeon(R) Processor", "avx512_f": True}, False),
        ({"architecture": "aarch64"}, False),
    ],
    ids=["amd-avx512", "amd-avx2", "intel", "arm"],
)
def test_which_machines_take_onednn(monkeypatch, cpu, expected) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: cpu)
    assert matmul.machine_prefers_onednn.__wrapped__() == expected


def test_only_large_fp32_products_of_a_cpu_are_in_question(monkeypatch) -> None:
    monkeypatch.setattr(matmul, "machine_prefers_onednn", lambda: True)
    monkeypatch.setattr(matmul, "onednn_mm", lambda a, b: None)
    x = torch.randn(64, 64)
    monkeypatch.setattr(matmul, "FEW", 64**3)
    assert matmul.mm(x, x) is None
    assert torch.equal(matmul.mm(x[:63], x), x[:63] @ x)
    assert matmul.mm(x.double(), x.double()).dtype == torch.float64
