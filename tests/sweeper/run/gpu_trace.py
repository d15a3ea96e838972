"""Blocks as torch.compile cuts them into a forward and a backward pass for a GPU, on meta tensors."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._functorch.aot_autograd import aot_function, make_boxed_func
from torch._functorch.partitioners import min_cut_rematerialization_partition
from torch._inductor.decomposition import select_decomp_table
from torch.overrides import TorchFunctionMode

from model.loop import ApplyBlocks, Context
from model.transformer import LoopedTransformer


class LikeCuda(TorchFunctionMode):
    """What autocast and attention do on a GPU, for tensors without a device: bf16 products, flash attention's op.

    Autocast knows no meta tensors, and attention would fall back to a product with T × T scores.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            return torch.ops.aten._scaled_dot_product_flash_attention(*args, 0.0, **kwargs)[0]
        if func is F.linear:
            args = [arg if arg is None else arg.bfloat16() for arg in args]
        return func(*args, **(kwargs or {}))


def compiled(block: nn.Module) -> Callable[..., Tensor]:
    """The block as a function of its tensors, its stream and its context.

    Operations are not fused, so that a pass holds more for a moment than a fused one. What is kept from the forward
    pass for the backward pass is the same.
    """

    def function(tensors: dict[str, Tensor], x: Tensor, *context: Tensor) -> Any:
        with LikeCuda():
            return torch.func.functional_call(block, tensors, (x, *context))

    def boxed(graph: Any, _: Any) -> Any:
        return make_boxed_func(graph)

    partition = partial(min_cut_rematerialization_partition, compiler="inductor")
    return aot_function(
        function, fw_compiler=boxed, bw_compiler=boxed, partition_fn=partition, decompositions=select_decomp_table()
    )


def compile_blocks(model: LoopedTransformer) -> None:
    """Blocks with bf16 matrices, of which one is compiled for all, as a GPU has them."""
    programs: dict[int, Callable[..., Tensor]] = {}
    for parameter in model.blocks.parameters():
        if parameter.ndim == 2:
            parameter.data = parameter.data.bfloat16()

    def open_stack(blocks: nn.ModuleList) -> ApplyBlocks:
        def apply(layers: range, x: Tensor, context: Context) -> Tensor:
            for layer in layers:
                program = programs.setdefault(len(context), compiled(blocks[0]))
                own = {**dict(blocks[layer].named_parameters()), **dict(blocks[layer].named_buffers())}
                x = program(own, x, *context)
            return x

        return apply

    model.open_stack = open_stack
