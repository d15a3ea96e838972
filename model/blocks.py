"""Kinds of block: where the norms sit and how the branches join the stream. One class a kind; `BLOCKS` lists them.

A kind names its parts, writes down its forward pass with them, and says what it costs. Parts become modules in
`model.layers`. PyTorch is not imported, so that a grid can be planned without it.
"""

from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from model.parameter_row import BaseValues, ParameterRow

if TYPE_CHECKING:
    from torch import Tensor


class Shape(Protocol):
    """The fields of `ModelConfig` that costs depend on."""

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""

    @property
    def mlp_dim(self) -> int:
        """Hidden width of the SwiGLU."""


def part_params(part: str, shape: Shape) -> int:
    """Parameters of one part of `model.layers.PARTS`."""
    d_model, mlp_dim = shape.d_model, shape.mlp_dim
    return {"norm": d_model, "attention": 4 * d_model**2, "swiglu": 3 * d_model * mlp_dim}[part]


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

    def forward(self, block: Any, x: "Tensor", rotary: "Tensor") -> "Tensor":
        """The stream (B, T, d_model) one block later.

        Args:
            block: module with the `parts` and ε as `residual_scale`, a scalar tensor.
            x: (B, T, d_model).
            rotary: (2, T, head_dim / 2), see `model.layers.rotary_table`.
        """
        x = x.addcmul(block.attention(block.attention_norm(x), rotary), block.residual_scale)
        return x.addcmul(block.mlp(block.mlp_norm(x)), block.residual_scale)

    def parameter_rows(self, base: BaseValues) -> tuple[ParameterRow, ...]:
        """The block's rows of the per-tensor table (Table 3)."""
        return (
            base.gain("block_norm", r"blocks\.\d+\.\w+_norm\.weight"),
            base.matrix("block_matrix", r"blocks\.\d+\.(attention|mlp)\.\w+\.weight"),
        )

    def n_params(self, shape: Shape) -> int:
        """Parameters of one block (7.08M at the paper's width)."""
        return sum(part_params(part, shape) for part in self.parts.values())

    def flops_per_token(self, shape: Shape) -> float:
        """Forward and backward pass of one application, 6 a parameter; attention's products are counted apart."""
        return 6.0 * self.n_params(shape)

    def activation_bytes(self, shape: Shape, precision: str) -> int:
        """Bytes that one application keeps for its backward pass, a token.

        The stream and the norms stay fp32. What the matrices take and give is bf16 under autocast.
        """
        d, f = shape.d_model, shape.mlp_dim
        fp32 = 4 * d  # the stream before each branch, normed without its gain
        attention = 8 * d  # its input; q, k, v; q and k rotated; its output by heads and by tokens
        products = attention + d + 4 * f  # and the MLP's input; gate, up, silu and what `down` gets
        return 4 * fp32 + (2 if precision == "bf16" else 4) * products


class PostNorm(PreNorm):
    """The norm stands behind each sum: x ← n(x + ε · Attn(x)), then x ← n(x + ε · MLP(x)).

    The first paper's stated future work. Norms and matrices are those of `PreNorm`.
    """

    def forward(self, block: Any, x: "Tensor", rotary: "Tensor") -> "Tensor":
        """See `PreNorm.forward`."""
        x = block.attention_norm(x.addcmul(block.attention(x, rotary), block.residual_scale))
        return block.mlp_norm(x.addcmul(block.mlp(x), block.residual_scale))  # type: ignore[no-any-return]


BLOCKS: dict[str, PreNorm] = {"pre_norm": PreNorm(), "post_norm": PostNorm()}
