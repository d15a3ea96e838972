"""The device of a run: its settings, what attention it has, and what a GPU's share in a result is.

What concerns GPUs is modelled and tested on a CPU with stand-ins. It never ran on a GPU.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from model import ModelConfig
from sweeper.errors import UserError
from sweeper.hardware import GPU_ENVIRONMENT, peak_flops
from sweeper.run.execution import Execution
from sweeper.run.spec import RunConfig


def prepare_device(execution: Execution, precision: str) -> torch.device:
    """The device of this process's runs, with threads, the precision of products and determinism set.

    Raises:
        UserError: if it is missing.
    """
    if execution.device == "cuda" and not torch.cuda.is_available():
        raise UserError("execution.device=cuda but no GPU is visible; use a GPU node or execution.device=cpu")
    torch.set_num_threads(execution.threads)
    on_gpu = execution.device == "cuda"
    # On a GPU the products of a training are bf16 by autocast, and TF32 would blur those of the read-outs.
    torch.set_float32_matmul_precision("high" if precision == "bf16" and not on_gpu else "highest")
    if on_gpu:
        _prepare_gpu(precision, deterministic=execution.deterministic)
    return torch.device(execution.device)


@contextmanager
def subnormals_as_zero() -> Iterator[None]:
    """In here a CPU takes numbers below 1.2e-38 as zero.

    The gradients of a collapsed run are that small, and a CPU's arithmetic on them took up to eight times as long.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def _prepare_gpu(precision: str, *, deterministic: bool) -> None:
    """Settings of the process, all of them, because a worker trains one run after another."""
    import torch._inductor.config as inductor

    for name, value in GPU_ENVIRONMENT.items():  # a worker has it; elsewhere it counts before the first product
        os.environ.setdefault(name, value)
    torch.cuda.reset_peak_memory_stats()
    torch.compiler.set_stance("default")
    torch.use_deterministic_algorithms(deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # nobody reads it
    inductor.deterministic = deterministic
    # Fused attention has no T x T scores. cuDNN's backward pass adds up in any order. In fp32 none is fused.
    bf16 = precision == "bf16"
    torch.backends.cuda.enable_flash_sdp(True)
    torch.backends.cuda.enable_cudnn_sdp(not deterministic)
    torch.backends.cuda.enable_mem_efficient_sdp(not bf16)
    torch.backends.cuda.enable_math_sdp(not bf16)


def attention_backend(shape: ModelConfig, device: torch.device, precision: str) -> str:
    """The name of the attention that PyTorch chooses for a model on a GPU, such as "cudnn" or "flash".

    Raises:
        UserError: if a model in bf16 would get attention that is not fused: its scores would not fit in memory.
    """
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    q = torch.empty(1, shape.n_heads, shape.max_seq_len, shape.head_dim, dtype=dtype, device=device, requires_grad=True)
    choice = torch.nn.attention.SDPBackend(torch._fused_sdp_choice(q, q, q, None, 0.0, True))
    name = choice.name.removesuffix("_ATTENTION").lower()
    if precision == "bf16" and name not in ("cudnn", "flash"):
        raise UserError(
            f"model.d_model={shape.d_model}, model.n_heads={shape.n_heads}: there is no fused attention for heads of "
            f"{shape.head_dim} on this GPU ({torch.cuda.get_device_name()}); use heads of 64 or 128, a GPU of compute "
            "capability 8.0 or more, and the cuDNN that came with PyTorch"
        )
    return name


def versions(attention: str) -> dict[str, str]:
    """Versions of what computes on a GPU, by name."""
    found = {"torch": torch.__version__, "cuda": str(torch.version.cuda), "attention": attention}
    if attention == "cudnn":
        found["cudnn"] = str(torch.backends.cudnn.version())  # type: ignore[no-untyped-call]
    elif attention == "flash":
        chosen = torch.nn.attention.current_flash_attention_impl()
        found["flash"] = str(chosen or torch.nn.attention._get_flash_version())
    return found


def how(execution: Execution, *, compiled: bool) -> dict[str, Any]:
    """How a GPU was used, of what may change a result's rounding; `compiled`, whether blocks were in the end."""
    names = (
        *("micro_batch", "recompute", "recompute_layers"),
        *("fused_loss", "bf16_weights", "flat_gradients", "deterministic"),
    )
    return {**{name: getattr(execution, name) for name in names}, "compiled": compiled}


def used(config: RunConfig, steps: int, seconds: float, gpus: int, device: torch.device) -> dict[str, Any]:
    """What a training made of its GPUs.

    Args:
        config: what was trained.
        steps: optimizer steps.
        seconds: that these took.
        gpus: that shared them.
        device: a GPU.

    Returns:
        Peak bytes of this process's tensors and of what it took from the device, tokens a second, and utilisation
        (MFU) in two counts: `mfu_6p` has 6 FLOPs a weight and token, `mfu_6p_attention` causal attention as well. None
        where nothing was timed, or where the GPU's peak is not known.
    """
    tokens_per_second = steps * config.batch_tokens / seconds if seconds else None
    peak = peak_flops(torch.cuda.get_device_name(device))
    share = tokens_per_second / config.total_tokens / peak / gpus if tokens_per_second and peak else None
    return {
        "peak_allocated_bytes": torch.cuda.max_memory_allocated(device),
        "peak_reserved_bytes": torch.cuda.max_memory_reserved(device),
        "tokens_per_second": tokens_per_second,
        "mfu_6p": config.flops * share if share else None,
        "mfu_6p_attention": (config.flops + config.attention_flops) * share if share else None,
    }
