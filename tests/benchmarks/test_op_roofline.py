"""Bytes and seconds of operations, traced without memory. They find the cross entropy that took half of a step."""

import pytest
import torch

from benchmarks.op_roofline import OpRoofline
from model.gpu.head import to_gradient_
from model.loss import head_cross_entropy
from sweeper.hardware import GPUS
from sweeper.run.roofline import FUSED_LOSS

H100 = GPUS["H100"]
ROWS, VOCABULARY, WIDTH = 4096, 128_256, 768


def traced(function, *shapes, dtype=torch.bfloat16, fused: bool = False) -> OpRoofline:
    with torch.device("meta"):
        tensors = [torch.empty(shape, dtype=dtype) for shape in shapes]
    roofline = OpRoofline(H100)
    with roofline:
        (roofline.fused(function) if fused else function)(*tensors)
    return roofline


def test_a_product_takes_its_flops_and_a_thin_one_its_bytes() -> None:
    square = traced(torch.mm, (4096, 4096), (4096, 4096))
    assert square.seconds == pytest.approx(2 * 4096**3 / H100.gemm)
    thin = traced(torch.mm, (4096, 4096), (4096, 1))
    assert thin.seconds == pytest.approx(2 * (4096**2 + 2 * 4096) / H100.bandwidth)


def test_operations_one_by_one_write_what_lies_between_them() -> None:
    def twice(x: torch.Tensor) -> torch.Tensor:
        return x.float().exp()

    assert traced(twice, (1024, 1024)).bytes == (2 + 4 + 4 + 4) * 2**20
    assert traced(twice, (1024, 1024), fused=True).bytes == (2 + 4) * 2**20


def test_operations_in_place_read_and_write_and_views_are_free() -> None:
    assert traced(lambda x: x.add_(1).t()[None], (1024, 1024)).bytes == 4 * 2**20
    assert traced(lambda x: x.zero_(), (1024, 1024)).bytes == 2 * 2**20


def test_a_fused_function_reads_again_behind_every_reduction() -> None:
    def softmax_(x: torch.Tensor) -> None:
        scores = x.float()
        scores = scores - scores.amax(1, keepdim=True)
        x.copy_(scores.exp() / scores.exp().sum(1, keepdim=True))

    per_row = 4 + 4 + 4 + 4 + 4  # the maximum, written and read twice, and the sum
    moved = traced(softmax_, (ROWS, VOCABULARY), fused=True).bytes
    assert moved == ROWS * VOCABULARY * (2 + 2 + 2 + 2) + ROWS * per_row


def test_the_eager_cross_entropy_moves_44_bytes_a_logit_and_takes_longer_than_its_products() -> None:
    """As a GPU ran it before it had a path of its own: in chunks of 521 rows, operation by operation."""
    with torch.device("meta"):
        hidden, head = (torch.empty(n, WIDTH, dtype=torch.bfloat16) for n in (ROWS, VOCABULARY))
        targets = torch.zeros(ROWS, dtype=torch.int64)
    with OpRoofline(H100) as roofline:
        head_cross_entropy(hidden, head, targets)
    products = roofline.by_operation.pop("aten.mm")
    elementwise = sum(roofline.by_operation.values())
    assert elementwise * H100.bandwidth / (ROWS * VOCABULARY) == pytest.approx(44, abs=0.1)
    assert elementwise > 3 * products  # of the forward pass alone


def test_the_pass_of_a_gpu_over_the_logits_moves_8_bytes_a_logit() -> None:
    """Two reads for the maximum and the sum, one for the gradient, and a write. A compiler may read once less."""
    with torch.device("meta"):
        logits = torch.empty(ROWS, VOCABULARY, dtype=torch.bfloat16)
        targets = torch.zeros(ROWS, dtype=torch.int64)
        with OpRoofline(H100) as roofline:
            roofline.fused(to_gradient_)(logits, targets, 1 / ROWS, None)
    assert FUSED_LOSS.logit_bytes <= roofline.bytes / logits.numel() <= 8.1
