"""The blocks of one segment as compiled programs, called from one autograd node.

A block is compiled once, forward and backward, as `model.cpu.rewrites` writes it. Every layer, loop step, N and rule
uses the same two programs, because weights, ε and the rotary table are their inputs. `torch.compile` on the module
would go through guards and an autograd node of its own at every application, which at small widths is a quarter of the
step.
"""

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch._functorch import config as functorch_config
from torch._inductor import config as inductor_config
from torch._inductor.compile_fx import compile_fx, compile_fx_inner
from torch._inductor.cpu_vec_isa import pick_vec_isa
from torch._inductor.decomposition import select_decomp_table
from torch.autograd.function import once_differentiable
from torch.autograd.graph import saved_tensors_hooks
from torch.compiler import config as compiler_config
from torch.func import functional_call
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from model import matmul
from model.cpu import lowering
from model.cpu.rewrites import DECOMPOSITIONS, CpuRewrites
from model.loop import apply_blocks

SHORT = 512  # tokens up to which keeping all scores is faster than the flash kernel, which computes them twice
TOKENS_PER_WIDTH = 8  # tokens in units of d_model from which transposing the weights once a step pays
log = logging.getLogger(__name__)


def compile_parts(traced: GraphModule, inputs: list[Tensor], *, backward: bool) -> list[Callable[..., Any]]:
    """The compiled programs of a graph: its forward pass and, if asked for, the backward pass from its first output.

    Each takes a list of tensors, which it empties, and is called without guards.
    """
    lowering.register()
    made: list[Any] = []

    def keep(*args: Any, **kwargs: Any) -> Any:
        # Programs are kept on disk under a key, of which `decompositions` cannot be part; they are applied already.
        made.append(compile_fx_inner(*args, **{**kwargs, "get_decomp_fn": select_decomp_table}))
        return made[-1]

    with (
        # Kernels are called from C++ too, and the compiler is not tried on AVX first: one for C++ 20 knows it.
        inductor_config.patch({"cpp_wrapper": True, "cpp.vec_isa_ok": True}),
        functorch_config.patch(enable_autograd_cache=False),  # it would hand out no parts
        torch.set_grad_enabled(backward),
        compiler_config.patch(cache_key_tag=_tag()),  # type: ignore[attr-defined]
    ):
        decompositions = {**select_decomp_table(), **DECOMPOSITIONS}
        compiled: Any = compile_fx(traced, inputs, inner_compile=keep, decompositions=decompositions)
        output = compiled(*inputs)
        if backward:
            output.sum().backward()
    return [part.current_callable for part in made]


def _tag() -> str:
    """What a program on disk depends on that torch leaves out of its key: the vector instructions, and our lowering."""
    return f"{pick_vec_isa()} {hashlib.sha256(Path(lowering.__file__).read_bytes()).hexdigest()}"


class Programs:
    """Forward and backward pass of a block for one shape of its inputs.

    Args:
        block: a module that maps a stream and its context to a stream.
        x: (B, T, d_model), a residual stream.
        context: what the block gets beside it.

    Raises:
        Exception: whatever tracing or compiling raises.
    """

    def __init__(self, block: nn.Module, x: Tensor, context: Sequence[Tensor]) -> None:
        layout = layout_of(block)
        names, (batch, seq_len, d_model) = layout.names, x.shape
        self.n_weights = len(layout.parameters)
        self._transposes = batch * seq_len >= TOKENS_PER_WIDTH * d_model
        self._masks = [torch.full((seq_len, seq_len), -torch.inf).triu(1)] if seq_len <= SHORT else []
        layer = [torch.empty_like(tensor) for tensor in self.layer(layout.parameters, layout.buffers)]
        stream = [torch.zeros_like(tensor) for tensor in (x, *context)]
        self._x, self._end = len(layer), len(layer) + len(stream)  # where the stream is among the inputs

        def apply(*inputs: Tensor) -> Tensor:
            values, transposed = inputs[: len(names)], inputs[len(names) : self._x]
            matrices = [weight for weight in values[: self.n_weights] if weight.dim() == 2]
            if not transposed and matmul.prefers_onednn(x):
                transposed = tuple(weight.mT for weight in matrices)
            mask = inputs[self._end] if self._masks else None
            with CpuRewrites(mask, dict(zip(map(id, matrices), transposed, strict=False))):
                y: Tensor = functional_call(block, dict(zip(names, values, strict=True)), inputs[self._x : self._end])
            return y

        inputs = [*layer, *stream, *self._masks]
        needs_grad = [i < self.n_weights or i == self._x for i in range(len(inputs))]
        needs_grad[self._x + 1 : self._end] = [tensor.requires_grad for tensor in context]
        traced = make_fx(apply, tracing_mode="fake")(*inputs)
        for i, node in enumerate(traced.graph.find_nodes(op="placeholder")):
            for tensor in (inputs[i], node.meta["val"]):
                tensor.requires_grad_(needs_grad[i])
        self._forward, self._backward = compile_parts(traced, inputs, backward=True)

    def layer(self, weights: Sequence[Tensor], buffers: Sequence[Tensor]) -> list[Tensor]:
        """What the passes take of a block: parameters, buffers, and where that pays its matrices transposed."""
        matrices = [weight for weight in weights if weight.dim() == 2] if self._transposes else []
        return [*weights, *buffers, *(weight.detach().mT.contiguous() for weight in matrices)]

    def forward(self, layer: Sequence[Tensor], x: Tensor, context: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The block's output (B, T, d_model), and what `backward` needs."""
        y, *saved = self._forward([*layer, x, *context, *self._masks])
        return y, saved

    def backward(self, saved: list[Tensor], grad: Tensor) -> tuple[list[Tensor], Tensor, list[Tensor | None]]:
        """Gradients of the weights, of x and of the context, from that of the output; empties `saved`."""
        saved.append(grad)
        grads = self._backward(saved)
        return list(grads[: self.n_weights]), grads[self._x], list(grads[self._x + 1 : self._end])


class Layout:
    """What a block is made of, looked up once: its programs are shared by blocks with the same `key`."""

    def __init__(self, block: nn.Module) -> None:
        modules = dict(block.named_modules())
        self._parameters = [(module._parameters, name) for module in modules.values() for name in module._parameters]
        self._buffers = [(module._buffers, name) for module in modules.values() for name in module._buffers]
        self.names = [name for name, _ in (*block.named_parameters(), *block.named_buffers())]
        tensors = [*self.parameters, *self.buffers]
        self.key = (
            *((name, type(module), *_plain_values(module)) for name, module in modules.items()),
            *((name, tensor.shape, tensor.dtype) for name, tensor in zip(self.names, tensors, strict=True)),
        )

    @property
    def parameters(self) -> list[Tensor]:
        """The block's parameters, in their own order."""
        return [tensor for owner, name in self._parameters if (tensor := owner[name]) is not None]

    @property
    def buffers(self) -> list[Tensor]:
        """The block's buffers, in their own order."""
        return [tensor for owner, name in self._buffers if (tensor := owner[name]) is not None]


def _plain_values(module: nn.Module) -> list[Any]:
    """What a forward pass may read from `self` beside tensors and modules; of an object, such as a kind, its type."""
    plain = (bool, int, float, str, type(None))
    return [
        (name, value if isinstance(value, plain) else type(value))
        for name, value in vars(module).items()
        if not name.startswith("_")
    ]


_layouts: WeakKeyDictionary[nn.Module, Layout] = WeakKeyDictionary()
_programs: dict[tuple[Any, ...], Programs | None] = {}  # compiled once in a process


def layout_of(block: nn.Module) -> Layout:
    """The block's layout."""
    if block not in _layouts:
        _layouts[block] = Layout(block)
    return _layouts[block]


def programs_for(block: nn.Module, x: Tensor, context: Sequence[Tensor]) -> Programs | None:
    """The programs of a block on inputs of these shapes; None where it cannot be compiled, after one warning."""
    kind = layout_of(block).key
    key = (kind, *_signature(x, context))
    if key not in _programs:
        try:
            # Nothing that is saved while compiling concerns whoever drops activations and computes them again.
            with torch.device("cpu"), saved_tensors_hooks(lambda saved: saved, lambda saved: saved):
                _programs[key] = Programs(block, x, context)
        except Exception as error:  # no compiler, no disk, code that cannot be traced: all of it costs speed only
            if not any(other[0] == kind and failed is None for other, failed in _programs.items()):
                log.warning("cannot compile the block (%s); running it uncompiled", str(error).partition("\n")[0])
            _programs[key] = None
    return _programs[key]


def on_cpu_in_fp32(x: Tensor) -> bool:
    """Whether the programs of blocks and head are for streams like x."""
    return x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")


def _signature(x: Tensor, context: Sequence[Tensor]) -> tuple[Any, ...]:
    return (x.shape, *((tensor.shape, tensor.dtype, tensor.requires_grad) for tensor in context))


class _Gradients:
    """Gradients of the weights of every block, summed over the segments of one pass.

    Apart from `CompiledStack`, so that nothing of a pass refers to itself and its memory is free when the pass is over.
    """

    def __init__(self, weights: Sequence[Sequence[Tensor]]) -> None:
        self._counts = [len(of_block) for of_block in weights]
        self._sums: dict[int, list[Tensor]] = {}

    def add(self, layer: int, grads: list[Tensor]) -> None:
        """Add gradients of the weights of a block."""
        if layer in self._sums:
            torch._foreach_add_(self._sums[layer], grads)
        else:
            self._sums[layer] = grads

    def take(self) -> Iterator[Tensor | None]:
        """The sums, weight by weight, and start anew; None for the weights of blocks that were not applied."""
        sums, self._sums = self._sums, {}
        return chain.from_iterable(sums.get(i, [None] * count) for i, count in enumerate(self._counts))


class CompiledStack:
    """Applies the blocks of a model, segment by segment, in one forward pass; made anew for each pass.

    A block is applied by its programs where the stream is fp32 on a CPU and not under autocast, and eagerly elsewhere.
    Gradients of the weights are summed over all segments, and handed to autograd once.

    Args:
        blocks: the L blocks.
    """

    def __init__(self, blocks: nn.ModuleList) -> None:
        self.blocks = list(blocks)
        self.weights = [layout_of(block).parameters for block in self.blocks]
        self._gradients = _Gradients(self.weights)
        self._node: Tensor | None = None  # stands for all weights in autograd's graph
        self._programs: dict[tuple[Any, ...], list[tuple[Programs, list[Tensor]]] | None] = {}  # by shapes

    def __call__(self, layers: range, x: Tensor, context: Sequence[Tensor]) -> Tensor:
        """The stream (B, T, d_model) after the blocks of `layers`."""
        x, *context = (tensor.contiguous() for tensor in (x, *context))  # programs are made for one order in memory
        programs = self._programs_for(x, context)
        if programs is None:
            return apply_blocks(self.blocks, layers, x, tuple(context))
        if self._node is None:
            self._node = _Weights.apply(self._gradients, *chain.from_iterable(self.weights))  # type: ignore[no-untyped-call]
        steps = [(layer, *programs[layer]) for layer in layers]
        out: Tensor = _Segment.apply(self._gradients, steps, self._node, x, *context)  # type: ignore[no-untyped-call]
        return out

    def _programs_for(self, x: Tensor, context: Sequence[Tensor]) -> list[tuple[Programs, list[Tensor]]] | None:
        """The programs of every block with what they take of it; None unless all of them can be used."""
        if not on_cpu_in_fp32(x):
            return None
        signature = _signature(x, context)
        if signature not in self._programs:
            found = []
            for block, weights in zip(self.blocks, self.weights, strict=True):
                programs = programs_for(block, x, context)
                if programs is not None:
                    found.append((programs, programs.layer(weights, layout_of(block).buffers)))
            self._programs[signature] = found if len(found) == len(self.blocks) else None
        return self._programs[signature]


class _Weights(torch.autograd.Function):
    """The weights of all blocks as one node, which autograd visits after all segments that use it."""

    @staticmethod
    def forward(ctx: Any, gradients: _Gradients, *weights: Tensor) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.gradients = gradients
        return torch.empty(0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _: Tensor | None) -> tuple[Tensor | None, ...]:
        return None, *ctx.gradients.take()


class _Segment(torch.autograd.Function):
    """Some blocks, one after another."""

    @staticmethod
    def forward(
        ctx: Any,
        gradients: _Gradients,
        steps: list[tuple[int, Programs, list[Tensor]]],
        _: Tensor,
        x: Tensor,
        *context: Tensor,
    ) -> Tensor:
        kept: list[list[Tensor]] = []
        for _number, programs, layer in steps:
            x, saved = programs.forward(layer, x, context)
            kept.append(saved)
        ctx.gradients, ctx.steps, ctx.n_context = gradients, steps, len(context)
        # Saved tensors can be dropped and computed again, attributes can be freed block by block.
        ctx.is_dropped = torch._C._autograd._top_saved_tensors_default_hooks(True) is not None
        if ctx.is_dropped:
            ctx.save_for_backward(*chain.from_iterable(kept))
            ctx.counts = [len(saved) for saved in kept]
        else:
            ctx.kept = kept
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        grad = grad.contiguous()
        if ctx.is_dropped:
            tensors = iter(ctx.saved_tensors)
            kept = [list(islice(tensors, count)) for count in ctx.counts]
        else:
            kept, ctx.kept = ctx.kept, None
        of_context: list[Tensor | None] = [None] * ctx.n_context
        for number, programs, _ in reversed(ctx.steps):
            of_weights, grad, found = programs.backward(kept.pop(), grad)
            ctx.gradients.add(number, of_weights)
            of_context = [_sum(total, one) for total, one in zip(of_context, found, strict=True)]
        return None, None, None, grad, *of_context


def _sum(total: Tensor | None, grad: Tensor | None) -> Tensor | None:
    return grad if total is None or grad is None else total + grad
