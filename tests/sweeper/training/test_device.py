"""What is set and recorded on a GPU, with stand-ins for the device. No GPU is needed here."""

import os
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
import torch._inductor.config as inductor
from torch.nn.attention import SDPBackend

from sweeper.errors import UserError
from sweeper.training.device import attention_backend, prepare_device, used, versions

CPU = torch.device("cpu")
ATTENTION = ("flash", "cudnn", "mem_efficient", "math")


@pytest.fixture(autouse=True)
def a_gpu(monkeypatch) -> Iterator[None]:
    """A GPU by name, whose settings are the process's own and are restored."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "NVIDIA H100 80GB HBM3")
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda *_: None)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    precision = torch.get_float32_matmul_precision()
    enabled = {name: getattr(torch.backends.cuda, f"{name}_sdp_enabled")() for name in ATTENTION}
    yield
    torch.set_float32_matmul_precision(precision)
    torch.use_deterministic_algorithms(False)
    inductor.deterministic = False
    for name, value in enabled.items():
        getattr(torch.backends.cuda, f"enable_{name}_sdp")(value)


def allowed() -> set[str]:
    """The kinds of attention that PyTorch may choose among."""
    return {name for name in ATTENTION if getattr(torch.backends.cuda, f"{name}_sdp_enabled")()}


def test_attention_in_bf16_is_fused_and_deterministic_where_asked_for(execution) -> None:
    """And what one run of a worker asked for does not stay for the next."""
    on_gpu = replace(execution, device="cuda")
    prepare_device(replace(on_gpu, deterministic=True), "bf16")
    assert allowed() == {"flash"}
    assert torch.are_deterministic_algorithms_enabled()
    assert inductor.deterministic
    prepare_device(on_gpu, "bf16")
    assert allowed() == {"flash", "cudnn"}
    assert not torch.are_deterministic_algorithms_enabled()
    assert not inductor.deterministic
    prepare_device(on_gpu, "fp32")
    assert allowed() == set(ATTENTION)


def test_products_in_fp32_are_not_tf32_on_a_gpu(execution) -> None:
    prepare_device(replace(execution, device="cuda"), "bf16")
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize(
    ("choice", "name"), [(SDPBackend.CUDNN_ATTENTION, "cudnn"), (SDPBackend.FLASH_ATTENTION, "flash")]
)
def test_the_attention_is_named_with_its_version(literal_run, monkeypatch, choice, name) -> None:
    monkeypatch.setattr(torch, "_fused_sdp_choice", lambda *_: choice.value)
    assert attention_backend(literal_run.model, CPU, "bf16") == name
    assert versions(name)["torch"] == torch.__version__
    assert versions(name)[name]


@pytest.mark.parametrize("choice", [SDPBackend.MATH, SDPBackend.ERROR])
def test_attention_with_all_scores_in_memory_is_refused(literal_run, monkeypatch, choice) -> None:
    monkeypatch.setattr(torch, "_fused_sdp_choice", lambda *_: choice.value)
    with pytest.raises(UserError, match=r"no fused attention for heads of 16 on this GPU \(NVIDIA H100"):
        attention_backend(literal_run.model, CPU, "bf16")


def test_utilisation_is_counted_with_and_without_attention(literal_run, monkeypatch) -> None:
    """A run at the peak of both of its GPUs, but for attention."""
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda *_: 5)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda *_: 7)
    steps = literal_run.steps
    found = used(literal_run, steps, literal_run.flops / (2 * 989e12), 2, CPU)
    assert found["mfu_6p"] == pytest.approx(1)
    assert found["mfu_6p_attention"] == pytest.approx(1 + literal_run.attention_flops / literal_run.flops)
    assert found["tokens_per_second"] == pytest.approx(literal_run.total_tokens * 2 * 989e12 / literal_run.flops)
    assert (found["peak_allocated_bytes"], found["peak_reserved_bytes"]) == (5, 7)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "a GPU of tomorrow")
    assert used(literal_run, steps, 1.0, 2, CPU)["mfu_6p"] is None
    assert used(literal_run, 0, 0.0, 2, CPU)["tokens_per_second"] is None
