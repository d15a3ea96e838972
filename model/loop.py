"""The loop over N loop steps, and kinds of it: how the state passes from one step to the next. `LOOPS` lists them.

A kind is one class. It says where a loop step starts, what its blocks get beside the stream, and what it costs.
PyTorch is not imported, see `model.blocks`.

In the formulas e is the embedded tokens, h_n the state that loop step n leaves, x the stream inside a step, n(·) an
RMSNorm without gain, and ε the residual scale. ε multiplies every addition to a recurrent path; each kind says where.
The final norm with its gain stands behind every kind.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from model.blocks import PreNorm, part_params
from model.parameter_row import BaseValues, ParameterRow
from model.parts import Shape

if TYPE_CHECKING:
    from torch import Tensor

Observer = Callable[[int, "Tensor"], None]
"""Called with n = 0 (after the embedding) … the segments done, and the residual stream (B, T, d_model) there."""

Context = tuple["Tensor", ...]
"""What blocks get beside the stream."""

ApplyBlocks = Callable[[range, "Tensor", Context], "Tensor"]
"""Takes layers, the stream (B, T, d_model) and the context of their blocks. Returns the stream behind them."""


class Plain:
    """The first paper's loop: a step starts where the last one ended, h_n = stack(h_{n−1}), and h_0 is the embedding.

    Base of the other kinds, which override what differs.
    """

    parts: ClassVar[dict[str, str]] = {}  # modules of the loop itself, as `model.blocks.PreNorm.parts`
    block_parts: ClassVar[dict[str, str]] = {}  # modules that each block gets from the loop
    at_one_loop: ClassVar[str | None] = "plain"  # the kind that is the same model if N = 1; None for none
    is_one_path: ClassVar[bool] = True  # the residual path of a token runs through all L · N blocks

    def source(self, loop: Any, embedded: "Tensor") -> "Tensor":
        """What loop steps take of the embedded tokens (B, T, d_model); computed once in a forward pass."""
        return embedded

    def start(self, loop: Any, n: int, source: "Tensor", state: "Tensor") -> tuple["Tensor", Context]:
        """The stream with which loop step n begins, and what its blocks get beside it and the rotary table.

        Args:
            loop: module with the `parts` and ε as `residual_scale`, a scalar tensor.
            n: 1 … N.
            source: (B, T, d_model), of `source`.
            state: (B, T, d_model), what the last step left; before the first one the source.
        """
        return state, ()

    def route(self, layers: range, context: Context) -> Iterable[tuple[range, Context]]:
        """Layers of a segment, in parts, each with the context that its blocks get."""
        return ((layers, context),)

    def enter(self, kind: PreNorm, block: Any, x: "Tensor", rotary: "Tensor", *context: "Tensor") -> "Tensor":
        """One block of the given kind on the stream x (B, T, d_model), with what `route` has sent it."""
        return kind.forward(block, x, rotary)

    def end(self, loop: Any, x: "Tensor", source: "Tensor") -> "Tensor":
        """The state that a loop step leaves, from its stream x (B, T, d_model)."""
        return x

    def parameter_rows(self, base: BaseValues) -> tuple[ParameterRow, ...]:
        """The loop's own rows of the per-tensor table."""
        return ()

    def n_params(self, shape: Shape) -> int:
        """Parameters of the loop itself."""
        return sum(part_params(part, shape) for part in self.parts.values())

    def flops_per_token(self, shape: Shape, n_loops: int) -> float:
        """Forward and backward pass of the matrices outside the blocks, in all loop steps together."""
        return 0.0

    def activation_bytes(self, shape: Shape, precision: str) -> int:
        """Bytes that one loop step keeps for its backward pass outside its blocks, a token; its norms aside."""
        return 0

    def compiled_activation_bytes(self, shape: Shape) -> int:
        """The same where blocks are compiled, under bf16 autocast. A norm in front of a block keeps its output."""
        return self.activation_bytes(shape, "bf16") + 2 * shape.d_model * shape.n_layers * len(self.block_parts)

    def n_norms(self, n_layers: int) -> int:
        """Norms of the loop in one loop step."""
        names = (*self.parts.values(), *n_layers * tuple(self.block_parts.values()))
        return names.count("norm_without_gain")


class Add(Plain):
    """Additive injection, h_{n−1} + ε · e from the second step on. ε scales the injected e.

    The first step starts at e, as if the state before it were zero. Parcae's baseline.
    """

    def start(self, loop: Any, n: int, source: "Tensor", state: "Tensor") -> tuple["Tensor", Context]:
        """See `Plain.start`."""
        return (source if n == 1 else state.addcmul(source, loop.residual_scale)), ()


class LT(Plain):
    """The second paper's looped Transformer: the first step starts at n(e), the others at h_{n−1}; h_n = n(x).

    ε scales the branches of the blocks alone. With N = 1 all kinds of the second paper are this one.
    """

    parts: ClassVar[dict[str, str]] = {"norm": "norm_without_gain"}
    at_one_loop: ClassVar[str | None] = "LT"

    def source(self, loop: Any, embedded: "Tensor") -> "Tensor":
        """n(e)."""
        return loop.norm(embedded)  # type: ignore[no-any-return]

    def end(self, loop: Any, x: "Tensor", source: "Tensor") -> "Tensor":
        """n(x)."""
        return loop.norm(x)  # type: ignore[no-any-return]


class LTi(LT):
    """`LT` with injection: from the second step on n(h_{n−1} + ε · e), with the raw e. ε scales the injected e."""

    def source(self, loop: Any, embedded: "Tensor") -> "Tensor":
        """The raw e."""
        return embedded

    def start(self, loop: Any, n: int, source: "Tensor", state: "Tensor") -> tuple["Tensor", Context]:
        """See `Plain.start`."""
        return loop.norm(source if n == 1 else state.addcmul(source, loop.residual_scale)), ()

    def activation_bytes(self, shape: Shape, precision: str) -> int:
        """The state, in fp32."""
        return 4 * shape.d_model


class FLT(LT):
    """Fully Looped Transformer: every step starts at n(e), and every block takes its queries from n(h_{n−1}).

    Keys, values and the MLP read the stream, so the state reaches a loop step through softmax scores alone. Nothing is
    added to a recurrent path, and ε scales the branches of the blocks alone.
    """

    is_one_path: ClassVar[bool] = False

    def start(self, loop: Any, n: int, source: "Tensor", state: "Tensor") -> tuple["Tensor", Context]:
        """See `Plain.start`."""
        return source, (() if n == 1 else (loop.norm(state),))

    def enter(self, kind: PreNorm, block: Any, x: "Tensor", rotary: "Tensor", *context: "Tensor") -> "Tensor":
        """See `Plain.enter`."""
        return kind.forward(block, x, rotary, *context)

    def activation_bytes(self, shape: Shape, precision: str) -> int:
        """The state, in fp32.

        Attention makes queries apart from keys and values, and does not keep them from before their rotation. Under
        autocast a copy of their input makes up for that.
        """
        saved = 0 if precision == "bf16" else 4 * len(self.injected(range(shape.n_layers)))
        return (4 - saved) * shape.d_model

    def injected(self, layers: range) -> range:
        """Those of some layers that take their queries from the state."""
        return layers

    def route(self, layers: range, context: Context) -> Iterable[tuple[range, Context]]:
        """See `Plain.route`."""
        injected = self.injected(layers)
        parts = ((injected, context), (layers[len(injected) :], ()))
        return [(part, given) for part, given in parts if part]


class LTia(FLT):
    """`FLT` of which only block 0 takes its queries from the state."""

    def injected(self, layers: range) -> range:
        """See `FLT.injected`."""
        return layers[: int(layers.start == 0)]


class FLTres(LT):
    """The state is added to the stream before every block: x ← n(x + ε · h_{n−1}). Every step starts at n(e).

    ε scales the added state, beside the branches of the blocks. No residual path runs across blocks.
    """

    block_parts: ClassVar[dict[str, str]] = {"state_norm": "norm_without_gain"}
    is_one_path: ClassVar[bool] = False

    def start(self, loop: Any, n: int, source: "Tensor", state: "Tensor") -> tuple["Tensor", Context]:
        """See `Plain.start`."""
        return source, (() if n == 1 else (state,))

    def enter(self, kind: PreNorm, block: Any, x: "Tensor", rotary: "Tensor", *context: "Tensor") -> "Tensor":
        """See `Plain.enter`."""
        for state in context:
            x = block.state_norm(x.addcmul(state, block.residual_scale))
        return kind.forward(block, x, rotary)

    def activation_bytes(self, shape: Shape, precision: str) -> int:
        """The state, in fp32."""
        return 4 * shape.d_model


class Parcae(Plain):
    """Parcae's injection: from the second step on e^(−ΔA) ⊙ h_{n−1} + ε · Δ ⊙ B e. ε scales the injected B e.

    Δ and A are positive and one number a channel, B is a matrix, and all are learned without decay. At first they give
    0.447 h + 0.805 e. The first step starts at Δ ⊙ B e, as if the state before it were zero. N is fixed, where the
    paper draws it.
    """

    parts: ClassVar[dict[str, str]] = {"injection": "diagonal_injection"}
    at_one_loop: ClassVar[str | None] = None

    def source(self, loop: Any, embedded: "Tensor") -> "Tensor":
        """Δ ⊙ B e."""
        return loop.injection.input(embedded)  # type: ignore[no-any-return]

    def start(self, loop: Any, n: int, source: "Tensor", state: "Tensor") -> tuple["Tensor", Context]:
        """See `Plain.start`."""
        if n == 1:
            return source, ()
        return (state * loop.injection.decay()).addcmul(source, loop.residual_scale), ()

    def parameter_rows(self, base: BaseValues) -> tuple[ParameterRow, ...]:
        """At first A = 1, softplus gives Δ = 0.805, and B is the identity."""
        return (
            base.gain("loop_log_rate", r"loop\.injection\.log_rate", start=0.0),
            base.gain("loop_step", r"loop\.injection\.step", start=0.2126),
            base.identity("loop_input", r"loop\.injection\.weight"),
        )

    def flops_per_token(self, shape: Shape, n_loops: int) -> float:
        """6 a parameter of B, which is applied once."""
        return 6.0 * shape.d_model**2

    def activation_bytes(self, shape: Shape, precision: str) -> int:
        """The state, in fp32."""
        return 4 * shape.d_model


class Boundary(Plain):
    """A norm between steps: every step starts at n(h_{n−1}) + ε · e, and so does what the final norm reads.

    ε scales the injected e. The α of the source (arXiv 2609.19107) is 1 here: its text was not at hand.
    """

    parts: ClassVar[dict[str, str]] = {"norm": "norm_without_gain"}
    at_one_loop: ClassVar[str | None] = None

    def start(self, loop: Any, n: int, source: "Tensor", state: "Tensor") -> tuple["Tensor", Context]:
        """See `Plain.start`."""
        return (self.end(loop, state, source) if n == 1 else state), ()

    def end(self, loop: Any, x: "Tensor", source: "Tensor") -> "Tensor":
        """n(x) + ε · e."""
        return loop.norm(x).addcmul(source, loop.residual_scale)  # type: ignore[no-any-return]

    def activation_bytes(self, shape: Shape, precision: str) -> int:
        """The stream behind the norm, in fp32."""
        return 4 * shape.d_model


LOOPS: dict[str, Plain] = {
    "plain": Plain(),
    "add": Add(),
    "LT": LT(),
    "LT_i": LTi(),
    "LT_ia": LTia(),
    "FLT": FLT(),
    "FLT_res": FLTres(),
    "parcae": Parcae(),
    "boundary": Boundary(),
}


def apply_blocks(blocks: Sequence[Any], layers: range, x: "Tensor", context: Context) -> "Tensor":
    """The stream x (B, T, d_model) after the blocks of `layers`, one by one."""
    for layer in layers:
        x = blocks[layer](x, *context)
    return x


def loop_states(
    kind: Plain,
    loop: Any,
    n_loops: int,
    embedded: "Tensor",
    segments: Sequence[range],
    apply: ApplyBlocks,
    observe: Observer | None,
) -> Iterator["Tensor"]:
    """The state h_n (B, T, d_model) after each loop step n = 1 … N.

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
    state = source = kind.source(loop, embedded)
    done = 0
    for n in range(1, n_loops + 1):
        x, context = kind.start(loop, n, source, state)
        for segment in segments:
            for layers, given in kind.route(segment, context):
                x = apply(layers, x, given)
            done += 1
            if observe is not None:
                observe(done, x)
        state = kind.end(loop, x, source)
        yield state
