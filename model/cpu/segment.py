"""The looped stack of a CPU run as compiled programs, called from one autograd node.

A block is compiled once, forward and backward, as `model.cpu.rewrites` writes it; every layer, loop step, N and rule
uses the same two programs, because weights, ε and the rotary table are their inputs. `torch.compile` on the module
would go through guards and an autograd node of its own at every application, which at small widths is a quarter of the
step.
"""

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._functorch import config as functorch_config
from torch._inductor import config as inductor_config
from torch._inductor.compile_fx import compile_fx, compile_fx_inner
from torch._inductor.cpu_vec_isa import pick_vec_isa
from torch._inductor.decomposition import select_decomp_table
from torch.autograd.function import once_differentiable
from torch.compiler import config as compiler_config
from torch.func import functional_call
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from model.config import ModelConfig
from model.cpu import matmul
from model.cpu.rewrites import DECOMPOSITIONS, Spelled
from model.transformer import Block, Observer, rotary_table

SHORT = 512  # tokens up to which keeping all scores is faster than the flash kernel, which computes them twice
TOKENS_PER_WIDTH = 8  # tokens in units of d_model from which transposing the weights once a step pays
log = logging.getLogger(__name__)


def compile_parts(traced: GraphModule, inputs: list[Tensor], *, backward: bool) -> list[Callable[..., Any]]:
    """The compiled programs of a graph: its forward pass and, if asked for, the backward pass from its first output.

    Each takes a list of tensors, which it empties, and is called without guards.
    """
    matmul.lower_for_inductor()
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
    return f"{pick_vec_isa()} {hashlib.sha256(Path(matmul.__file__).read_bytes()).hexdigest()}"


class Programs:
    """A block's forward and backward pass for one shape of the residual stream.

    Args:
        block: any block of that shape.
        rotary: its rotary table (2, T, D/2).
        batch: sequences B.
    """

    def __init__(self, block: Block, rotary: Tensor, batch: int) -> None:
        names = [name for name, _ in block.named_parameters()]
        seq_len, d_model = rotary.shape[1], block.attention.out.in_features
        self.n_weights = len(names)
        self._transposes = batch * seq_len >= TOKENS_PER_WIDTH * d_model
        self._masks = [torch.full((seq_len, seq_len), -torch.inf).triu(1)] if seq_len <= SHORT else []
        layer = self.layer([torch.empty_like(weight) for weight in block.parameters()])
        self._x = len(layer) + 1  # its place among the inputs

        def apply(*inputs: Tensor) -> Tensor:
            weights, transposed = inputs[: len(names)], inputs[len(names) : len(layer)]
            scale, x, rotary, *masks = inputs[len(layer) :]
            matrices = [weight for weight in weights if weight.dim() == 2]
            if not transposed and matmul.prefers_onednn(inputs[0]):
                transposed = tuple(weight.mT for weight in matrices)
            state = {**dict(zip(names, weights, strict=True)), "residual_scale": scale}
            with Spelled(masks[0] if masks else None, dict(zip(map(id, matrices), transposed, strict=False))):
                y: Tensor = functional_call(block, state, (x, rotary))
            return y

        inputs = [*layer, block.residual_scale, torch.zeros(batch, seq_len, d_model), rotary, *self._masks]
        traced = make_fx(apply, tracing_mode="fake")(*inputs)
        for i, node in enumerate(traced.graph.find_nodes(op="placeholder")):
            for tensor in (inputs[i], node.meta["val"]):
                tensor.requires_grad_(i < len(names) or i == self._x)
        self._forward, self._backward = compile_parts(traced, inputs, backward=True)

    def layer(self, weights: Sequence[Tensor]) -> list[Tensor]:
        """What the passes take of a layer: its weights, and where that pays its matrices transposed as well."""
        return [*weights, *(weight.mT.contiguous() for weight in weights if self._transposes and weight.dim() == 2)]

    def forward(self, layer: Sequence[Tensor], scale: Tensor, x: Tensor, rotary: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The block's output (B, T, d_model), and what `backward` needs."""
        y, *saved = self._forward([*layer, scale, x, rotary, *self._masks])
        return y, saved

    def backward(self, saved: list[Tensor], grad: Tensor) -> tuple[list[Tensor], Tensor]:
        """Gradients of the weights and of x, from that of y; empties `saved`."""
        saved.append(grad)
        grads = self._backward(saved)
        return list(grads[: self.n_weights]), grads[self._x]


@cache
def programs(d_model: int, n_heads: int, mlp_dim: int, norm_eps: float, batch: int, seq_len: int) -> Programs:
    """The passes of every block of this shape; compiled once in a process."""
    with torch.device("cpu"):
        block = Block(ModelConfig(1, d_model, n_heads, mlp_dim, 1, 1, 1.0, seq_len, norm_eps=norm_eps))
        return Programs(block, rotary_table(seq_len, d_model // n_heads, 1.0), batch)


@dataclass(frozen=True)
class Course:
    """The way of the residual stream through the blocks.

    Attributes:
        segments: for each segment, the layers it applies; loop steps, usually.
        recompute: keep the stream at the start of each segment alone.
        observe: told the stream after each segment.
    """

    segments: Sequence[Sequence[int]]
    recompute: bool
    observe: Observer | None


def programs_for(block: Block, h: Tensor) -> Programs | None:
    """The passes of `block` on a residual stream like h (B, T, d_model); None where it cannot be compiled."""
    batch, seq_len, d_model = h.shape
    heads, mlp_dim = block.attention.n_heads, block.mlp.down.in_features
    try:
        return programs(d_model, heads, mlp_dim, block.attention_norm.eps, batch, seq_len)
    except Exception as error:  # no compiler, no disk, a bug in one of them: all of it costs speed only
        log.warning("cannot compile the block (%s); going on without", str(error).partition("\n")[0])
        return None


def run_stack(passes: Programs, blocks: Sequence[Block], h: Tensor, rotary: Tensor, course: Course) -> Tensor:
    """The residual stream (B, T, d_model) after all segments, differentiable once."""
    weights = [weight for block in blocks for weight in block.parameters()]
    out: Tensor = _Stack.apply(  # type: ignore[no-untyped-call]
        passes, course, torch.is_grad_enabled(), rotary.contiguous(), blocks[0].residual_scale, h, *weights
    )
    return out


class _Stack(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, passes: Programs, course: Course, keep: bool, rotary: Tensor, scale: Tensor, h: Tensor, *flat: Tensor
    ) -> Tensor:
        stack = [passes.layer(flat[i : i + passes.n_weights]) for i in range(0, len(flat), passes.n_weights)]
        kept: list[Any] = []
        for n, layers in enumerate(course.segments, start=1):
            start, saved = h, []
            for layer in layers:
                h, activations = passes.forward(stack[layer], scale, h, rotary)
                if keep and not course.recompute:
                    saved.append(activations)
            if keep:
                kept.append(start if course.recompute else saved)
            if course.observe is not None:
                course.observe(n, h)
        ctx.state = passes, course, rotary, scale, stack, kept
        return h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        passes, course, rotary, scale, stack, kept = ctx.state
        grads: list[list[Tensor] | None] = [None] * len(stack)
        for layers in reversed(course.segments):
            saved = kept.pop()
            if course.recompute:
                h, saved = saved, []
                for layer in layers:
                    h, activations = passes.forward(stack[layer], scale, h, rotary)
                    saved.append(activations)
            for layer in reversed(layers):
                of_weights, grad = passes.backward(saved.pop(), grad)
                total = grads[layer]
                if total is None:
                    grads[layer] = of_weights
                else:
                    torch._foreach_add_(total, of_weights)
        return None, None, None, None, None, grad, *(g for layer in grads if layer is not None for g in layer)
