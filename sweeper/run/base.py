"""One resolved run, whatever its kind: what all have in common, and the identity that follows from its values."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from model import ModelConfig, ParameterRow
from model.parameterization import base_rate
from sweeper.run.execution import Execution
from sweeper.run.flops import attention_flops, training_flops
from sweeper.run.identity import SCHEMA_VERSION, format_rate, run_id
from sweeper.run.plain import from_plain, to_plain


class Run:
    """What runs of every kind have in common: a name, and plain values to write down and read back.

    A kind is a frozen dataclass below this class: its fields determine the result, and nothing else does.
    The scaling rule's name, paths, launcher, device and worker counts are in no run on purpose: two runs that
    compute the same are the same run. At N = 1 and m_L = 1 the sqrt and linear rules meet here.
    """

    KIND: ClassVar[str]

    if TYPE_CHECKING:  # Some kinds have fields of these names. A property would take the place of the field.

        @property
        def steps(self) -> int:
            """Steps in which the run's progress is counted."""

        @property
        def d_model(self) -> int:
            """Width of the residual stream."""

        @property
        def residual_scale(self) -> float:
            """ε."""

    @property
    def run_id(self) -> str:
        """Readable head, then a hash of every field."""
        return run_id(self.head, self.to_dict())

    @property
    def name(self) -> str:
        """What a person looks for in an id."""
        raise NotImplementedError

    @property
    def head(self) -> str:
        """The readable part of the id: the kind, then the name."""
        return f"{self.KIND}-{self.name}"

    @property
    def label(self) -> str:
        """A name that is unique among the runs of its panel, for people."""
        return self.head

    @property
    def applications(self) -> int:
        """Blocks that a token passes through: L · N."""
        raise NotImplementedError

    @property
    def flops(self) -> float:
        """Floating-point operations of the run, attention left out."""
        raise NotImplementedError

    @property
    def attention_flops(self) -> float:
        """Floating-point operations of the run's attention."""
        return 0.0

    @property
    def batch_tokens(self) -> int:
        """Tokens of text that one optimizer step reads; 0 for a run that reads none."""
        return 0

    @property
    def uses_bf16(self) -> bool:
        """Whether the matrix products are bf16, so that a GPU's bf16 peak is their bound."""
        return False

    @property
    def n_parallel(self) -> int:
        """Equal parts that ranks can share the run out in."""
        return 1

    def least_bytes(self, micro_batch: int) -> int:
        """Memory below which the run cannot do; 0 where nobody has estimated it."""
        return 0

    def sizes(self, micro_batch: int) -> dict[str, int]:
        """What `least_bytes` follows from, by key of the configuration."""
        return {}

    def fitted(self, execution: Execution, memory_gib: float | None, recompute: bool | None) -> Execution:
        """How the run is executed within a budget, see `sweeper.run.memory.fit_memory`; only a training is fitted."""
        return replace(execution, recompute=bool(recompute))

    def on_data(self, manifest_hash: str) -> Self:
        """The same run on other data; a run that reads none stays as it is."""
        return self

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as they stand in config.yaml and as they are hashed."""
        return {"schema": SCHEMA_VERSION, "kind": self.KIND, **to_plain(self)}

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Self:
        """Inverse of `to_dict`.

        Raises:
            ValueError: for another schema, and for fields or values that this version does not know.
        """
        if (schema := record.get("schema")) != SCHEMA_VERSION:
            raise ValueError(f"it has schema {schema!r}, this version reads {SCHEMA_VERSION}")
        restored: Self = from_plain(cls, {key: value for key, value in record.items() if key not in ("schema", "kind")})
        return restored


class ModelRun(Run):
    """A run of the looped Transformer itself: what follows from its shape and its tokens."""

    model: ModelConfig
    table: tuple[ParameterRow, ...]
    betas: tuple[float, float]
    seq_len: int
    seed: int

    @property
    def name(self) -> str:
        """Layers, loops and base rate."""
        return f"L{self.model.n_layers}-N{self.model.n_loops}-lr{format_rate(self.base_lr)}"

    @property
    def base_lr(self) -> float:
        """η0."""
        return base_rate(self.table, self.model.d_model)

    @property
    def total_tokens(self) -> int:
        """Tokens of the whole run."""
        raise NotImplementedError

    @property
    def d_model(self) -> int:
        """Of the model."""
        return self.model.d_model

    @property
    def residual_scale(self) -> float:
        """ε."""
        return self.model.residual_scale

    @property
    def applications(self) -> int:
        """Blocks that a token passes through: L · N."""
        return self.model.n_layers * self.model.n_loops

    @property
    def flops(self) -> float:
        """6 · (P_block · L · N + P_head) · tokens."""
        return training_flops(self.model, self.total_tokens)

    @property
    def attention_flops(self) -> float:
        """6 · T · d · L · N · tokens."""
        return attention_flops(self.model, self.total_tokens, self.seq_len)

    @property
    def state_bytes(self) -> int:
        """Weights, gradients, and the moments: two of AdamW, one of Muon, which has the blocks. All in fp32.

        Muon also takes some 8 bytes a number of one matrix at a time.
        """
        by_adamw = 16 * self.model.n_params
        if all(row.optimizer == "adamw" for row in self.table):
            return by_adamw
        of_blocks = self.model.n_layers * self.model.block_params
        return by_adamw - 4 * of_blocks + 8 * self.model.d_model * self.model.mlp_dim

    def least_bytes(self, micro_batch: int) -> int:
        """Weights, gradients and moments."""
        return self.state_bytes

    def sizes(self, micro_batch: int) -> dict[str, int]:
        """Of the model and of a forward pass."""
        names = ("vocab_size", "d_model", "mlp_dim", "n_layers")
        sizes = {f"model.{name}": getattr(self.model, name) for name in names}
        return {**sizes, "batch.seq_len": self.seq_len, "execution.micro_batch": micro_batch}
