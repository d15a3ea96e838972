"""A looped Transformer for Hugging Face `transformers`, in one file.

`loopsweep export --model` wrote this file from the model of loopsweep. Load the folder that it lies in with

    AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)               # N as in training
    AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, n_loops=16)   # other loops at test time

The residual scale is that of training whatever `n_loops` is. There is no cache of keys and values.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint
from transformers import GenerationMixin, PreTrainedModel, PretrainedConfig
from transformers.modeling_outputs import CausalLMOutput


def neutral(value: Any) -> Any:
    """A dataclass field with a default that changes nothing: a run with it is the run from before the field existed.

    Fields that are added to a run's configuration are declared so. A field at its neutral value is left out of the
    run's record and of its identity, so a new choice changes no id.
    """
    return field(default=value, metadata={"neutral": True})


class Llama:
    """The first paper's parts: norms with gains, rotary attention, SwiGLU, a head tied to the embedding.

    Base of the other sets, which override what differs.
    """

    stand_ins: ClassVar[dict[str, str]] = {}  # parts of `model.layers.PARTS` in place of those that a kind names
    has_tied_head: ClassVar[bool] = True
    logit_cap: ClassVar[float | None] = None  # c of c · tanh(logits / c), if there is one

    def name(self, part: str) -> str:
        """The part of `model.layers.PARTS` that is made where a kind names `part`."""
        return self.stand_ins.get(part, part)


class Nanochat(Llama):
    """The second paper's parts (arXiv 2605.18797, after nanochat).

    No norm has a gain. Queries and keys are normed after their rotation. The MLP is down(relu(up(x))²). The head has a
    matrix of its own, and its logits are capped: 15 · tanh(logits / 15), in fp32.

    At first the embedding is N(0, 1) and the head N(0, 0.001²). Queries, keys, values and `up` are uniform with the
    standard deviation σ0, which is 1/√d there. Both output projections are 0, so that every loop step of the second
    paper's kinds leaves the h = n(e) that it starts with.
    """

    stand_ins: ClassVar[dict[str, str]] = {
        "norm": "norm_without_gain",
        "attention": "qk_norm_attention",
        "swiglu": "relu_squared",
    }
    has_tied_head: ClassVar[bool] = False
    logit_cap: ClassVar[float | None] = 15.0


PART_SETS: dict[str, Llama] = {"llama": Llama(), "nanochat": Nanochat()}


class PreNorm:
    """The first paper's block, Llama's: x ← x + ε · Attn(n(x)), then x ← x + ε · MLP(n(x)).

    Base of the other kinds, which override what differs.
    """

    parts: ClassVar[dict[str, str]] = {  # in the order of initialisation
        "attention_norm": "norm",
        "attention": "attention",
        "mlp_norm": "norm",
        "mlp": "swiglu",
    }
    needs_one_path: ClassVar[bool] = False  # made for a residual path through all L · N blocks

    def forward(self, block: Any, x: "Tensor", rotary: "Tensor", *queries: "Tensor") -> "Tensor":
        """The stream (B, T, d_model) one block later.

        Args:
            block: module with the `parts` and ε as `residual_scale`, a scalar tensor.
            x: (B, T, d_model).
            rotary: (2, T, head_dim / 2), see `model.layers.rotary_table`.
            queries: (B, T, d_model), what attention makes its queries from, if that is not what it makes its keys from.
        """
        x = x.addcmul(block.attention(block.attention_norm(x), rotary, *queries), block.residual_scale)
        return x.addcmul(block.mlp(block.mlp_norm(x)), block.residual_scale)

    def scalars(self, applications: int) -> dict[str, float]:
        """Numbers that the kind computes with beside ε, by name; they become scalar tensors of the block.

        Args:
            applications: L · N, blocks that a token passes through.
        """
        return {}


class PostNorm(PreNorm):
    """The norm stands behind each sum: x ← n(x + ε · Attn(x)), then x ← n(x + ε · MLP(x)).

    The first paper's stated future work. Norms and matrices are those of `PreNorm`.
    """

    def forward(self, block: Any, x: "Tensor", rotary: "Tensor", *queries: "Tensor") -> "Tensor":
        """See `PreNorm.forward`."""
        x = block.attention_norm(x.addcmul(block.attention(x, rotary, *queries), block.residual_scale))
        return block.mlp_norm(x.addcmul(block.mlp(x), block.residual_scale))  # type: ignore[no-any-return]


class DeepNorm(PostNorm):
    """`PostNorm` with a scaled skip: x ← n(α x + ε · f(x)), α = (2M)^¼ (arXiv 2203.00555).

    Values, attention's output and the MLP start smaller, by β = (8M)^(−¼). M is L · N, the blocks that a token passes
    through, not L.
    """

    exponent: ClassVar[float] = 0.25
    needs_one_path: ClassVar[bool] = True

    def forward(self, block: Any, x: "Tensor", rotary: "Tensor", *queries: "Tensor") -> "Tensor":
        """See `PreNorm.forward`."""
        branch = block.attention(x, rotary, *queries)
        x = block.attention_norm((x * block.skip_scale).addcmul(branch, block.residual_scale))
        return block.mlp_norm((x * block.skip_scale).addcmul(block.mlp(x), block.residual_scale))  # type: ignore[no-any-return]

    def scalars(self, applications: int) -> dict[str, float]:
        """α, as `skip_scale`."""
        return {"skip_scale": float((2 * applications) ** self.exponent)}


class DeepLoop(DeepNorm):
    """`DeepNorm` with α = (2 L N)^½ and β = (8 L N)^(−½), made for weights that are visited N times (2607.13491)."""

    exponent: ClassVar[float] = 0.5


class Sandwich(PreNorm):
    """A norm on both sides of a branch: x ← x + ε · n₂(f(n₁(x))), as in Ouro.

    Ouro also norms the state after every pass; `loop=LT` does that without a gain.
    """

    parts: ClassVar[dict[str, str]] = {
        "attention_norm": "norm",
        "attention": "attention",
        "attention_out_norm": "norm",
        "mlp_norm": "norm",
        "mlp": "swiglu",
        "mlp_out_norm": "norm",
    }

    def forward(self, block: Any, x: "Tensor", rotary: "Tensor", *queries: "Tensor") -> "Tensor":
        """See `PreNorm.forward`."""
        branch = block.attention_out_norm(block.attention(block.attention_norm(x), rotary, *queries))
        x = x.addcmul(branch, block.residual_scale)
        return x.addcmul(block.mlp_out_norm(block.mlp(block.mlp_norm(x))), block.residual_scale)


class ReZero(PreNorm):
    """No norm, but a learned gate: x ← x + ε · a · f(x), a = 0 at first (arXiv 2003.04887).

    Both branches of a block share its a, and so do all loop steps.
    """

    parts: ClassVar[dict[str, str]] = {"attention": "attention", "mlp": "swiglu", "gate": "gate"}

    def forward(self, block: Any, x: "Tensor", rotary: "Tensor", *queries: "Tensor") -> "Tensor":
        """See `PreNorm.forward`."""
        scale = block.residual_scale * block.gate.weight
        x = x.addcmul(block.attention(x, rotary, *queries), scale)
        return x.addcmul(block.mlp(x), scale)


BLOCKS: dict[str, PreNorm] = {
    "pre_norm": PreNorm(),
    "post_norm": PostNorm(),
    "deepnorm": DeepNorm(),
    "deeploop": DeepLoop(),
    "sandwich": Sandwich(),
    "rezero": ReZero(),
}


Observer = Callable[[int, "Tensor"], None]


Context = tuple["Tensor", ...]


ApplyBlocks = Callable[[range, "Tensor", Context], "Tensor"]


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


@dataclass(frozen=True)
class ModelConfig:
    """Everything the forward pass depends on.

    The residual scale is a number here: which rule produced it (`model.scaling`) is not the model's concern.

    Attributes:
        vocab_size: rows of the token embedding and of the head, which may be one tensor.
        d_model: width of the residual stream.
        n_heads: attention heads; the head dimension is d_model / n_heads and must be even (rotary pairs).
        mlp_dim: hidden width of the MLP.
        n_layers: unique blocks L in the stack.
        n_loops: times N the whole stack is applied.
        residual_scale: factor ε on every residual branch.
        max_seq_len: longest sequence the rotary table covers, in tokens.
        rope_theta: base of the rotary frequencies.
        norm_eps: added to the mean square in every RMSNorm.
        loop: how the state passes from one loop step to the next, a name in `model.loop.LOOPS`.
        block: where a block has its norms, a name in `model.blocks.BLOCKS`.
        parts: what norms, attention, MLP and head are, a name in `model.parts.PART_SETS`.

    Raises:
        ValueError: for a shape that cannot be built, and for kinds that do not go together; the message names the
            field.
    """

    vocab_size: int
    d_model: int
    n_heads: int
    mlp_dim: int
    n_layers: int
    n_loops: int
    residual_scale: float = 1.0
    max_seq_len: int = 2048
    rope_theta: float = 500_000.0
    norm_eps: float = 1e-5
    loop: str = neutral("plain")
    block: str = neutral("pre_norm")
    parts: str = neutral("llama")

    def __post_init__(self) -> None:
        for name in ("vocab_size", "d_model", "n_heads", "mlp_dim", "n_layers", "n_loops", "max_seq_len"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.d_model % self.n_heads:
            raise ValueError(f"d_model={self.d_model} is not divisible by n_heads={self.n_heads}")
        if self.head_dim % 2:
            raise ValueError(
                f"head dimension d_model/n_heads={self.head_dim} is odd; rotary positions need an even one"
            )
        if not self.residual_scale > 0:
            raise ValueError(f"residual_scale={self.residual_scale} must be positive")
        for name, registry in (("loop", LOOPS), ("block", BLOCKS), ("parts", PART_SETS)):
            if getattr(self, name) not in registry:
                raise ValueError(f"{name}={getattr(self, name)} is unknown; allowed: {', '.join(registry)}")
        if BLOCKS[self.block].needs_one_path and not LOOPS[self.loop].is_one_path:
            fitting = ", ".join(name for name, kind in BLOCKS.items() if not kind.needs_one_path)
            raise ValueError(
                f"block={self.block} scales for one residual path through all L * N blocks, but loop={self.loop} "
                f"starts a new path in every loop step; use one of {fitting}"
            )

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.d_model // self.n_heads


class RMSNorm(nn.Module):
    """x / rms(x) · gain over the last dimension."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """(…, D) → (…, D)."""
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


class _Normed(torch.autograd.Function):
    """x / rms(x). torch derives its backward pass from single operations, which takes twice as long on a CPU."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> Tensor:
        y, inverse_rms = torch.ops.aten._fused_rms_norm(x, x.shape[-1:], None, eps)
        ctx.save_for_backward(y, inverse_rms)
        return y  # type: ignore[no-any-return]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        y, inverse_rms = ctx.saved_tensors
        along = (grad * y).mean(-1, keepdim=True)
        return grad.addcmul(y, along, value=-1).mul_(inverse_rms), None


class RMSNormWithoutGain(nn.Module):
    """x / rms(x) over the last dimension."""

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(…, D) → (…, D)."""
        return _Normed.apply(x, self.eps)  # type: ignore[no-any-return, no-untyped-call]


def rotary_table(seq_len: int, head_dim: int, theta: float) -> Tensor:
    """Cosines and sines of the rotary angles: (2, seq_len, head_dim / 2), fp32."""
    frequency = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    angle = torch.outer(torch.arange(seq_len, dtype=torch.float32), frequency)
    return torch.stack((angle.cos(), angle.sin()))


def rotate(x: Tensor, rotary: Tensor) -> Tensor:
    """Rotate the pairs (x_i, x_{i + D/2}) of x (..., T, D) by the table's angles (2, T, D/2)."""
    cos, sin = rotary.to(x.dtype)
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


class Attention(nn.Module):
    """Causal self-attention; query, key and value projections are one matrix."""

    fused: ClassVar[dict[str, int]] = {"qkv": 3}  # matrices that stand under each other in one parameter

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.n_heads = config.n_heads
        self.qkv = nn.Linear(config.d_model, 3 * config.d_model, bias=False)
        self.out = nn.Linear(config.d_model, config.d_model, bias=False)

    def forward(self, x: Tensor, rotary: Tensor, queries: Tensor | None = None) -> Tensor:
        """(B, T, d_model) → (B, T, d_model). Queries are made from `queries`, of the same shape, if that is given."""
        batch, seq_len, d_model = x.shape
        if queries is None:
            parts = self.qkv(x).split(d_model, dim=-1)
        else:
            weight = self.qkv.weight
            parts = (F.linear(queries, weight[:d_model]), *F.linear(x, weight[d_model:]).chunk(2, dim=-1))
        q, k, v = (part.view(batch, seq_len, self.n_heads, -1).transpose(1, 2) for part in parts)  # (B, H, T, D)
        q, k = self.placed(q, rotary), self.placed(k, rotary)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)  # (B, H, T, D)
        out: Tensor = self.out(y.transpose(1, 2).reshape(batch, seq_len, d_model))
        return out

    def placed(self, x: Tensor, rotary: Tensor) -> Tensor:
        """Queries or keys (B, H, T, D) with their positions, as scores are made from them."""
        return rotate(x, rotary)


class QKNormAttention(Attention):
    """Attention of which queries and keys are RMS-normed, head by head, after their rotation."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.norm = RMSNormWithoutGain(config.norm_eps)

    def placed(self, x: Tensor, rotary: Tensor) -> Tensor:
        """See `Attention.placed`."""
        out: Tensor = self.norm(rotate(x, rotary))
        return out


class SwiGLU(nn.Module):
    """down(silu(gate(x)) · up(x)); gate and up are one matrix."""

    fused: ClassVar[dict[str, int]] = {"gate_up": 2}

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_up = nn.Linear(config.d_model, 2 * config.mlp_dim, bias=False)
        self.down = nn.Linear(config.mlp_dim, config.d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, d_model) → (B, T, d_model)."""
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        out: Tensor = self.down(F.silu(gate) * up)
        return out


class ReluSquared(nn.Module):
    """down(relu(up(x))²)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.d_model, config.mlp_dim, bias=False)
        self.down = nn.Linear(config.mlp_dim, config.d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, d_model) → (B, T, d_model)."""
        out: Tensor = self.down(F.relu(self.up(x)).square())
        return out


class Gate(nn.Module):
    """One learned number."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))


class DiagonalInjection(nn.Module):
    """Parcae's A, Δ and B: the state decays by e^(−ΔA), the input is Δ ⊙ B e. Δ and A are one number a channel."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.log_rate = nn.Parameter(torch.zeros(d_model))  # ln A
        self.step = nn.Parameter(torch.zeros(d_model))  # softplus of it is Δ
        self.weight = nn.Parameter(torch.eye(d_model))  # B

    def decay(self) -> Tensor:
        """e^(−ΔA), (d_model,)."""
        return (-F.softplus(self.step) * self.log_rate.exp()).exp()

    def input(self, embedded: Tensor) -> Tensor:
        """Δ ⊙ B e, (B, T, d_model)."""
        return F.softplus(self.step) * F.linear(embedded, self.weight)


PARTS: dict[str, Callable[[ModelConfig], nn.Module]] = {
    "norm": lambda config: RMSNorm(config.d_model, config.norm_eps),
    "norm_without_gain": lambda config: RMSNormWithoutGain(config.norm_eps),
    "attention": Attention,
    "qk_norm_attention": QKNormAttention,
    "swiglu": SwiGLU,
    "relu_squared": ReluSquared,
    "gate": lambda config: Gate(),
    "diagonal_injection": lambda config: DiagonalInjection(config.d_model),
}


def capped(logits: Tensor, cap: float | None) -> Tensor:
    """cap · tanh(logits / cap) in fp32, of logits (…, V); without a cap the logits."""
    return logits if cap is None else cap * torch.tanh(logits.float() / cap)


FinalNorm = RMSNorm | RMSNormWithoutGain


class _Parts(nn.Module):
    """The parts of a kind as modules by name, and its numbers as scalar tensors, ε among them."""

    def __init__(self, parts: dict[str, str], config: ModelConfig, scalars: dict[str, float]) -> None:
        super().__init__()
        # Tensors, so that one compiled block serves every loop count and rule.
        self.residual_scale: Tensor
        for name, value in {"residual_scale": config.residual_scale, **scalars}.items():
            self.register_buffer(name, torch.tensor(value), persistent=False)
        for name, part in parts.items():
            self.add_module(name, PARTS[PART_SETS[config.parts].name(part)](config))


class Block(_Parts):
    """One block of the kind `config.block`, as the kind `config.loop` uses it."""

    def __init__(self, config: ModelConfig) -> None:
        kind, loop_kind = BLOCKS[config.block], LOOPS[config.loop]
        scalars = kind.scalars(config.n_layers * config.n_loops)
        super().__init__({**kind.parts, **loop_kind.block_parts}, config, scalars)
        self.kind, self.loop_kind = kind, loop_kind

    def forward(self, x: Tensor, *context: Tensor) -> Tensor:
        """The residual stream (B, T, d_model) one block later; `context` begins with the rotary table."""
        return self.loop_kind.enter(self.kind, self, x, *context)


def open_in_turn(blocks: nn.ModuleList) -> ApplyBlocks:
    """The stack for one forward pass: blocks are called one by one."""
    return partial(apply_blocks, list(blocks))


def look_up(weight: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """The embedded tokens (B, T, d_model), and the tensor that serves as the head (vocab_size, d_model)."""
    return F.embedding(tokens, weight), weight


def loss_of(h: Tensor, norm: FinalNorm, head: Tensor, targets: Tensor, cap: float | None = None) -> Tensor:
    """Mean loss in nats of the stream h (tokens, d_model) behind the last loop step.

    `targets` are (tokens,). `cap` is that of the logits, see `model.loss.capped`.
    """
    return head_cross_entropy(norm(h), head, targets, cap)


class LoopedTransformer(nn.Module):
    """Token embedding → L blocks, N times over → RMSNorm → head, which may be the embedding.

    Parameters are uninitialised in the paper's sense until `model.initialization.initialize_` has run. The class builds
    on the meta device (`with torch.device("meta")`).

    Args:
        config: the shape, every field a plain value.
        recompute: drop the activations of each segment in the forward pass and compute them again in the
            backward pass: memory no longer grows with N, at the price of one more forward. Same gradients.
        segment_layers: layers between two calls of an observer, and recomputed together; None for the whole stack,
            so that a segment is a loop step.

    Raises:
        ValueError: if the layers do not divide into segments.
    """

    def __init__(self, config: ModelConfig, *, recompute: bool = False, segment_layers: int | None = None) -> None:
        super().__init__()
        self.config = config
        self.recompute = recompute
        self.segment_layers = segment_layers or config.n_layers
        if config.n_layers % self.segment_layers:
            raise ValueError(f"n_layers={config.n_layers} is not a multiple of segment_layers={segment_layers}")
        made_of = PART_SETS[config.parts]
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.loop = _Parts(LOOPS[config.loop].parts, config, {})
        self.final_norm: FinalNorm = RMSNormWithoutGain(config.norm_eps)
        if made_of.name("norm") == "norm":
            self.final_norm = RMSNorm(config.d_model, config.norm_eps)
        self.head = None if made_of.has_tied_head else nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.logit_cap = made_of.logit_cap
        self.rotary: Tensor
        table = rotary_table(config.max_seq_len, config.head_dim, config.rope_theta)
        self.register_buffer("rotary", table, persistent=False)
        self.open_stack: Callable[[nn.ModuleList], ApplyBlocks] = open_in_turn
        self.look_up: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = look_up
        self.loss_of: Callable[[Tensor, FinalNorm, Tensor, Tensor, float | None], Tensor] = loss_of

    def forward(
        self,
        tokens: Tensor,
        targets: Tensor | None = None,
        *,
        n_loops: int | None = None,
        observe: Observer | None = None,
    ) -> Tensor:
        """Logits of the next token, or the mean loss in nats when `targets` are given.

        Args:
            tokens: (B, T) token ids, T at most `max_seq_len`.
            targets: (B, T) the token that follows each position.
            n_loops: loop steps, if not the N that the model is made for. ε stays as it is.
            observe: is shown the residual stream after every segment, before what the loop or the final norm makes
                of it.

        Returns:
            (B, T, vocab_size) logits, capped if the set of parts caps them, or a scalar loss that never materialises
            them all.

        Raises:
            ValueError: if the sequence is longer than the rotary table.
        """
        embedded, head = self._outer(tokens)
        [h] = deque(self.states(embedded, n_loops, observe), maxlen=1)  # (B, T, D)
        if targets is None:
            return capped(F.linear(self.final_norm(h), head), self.logit_cap)
        return self._loss(h, head, targets)

    def states(self, embedded: Tensor, n_loops: int | None = None, observe: Observer | None = None) -> Iterator[Tensor]:
        """The state (B, T, d_model) that each loop step leaves, from the embedded tokens; the final norm reads it."""
        config, seq_len = self.config, embedded.shape[1]
        if seq_len > config.max_seq_len:
            raise ValueError(f"sequence of {seq_len} tokens exceeds max_seq_len={config.max_seq_len}")
        rotary, apply = self.rotary[:, :seq_len], self.open_stack(self.blocks)
        recompute = self.recompute and torch.is_grad_enabled()

        def segment(layers: range, x: Tensor, context: Context) -> Tensor:
            context = (rotary, *context)
            if recompute:
                return checkpoint(apply, layers, x, context, use_reentrant=False, preserve_rng_state=False)  # type: ignore[no-any-return]
            return apply(layers, x, context)

        steps = n_loops or config.n_loops
        return loop_states(LOOPS[config.loop], self.loop, steps, embedded, self._segments(), segment, observe)

    def _outer(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """The embedded tokens (B, T, d_model), and the head (vocab_size, d_model)."""
        embedded, tied = self.look_up(self.embedding.weight, tokens)
        return embedded, tied if self.head is None else self.head.weight

    def _loss(self, h: Tensor, head: Tensor, targets: Tensor) -> Tensor:
        """Mean loss in nats of the state h (B, T, d_model) behind the last loop step."""
        return self.loss_of(h.flatten(0, 1), self.final_norm, head, targets.flatten(), self.logit_cap)

    def _segments(self) -> list[range]:
        """The layers of one loop step, in segments."""
        starts = range(0, self.config.n_layers, self.segment_layers)
        return [range(start, start + self.segment_layers) for start in starts]


def head_cross_entropy(h: Tensor, head: Tensor, targets: Tensor, cap: float | None) -> Tensor:
    """Mean loss in nats."""
    return F.cross_entropy(capped(F.linear(h, head), cap).float(), targets)


class LoopedConfig(PretrainedConfig):
    """The shape of a looped Transformer, and how many loop steps it takes.

    Args:
        shape: fields of `ModelConfig`, the trained loop count as `n_loops` among them.
        n_loops: loop steps that are taken; None for the trained loop count.
    """

    model_type = "looped_transformer"

    def __init__(self, shape: dict | None = None, n_loops: int | None = None, **kwargs) -> None:
        self.shape = dict(shape or {})
        self.n_loops = n_loops or self.shape.get("n_loops")
        self.vocab_size = self.shape.get("vocab_size")
        self.hidden_size = self.shape.get("d_model")
        self.num_attention_heads = self.shape.get("n_heads")
        self.num_hidden_layers = self.shape.get("n_layers")
        self.max_position_embeddings = self.shape.get("max_seq_len")
        known = ("vocab_size", "hidden_size", "num_attention_heads", "num_hidden_layers", "max_position_embeddings")
        super().__init__(**{key: value for key, value in kwargs.items() if key not in known})


class LoopedForCausalLM(PreTrainedModel, GenerationMixin):
    """`LoopedTransformer` with the interface of `transformers`."""

    config_class = LoopedConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    _no_split_modules = ["Block"]

    def __init__(self, config: LoopedConfig) -> None:
        super().__init__(config)
        self.model = LoopedTransformer(ModelConfig(**config.shape))
        for module in self.model.modules():  # tables and scales are in the file of weights, so that none is left empty
            module._non_persistent_buffers_set.clear()
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Every tensor is in the file of weights."""

    def get_input_embeddings(self) -> nn.Module:
        return self.model.embedding

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.model.embedding = value

    def prepare_inputs_for_generation(self, input_ids: Tensor, attention_mask: Tensor | None = None, **_) -> dict:
        return {"input_ids": input_ids, "attention_mask": attention_mask}

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        n_loops: int | None = None,
        **_,
    ) -> CausalLMOutput:
        """Logits (B, T, vocab_size), and with `labels` (B, T; −100 is left out) the mean loss in nats.

        Attention is causal, so padding on the right changes no logits of the text before it. Padding on the left
        would, and is refused.
        """
        if attention_mask is not None and not bool((attention_mask[:, 0] != 0).all()):
            raise ValueError("padding on the left: set tokenizer.padding_side='right', or generate one text at a time")
        logits = self.model(input_ids, n_loops=n_loops or self.config.n_loops)
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=-100)
        return CausalLMOutput(loss=loss, logits=logits)
