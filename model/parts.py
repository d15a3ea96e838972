"""Sets of parts: what the norms, attention, MLP and head of a model are. One class a set; `PART_SETS` lists them.

Kinds of block name their parts by the words of the first paper's set, and another set says what stands in for them.
PyTorch is not imported, see `model.blocks`.
"""

from typing import ClassVar, Protocol

from model.parameter_row import BaseValues, ParameterRow


class Shape(Protocol):
    """The fields of `ModelConfig` that costs depend on."""

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""

    @property
    def mlp_dim(self) -> int:
        """Hidden width of the MLP."""

    @property
    def n_layers(self) -> int:
        """Unique blocks L."""

    @property
    def parts(self) -> str:
        """Set of parts, a name in `PART_SETS`."""


class Llama:
    """The first paper's parts: norms with gains, rotary attention, SwiGLU, a head tied to the embedding.

    Base of the other sets, which override what differs.
    """

    stand_ins: ClassVar[dict[str, str]] = {}  # parts of `model.layers.PARTS` in place of those that a kind names
    has_tied_head: ClassVar[bool] = True
    logit_cap: ClassVar[float | None] = None  # c of c · tanh(logits / c), if there is one
    compiled_bytes_per_hidden: ClassVar[int] = 6  # of the MLP in a compiled block: gate, up and what `down` gets

    def name(self, part: str) -> str:
        """The part of `model.layers.PARTS` that is made where a kind names `part`."""
        return self.stand_ins.get(part, part)

    def embedding_rows(self, base: BaseValues) -> tuple[ParameterRow, ...]:
        """Rows of the per-tensor table in front of those of the blocks: the embedding."""
        return (ParameterRow("embedding", r"embedding\.weight", base.init_std, base.embedding_lr, base.eps, 0.0),)

    def norm_rows(self, base: BaseValues) -> tuple[ParameterRow, ...]:
        """Rows of a block's norms."""
        return (base.gain("block_norm", r"blocks\.\d+\.\w+_norm\.weight"),)

    def matrix_rows(self, base: BaseValues, beta: float = 1.0) -> tuple[ParameterRow, ...]:
        """Rows of a block's matrices. All but queries and keys start smaller by the factor `beta`."""
        if beta == 1.0:
            return (base.matrix("block_matrix", r"blocks\.\d+\.(attention|mlp)\.\w+\.weight"),)
        return (
            base.matrix("block_qkv", r"blocks\.\d+\.attention\.qkv\.weight", part_gains=(1.0, 1.0, beta)),
            base.matrix("block_matrix", r"blocks\.\d+\.(attention\.out|mlp\.\w+)\.weight", gain=beta),
        )

    def head_rows(self, base: BaseValues) -> tuple[ParameterRow, ...]:
        """Rows behind those of the blocks: final norm and head."""
        return (ParameterRow("final_norm", r"final_norm\.weight", None, base.adamw_lr, base.eps, 0.0),)

    def norm_bytes(self, shape: Shape, precision: str) -> int:
        """Bytes that a norm before a matrix keeps of a token: the stream, and the stream normed, in fp32."""
        return 2 * 4 * shape.d_model

    def outer_norm_bytes(self, shape: Shape, precision: str) -> int:
        """The same of a norm behind a branch."""
        return self.norm_bytes(shape, precision)

    def loop_norm_bytes(self, shape: Shape) -> int:
        """The same of a norm of the loop: nothing, as the block behind it keeps the stream that it gets."""
        return 0

    def branch_bytes(self, shape: Shape, precision: str) -> int:
        """Bytes that attention and MLP of one application keep of a token.

        What the matrices take and give is bf16 under autocast.
        """
        d, f = shape.d_model, shape.mlp_dim
        attention = 8 * d  # its input; q, k, v; q and k rotated; its output by heads and by tokens
        return _bytes_of(precision) * (attention + d + 4 * f)  # the MLP's input; gate, up, silu and what `down` gets


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
    compiled_bytes_per_hidden: ClassVar[int] = 4

    def embedding_rows(self, base: BaseValues) -> tuple[ParameterRow, ...]:
        """See `Llama.embedding_rows`."""
        return (ParameterRow("embedding", r"embedding\.weight", 1.0, base.embedding_lr, base.eps, 0.0, draw="normal"),)

    def norm_rows(self, base: BaseValues) -> tuple[ParameterRow, ...]:
        """None: norms have no gain."""
        return ()

    def matrix_rows(self, base: BaseValues, beta: float = 1.0) -> tuple[ParameterRow, ...]:
        """See `Llama.matrix_rows`."""
        part_gains = () if beta == 1.0 else (1.0, 1.0, beta)
        return (
            base.matrix("block_qkv", r"blocks\.\d+\.attention\.qkv\.weight", part_gains=part_gains, draw="uniform"),
            base.matrix("block_up", r"blocks\.\d+\.mlp\.up\.weight", gain=beta, draw="uniform"),
            base.matrix("block_out", r"blocks\.\d+\.(attention\.out|mlp\.down)\.weight", gain=0.0),
        )

    def head_rows(self, base: BaseValues) -> tuple[ParameterRow, ...]:
        """See `Llama.head_rows`."""
        return (ParameterRow("head", r"head\.weight", 0.001, base.adamw_lr, base.eps, 0.0, draw="normal"),)

    def norm_bytes(self, shape: Shape, precision: str) -> int:
        """The stream normed in fp32, which the matrix has too unless it takes bf16."""
        return 4 * shape.d_model if precision == "bf16" else 0

    def outer_norm_bytes(self, shape: Shape, precision: str) -> int:
        """The branch normed."""
        return _bytes_of(precision) * shape.d_model

    def loop_norm_bytes(self, shape: Shape) -> int:
        """The stream normed."""
        return 4 * shape.d_model

    def branch_bytes(self, shape: Shape, precision: str) -> int:
        """See `Llama.branch_bytes`."""
        d, f = shape.d_model, shape.mlp_dim
        attention = 8 * d  # its input; q, k, v as one tensor; q and k normed; its output by heads and by tokens
        return _bytes_of(precision) * (attention + d + 2 * f)  # the MLP's input; relu and its square


def _bytes_of(precision: str) -> int:
    """Bytes of a number that a matrix takes or gives."""
    return 2 if precision == "bf16" else 4


PART_SETS: dict[str, Llama] = {"llama": Llama(), "nanochat": Nanochat()}
