"""Bytes and seconds of operations, traced without memory. They find the cross entropy that took half of a step."""

import pytest
import torch

from benchmarks.op_roofline import OpRoofline
from model.gpu.head import PASSES, loss_of, to_gradient_
from model.gpu.weights import Bf16Linear, look_up
from model.layers import Linear
from model.loss import head_cross_entropy
from sweeper.hardware import GPUS
from sweeper.run.roofline import FUSED_LOSS, LOOKUP_BYTES, SUM_BYTES

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


def test_an_operation_by_index_moves_the_rows_that_it_names() -> None:
    with torch.device("meta"):
        total, rows, indices = torch.empty(4096, 64), torch.empty(8, 64), torch.zeros(8, dtype=torch.int64)
    with OpRoofline(H100) as roofline:
        total.index_add_(0, indices, rows)
    assert roofline.bytes == LOOKUP_BYTES * rows.numel()


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


def test_a_matrix_moves_as_many_bytes_a_weight_as_modelled_beside_what_its_products_read() -> None:
    """Of one token, so that there is next to nothing else. Both products of a pass read the bf16 copy."""
    with torch.device("meta"):
        one = Bf16Linear(Linear(WIDTH, 3 * WIDTH))
        one.weight.grad = torch.empty(one.weight.shape)
        x = torch.empty(1, 1, WIDTH, requires_grad=True)
    with OpRoofline(H100) as roofline:
        one(x).sum().backward()
    assert roofline.bytes / one.weight.numel() == pytest.approx(2 + 2 + SUM_BYTES, rel=0.01)


def test_the_tied_embedding_is_passed_over_as_often_as_modelled() -> None:
    """In one chunk, without the pass over its logits."""
    vocabulary = 4 * WIDTH
    with torch.device("meta"):
        weight = torch.empty(vocabulary, WIDTH, requires_grad=True)
        weight.grad = torch.empty(weight.shape)
        tokens = torch.zeros(1, 2, dtype=torch.int64)
    passes = PASSES._replace(to_gradient_=lambda logits, *_: logits.new_zeros((), dtype=torch.float32))

    def moved(n_tokens: int) -> float:
        with OpRoofline(H100) as roofline, torch.autocast("cpu", torch.bfloat16):
            rows, head = look_up(weight, tokens[:, :n_tokens])
            loss = loss_of(rows.flatten(0, 1), lambda h: h, head, tokens[0, :n_tokens], passes=passes)
            loss.backward()
        return roofline.bytes

    one, two = moved(1), moved(2)
    products = 2 * 2 * weight.numel()  # both that read the head in bf16
    of_a_token = two - one
    expected = (4 * FUSED_LOSS.passes + FUSED_LOSS.gradient_bytes) * weight.numel()
    assert one - of_a_token - products == pytest.approx(expected, rel=1e-3)
