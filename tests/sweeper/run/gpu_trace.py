"""A step of a training as a GPU makes it, on meta tensors: blocks are cut into passes as torch.compile cuts them."""

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._functorch.aot_autograd import aot_function, make_boxed_func
from torch._functorch.partitioners import min_cut_rematerialization_partition
from torch._inductor.decomposition import select_decomp_table
from torch.fx import GraphModule
from torch.overrides import TorchFunctionMode

from model.gpu.head import PASSES
from model.gpu.weights import use_bf16_copies
from model.loop import ApplyBlocks, Context
from model.loss import _HeadCrossEntropy
from model.optimizer import make_optimizer
from model.transformer import LoopedTransformer
from sweeper.run.base import ModelRun
from sweeper.run.memory import Fit
from sweeper.training.gradients import FlatGradients


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


def mutate_in_place(module: GraphModule) -> None:
    """Let operations change their inputs, which a trace has made copies of. So does torch.compile."""
    graph = module.graph
    for node in graph.find_nodes(op="call_function", target=torch.ops.higher_order.auto_functionalized_v2):
        bases = node.kwargs["_all_bases"]
        with graph.inserting_before(node):
            given = {name: value for name, value in node.kwargs.items() if not name.startswith("_")}
            graph.call_function(node.args[0], (bases[node.kwargs["_total_base_index"]],), given)
        for changed in list(node.users):
            changed.replace_all_uses_with(bases[changed.args[1] - 1])
            graph.erase_node(changed)
        graph.erase_node(node)
    for node in graph.find_nodes(op="call_function", target=torch.ops.aten.copy_.default):
        if node.args[0] is node.args[1]:
            graph.erase_node(node)
    module.recompile()


def compiled(block: nn.Module) -> Callable[..., Tensor]:
    """The block as a function of its tensors, its stream and its context.

    Operations are not fused, so that a pass holds more for a moment than a fused one. What is kept from the forward
    pass for the backward pass is the same.
    """

    def function(tensors: dict[str, Tensor], gradients: dict[str, Tensor], x: Tensor, *context: Tensor) -> Any:
        for name, gradient in gradients.items():
            tensors[name].grad = gradient
        with LikeCuda():
            return torch.func.functional_call(block, tensors, (x, *context))

    def boxed(graph: GraphModule, _: Any) -> Any:
        mutate_in_place(graph)
        return make_boxed_func(graph)

    partition = partial(min_cut_rematerialization_partition, compiler="inductor")
    return aot_function(
        function, fw_compiler=boxed, bw_compiler=boxed, partition_fn=partition, decompositions=select_decomp_table()
    )


Programs = dict[tuple[int, torch.Size], Callable[..., Tensor]]
"""Compiled blocks by what makes another program: how much context a block gets, and the shape of its stream."""


def compile_blocks(model: LoopedTransformer, programs: Programs) -> deque[Tensor]:
    """One compiled block for all blocks of a model, and of other models of its width; `programs` are filled.

    Returns:
        The streams behind the last three blocks of the pass under way.
    """
    recent: deque[Tensor] = deque(maxlen=3)

    def open_stack(blocks: nn.ModuleList) -> ApplyBlocks:
        def apply(layers: range, x: Tensor, context: Context) -> Tensor:
            for layer in layers:
                key = (len(context), x.shape)
                if key not in programs:
                    programs[key] = compiled(blocks[0])
                own = {**dict(blocks[layer].named_parameters()), **dict(blocks[layer].named_buffers())}
                # `data`, because only Dynamo says that they may change between the forward and the backward pass.
                gradients = {name: one.grad.data for name, one in own.items() if one.grad is not None}
                x = programs[key](own, gradients, x, *context)
                recent.append(x)
            return x

        return apply

    model.open_stack = open_stack
    return recent


class Step:
    """One micro-batch on a GPU: bf16 copies, gradients in one buffer, moments, compiled blocks, the head in chunks.

    The pass over a chunk of logits is left out, which a compiler fuses and which works in place. What a trace cannot
    see: the allocator's rounding and gaps, workspaces, and fused elementwise operations, which make fewer tensors.

    Args:
        config: what is trained.
        fit: what a step keeps.
        programs: as of `compile_blocks`.
    """

    def __init__(self, config: ModelRun, fit: Fit, programs: Programs) -> None:
        def loss_of(h: Tensor, norm: nn.Module, head: Tensor, targets: Tensor, cap: Any, _: Any) -> Any:
            passes = PASSES._replace(
                to_gradient_=lambda logits, *_: logits.new_zeros((), dtype=torch.float32), total=head.grad
            )
            return _HeadCrossEntropy.apply(norm(h), head, targets, torch.bfloat16, cap, passes)

        with torch.device("meta"):
            how = {"recompute": fit.recompute, "recompute_layers": fit.recompute_layers}
            self.model = LoopedTransformer(config.model, **how)
            optimizer = make_optimizer(self.model, config.table, config.betas)
            use_bf16_copies(self.model, optimizer)
            self.gradients = FlatGradients(self.model, optimizer)
            self.moments = [torch.empty_like(p) for p in self.model.parameters() for _ in range(2)]
            self.tokens = torch.zeros(fit.micro_batch, config.seq_len, dtype=torch.int64)
        self.model.loss_of = loss_of
        self._recent = compile_blocks(self.model, programs)
        stream = torch.empty(*self.tokens.shape, config.model.d_model, device="meta", requires_grad=True)
        context = (self.model.rotary[:, : config.seq_len],)
        self.model.open_stack(self.model.blocks)(range(1), stream, context)  # compiles, which is no part of a step

    @property
    def tensors(self) -> list[Tensor]:
        """What is there before the passes."""
        own = [*self.model.parameters(), *self.model.buffers()]
        return [*own, *self.moments, self.gradients.buffer]

    def run(self, *, whole: bool = True) -> None:
        """Forward and backward pass; if not `whole`, the latter through two blocks.

        Backward each block frees more than it makes, so that the peak is at the first ones.
        """
        loss = self.model(self.tokens, self.tokens)
        if whole:
            self._recent.clear()
            loss.backward()
        else:
            torch.autograd.grad(loss, self._recent[0])
        self._recent.clear()
