"""Kinds of block: where the norms sit and how the branches join the stream. One class a kind; `BLOCKS` lists them.

A kind names its parts, writes down its forward pass with them, and says what it costs. Parts become modules in
`model.layers`. PyTorch is not imported, so that a grid can be planned without it.

In the formulas x is the stream, n(·) an RMSNorm with gain, and ε the residual scale. ε multiplies both branches.
"""

from typing import TYPE_CHECKING, Any, ClassVar

from model.parameter_row import BaseValues, ParameterRow
from model.parts import PART_SETS, Llama, Shape

if TYPE_CHECKING:
    from torch import Tensor


def part_params(part: str, shape: Shape) -> int:
    """Parameters of one part that a kind names."""
    d_model, mlp_dim = shape.d_model, shape.mlp_dim
    return {
        "norm": d_model,
        "norm_without_gain": 0,
        "attention": 4 * d_model**2,
        "qk_norm_attention": 4 * d_model**2,
        "swiglu": 3 * d_model * mlp_dim,
        "relu_squared": 2 * d_model * mlp_dim,
        "gate": 1,
        "diagonal_injection": 2 * d_model + d_model**2,
    }[PART_SETS[shape.parts].name(part)]


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
    compiled_bytes_per_channel: ClassVar[int] = 24  # of the stream, see `compiled_activation_bytes`

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

    def parameter_rows(self, base: BaseValues, made_of: Llama) -> tuple[ParameterRow, ...]:
        """The block's rows of the per-tensor table (Table 3), for one of `model.parts.PART_SETS`."""
        return (*made_of.norm_rows(base), *made_of.matrix_rows(base))

    def n_params(self, shape: Shape) -> int:
        """Parameters of one block (7.08M at the paper's width)."""
        return sum(part_params(part, shape) for part in self.parts.values())

    def flops_per_token(self, shape: Shape) -> float:
        """Forward and backward pass of one application, 6 a parameter; attention's products are counted apart."""
        return 6.0 * self.n_params(shape)

    def activation_bytes(self, shape: Shape, precision: str) -> int:
        """Bytes that one application keeps for its backward pass, a token."""
        made_of = PART_SETS[shape.parts]
        return 2 * made_of.norm_bytes(shape, precision) + made_of.branch_bytes(shape, precision)

    def compiled_activation_bytes(self, shape: Shape) -> int:
        """The same of a block under bf16 autocast that torch.compile has compiled, which computes some again.

        Before a matrix it keeps the stream (4 bytes a channel) or the branch that was added to it (2), and the stream
        normed (2); q, k and v as one tensor (6), q and k rotated (4), attention's output by heads and by tokens (4).
        Measured on the partition that the compiler makes, for every kind (`tests/sweeper/run/test_memory_gpu.py`).
        """
        of_mlp = PART_SETS[shape.parts].compiled_bytes_per_hidden * shape.mlp_dim
        return self.compiled_bytes_per_channel * shape.d_model + of_mlp


class PostNorm(PreNorm):
    """The norm stands behind each sum: x ← n(x + ε · Attn(x)), then x ← n(x + ε · MLP(x)).

    The first paper's stated future work. Norms and matrices are those of `PreNorm`.
    """

    compiled_bytes_per_channel: ClassVar[int] = 28

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
    compiled_bytes_per_channel: ClassVar[int] = 26

    def forward(self, block: Any, x: "Tensor", rotary: "Tensor", *queries: "Tensor") -> "Tensor":
        """See `PreNorm.forward`."""
        branch = block.attention(x, rotary, *queries)
        x = block.attention_norm((x * block.skip_scale).addcmul(branch, block.residual_scale))
        return block.mlp_norm((x * block.skip_scale).addcmul(block.mlp(x), block.residual_scale))  # type: ignore[no-any-return]

    def scalars(self, applications: int) -> dict[str, float]:
        """α, as `skip_scale`."""
        return {"skip_scale": float((2 * applications) ** self.exponent)}

    def parameter_rows(self, base: BaseValues, made_of: Llama) -> tuple[ParameterRow, ...]:
        """Queries and keys start as in `PreNorm`, the other matrices with β σ0."""
        beta = float((8 * base.applications) ** -self.exponent)
        return (*made_of.norm_rows(base), *made_of.matrix_rows(base, beta))


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
    compiled_bytes_per_channel: ClassVar[int] = 26

    def forward(self, block: Any, x: "Tensor", rotary: "Tensor", *queries: "Tensor") -> "Tensor":
        """See `PreNorm.forward`."""
        branch = block.attention_out_norm(block.attention(block.attention_norm(x), rotary, *queries))
        x = x.addcmul(branch, block.residual_scale)
        return x.addcmul(block.mlp_out_norm(block.mlp(block.mlp_norm(x))), block.residual_scale)

    def activation_bytes(self, shape: Shape, precision: str) -> int:
        """As `PreNorm`, and what the outer norms keep."""
        outer = PART_SETS[shape.parts].outer_norm_bytes(shape, precision)
        return super().activation_bytes(shape, precision) + 2 * outer


class ReZero(PreNorm):
    """No norm, but a learned gate: x ← x + ε · a · f(x), a = 0 at first (arXiv 2003.04887).

    Both branches of a block share its a, and so do all loop steps.
    """

    parts: ClassVar[dict[str, str]] = {"attention": "attention", "mlp": "swiglu", "gate": "gate"}
    compiled_bytes_per_channel: ClassVar[int] = 22

    def forward(self, block: Any, x: "Tensor", rotary: "Tensor", *queries: "Tensor") -> "Tensor":
        """See `PreNorm.forward`."""
        scale = block.residual_scale * block.gate.weight
        x = x.addcmul(block.attention(x, rotary, *queries), scale)
        return x.addcmul(block.mlp(x), scale)

    def parameter_rows(self, base: BaseValues, made_of: Llama) -> tuple[ParameterRow, ...]:
        """See `PreNorm.parameter_rows`."""
        return (base.gain("block_gate", r"blocks\.\d+\.gate\.weight", start=0.0), *made_of.matrix_rows(base))

    def activation_bytes(self, shape: Shape, precision: str) -> int:
        """As `PreNorm` without what norms keep, but with both branches, for the gate's gradient."""
        gated = (5 if precision == "bf16" else 8) * shape.d_model
        return PART_SETS[shape.parts].branch_bytes(shape, precision) + gated


BLOCKS: dict[str, PreNorm] = {
    "pre_norm": PreNorm(),
    "post_norm": PostNorm(),
    "deepnorm": DeepNorm(),
    "deeploop": DeepLoop(),
    "sandwich": Sandwich(),
    "rezero": ReZero(),
}
