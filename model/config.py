"""The shape of one looped Transformer, as plain values."""

from dataclasses import dataclass, replace

from model.blocks import BLOCKS, part_params
from model.loop import LOOPS
from model.neutral import neutral
from model.parts import PART_SETS

CHUNK_LOGITS = 2**26  # that the head scores at once: 256 MiB in fp32
HEAD_ROWS = 2**13  # tokens that a GPU scores at once: at the paper's vocabulary 2 GiB in bf16


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

    @property
    def block_params(self) -> int:
        """Parameters of one block (7.08M at the paper's width)."""
        return BLOCKS[self.block].n_params(self)

    @property
    def n_params(self) -> int:
        """Distinct parameters, tied head counted once (Table 2: 183.5M, 268.4M, 438.3M)."""
        stack = self.n_layers * self.block_params + LOOPS[self.loop].n_params(self)
        outer = (1 if PART_SETS[self.parts].has_tied_head else 2) * self.vocab_size * self.d_model
        return outer + stack + part_params("norm", self)

    def without_idle_loop(self) -> "ModelConfig":
        """The same model under one name: with N = 1 many kinds of loop are one."""
        name = LOOPS[self.loop].at_one_loop if self.n_loops == 1 else None
        return replace(self, loop=name or self.loop)
