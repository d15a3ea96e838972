"""The loop over N loop steps, and kinds of it: how the state passes from one step to the next. `LOOPS` lists them.

A kind is one class. It says where a loop step starts, what its blocks get beside the stream, and what it costs.
PyTorch is not imported, see `model.blocks`.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from model.blocks import Shape, part_params
from model.parameter_row import BaseValues, ParameterRow

if TYPE_CHECKING:
    from torch import Tensor

Observer = Callable[[int, "Tensor"], None]
"""Called with n = 0 (after the embedding) … the segments done, and the residual stream (B, T, d_model) there."""

ApplyBlocks = Callable[[range, "Tensor", "tuple[Tensor, ...]"], "Tensor"]
"""Takes layers, the stream (B, T, d_model) and the context of their blocks. Returns the stream behind them."""


class Plain:
    """The first paper's loop: a step starts where the last one ended, h_n = stack(h_{n−1}), and h_0 is the embedding.

    Base of the other kinds, which override what differs.
    """

    parts: ClassVar[dict[str, str]] = {}  # modules of the loop itself, as `model.blocks.PreNorm.parts`
    is_plain_at_one_loop: ClassVar[bool] = True  # with N = 1 it is the same model as `plain`

    def start(self, loop: Any, n: int, embedded: "Tensor", state: "Tensor") -> tuple["Tensor", tuple["Tensor", ...]]:
        """The stream with which loop step n begins, and what its blocks get beside it and the rotary table.

        Args:
            loop: module with the `parts` and ε as `residual_scale`, a scalar tensor.
            n: 1 … N.
            embedded: (B, T, d_model), the embedded tokens.
            state: (B, T, d_model), what the last step left; before the first one the embedded tokens.
        """
        return state, ()

    def end(self, loop: Any, x: "Tensor") -> "Tensor":
        """The state that a loop step leaves, from its stream x (B, T, d_model)."""
        return x

    def parameter_rows(self, base: BaseValues) -> tuple[ParameterRow, ...]:
        """The loop's own rows of the per-tensor table."""
        return ()

    def n_params(self, shape: Shape) -> int:
        """Parameters of the loop itself."""
        return sum(part_params(part, shape) for part in self.parts.values())

    def flops_per_token(self, shape: Shape) -> float:
        """Forward and backward pass of what one loop step does outside its blocks."""
        return 6.0 * self.n_params(shape)

    def activation_bytes(self, shape: Shape, precision: str) -> int:
        """Bytes that one loop step keeps for its backward pass outside its blocks, a token."""
        return 0


class Add(Plain):
    """Additive injection: from the second step on, a step starts at h_{n−1} + ε · e, e being the embedding.

    The first step starts at e, as if the state before it were zero.
    """

    def start(self, loop: Any, n: int, embedded: "Tensor", state: "Tensor") -> tuple["Tensor", tuple["Tensor", ...]]:
        """See `Plain.start`."""
        return (embedded if n == 1 else state.addcmul(embedded, loop.residual_scale)), ()


def apply_blocks(blocks: Sequence[Any], layers: range, x: "Tensor", context: tuple["Tensor", ...]) -> "Tensor":
    """The stream x (B, T, d_model) after the blocks of `layers`, one by one."""
    for layer in layers:
        x = blocks[layer](x, *context)
    return x


LOOPS: dict[str, Plain] = {"plain": Plain(), "add": Add()}


def run_loop(
    kind: Plain,
    loop: Any,
    n_loops: int,
    embedded: "Tensor",
    segments: Sequence[range],
    apply: ApplyBlocks,
    observe: Observer | None,
) -> "Tensor":
    """The residual stream h_N (B, T, d_model) after the last loop step.

    This is the only loop over N and L: eager and compiled models, CPUs and GPUs differ in `apply` alone.

    Args:
        kind: from `LOOPS`.
        loop: module of the kind's parts.
        n_loops: N.
        embedded: (B, T, d_model), the embedded tokens.
        segments: the L layers of one loop step, in parts.
        apply: applies the blocks of one segment.
        observe: is shown the stream after the embedding and after every segment.
    """
    if observe is not None:
        observe(0, embedded)
    state, done = embedded, 0
    for n in range(1, n_loops + 1):
        x, context = kind.start(loop, n, embedded, state)
        for layers in segments:
            x, done = apply(layers, x, context), done + 1
            if observe is not None:
                observe(done, x)
        state = kind.end(loop, x)
    return state
