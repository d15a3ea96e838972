"""One resolved run, of any kind: what determines its result, and the identity that follows from it."""

from dataclasses import dataclass, fields, is_dataclass
from typing import Any, ClassVar, Self

from model import ModelConfig, ParameterRow
from sweeper.errors import UserError
from sweeper.run.flops import attention_flops, training_flops
from sweeper.run.identity import SCHEMA_VERSION, format_rate, run_id
from sweeper.run.schedule import Schedule


class _Run:
    """What runs of every kind have in common: a name, and plain values to write down and read back.

    The scaling rule's name, paths, launcher, device and worker counts are in no run on purpose: two runs that
    compute the same are the same run. At N = 1 and m_L = 1 the sqrt and linear rules meet here.
    """

    KIND: ClassVar[str]

    @property
    def run_id(self) -> str:
        """Readable head, then a hash of every field."""
        return run_id(self._head, self.to_dict())

    @property
    def _head(self) -> str:
        raise NotImplementedError

    @property
    def attention_flops(self) -> float:
        """Floating-point operations of the run's attention."""
        return 0.0

    @property
    def n_parallel(self) -> int:
        """Equal parts that ranks can share the run out in."""
        return 1

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as they stand in config.yaml and as they are hashed."""
        return {"schema": SCHEMA_VERSION, "kind": self.KIND, **_plain_fields(self)}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """Inverse of `to_dict`.

        Raises:
            UserError: for a record of another schema version.
        """
        fields = {key: value for key, value in fields.items() if key != "kind"}
        schema = fields.pop("schema", None)
        if schema != SCHEMA_VERSION:
            raise UserError(
                f"run record has schema {schema!r}, this version reads {SCHEMA_VERSION}; "
                "use the version that wrote it, or another paths.runs= directory"
            )
        return cls(**{key: _restored(key, value) for key, value in fields.items()})


class _ModelRun(_Run):
    """A run of the looped Transformer itself: what follows from its shape and its tokens."""

    model: ModelConfig
    seq_len: int

    @property
    def total_tokens(self) -> int:
        """Tokens of the whole run."""
        raise NotImplementedError

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


@dataclass(frozen=True)
class RunConfig(_ModelRun):
    """A training.

    Attributes:
        model: shape and residual scale ε as a number.
        table: the per-tensor parameterization, rates resolved.
        betas: AdamW's β₁ and β₂.
        grad_clip: bound on the global gradient norm; None for no clipping.
        schedule: warmup-stable-decay.
        batch_sequences: sequences in one optimizer step, whatever the number of devices.
        seq_len: tokens in one sequence.
        validation_tokens: size of the fixed validation set.
        diverged_above: final validation loss, in nats per token, above which the run counts as diverged.
        data: hash of the data manifest.
        seed: of initialisation and data order.
        precision: "fp32" or "bf16" (autocast, fp32 master weights).
    """

    KIND: ClassVar[str] = "training"

    model: ModelConfig
    table: tuple[ParameterRow, ...]
    betas: tuple[float, float]
    grad_clip: float | None
    schedule: Schedule
    batch_sequences: int
    seq_len: int
    validation_tokens: int
    diverged_above: float
    data: str
    seed: int
    precision: str

    @property
    def _head(self) -> str:
        return f"L{self.model.n_layers}-N{self.model.n_loops}-lr{format_rate(self.table[0].lr)}"

    @property
    def steps(self) -> int:
        """Optimizer steps."""
        return self.schedule.steps

    @property
    def batch_tokens(self) -> int:
        """Tokens in one optimizer step."""
        return self.batch_sequences * self.seq_len

    @property
    def total_tokens(self) -> int:
        """Tokens of the whole training."""
        return self.batch_tokens * self.schedule.steps

    @property
    def n_parallel(self) -> int:
        """Sequences of a batch."""
        return self.batch_sequences


@dataclass(frozen=True)
class ProbeConfig(_ModelRun):
    """The first optimizer steps at a constant rate, on the same random tokens every step (Section 5.1).

    Attributes:
        model: shape and residual scale ε as a number.
        table: the per-tensor parameterization, rates resolved.
        betas: AdamW's β₁ and β₂.
        steps: optimizer steps.
        sequences: sequences of random tokens.
        seq_len: tokens in one sequence.
        seed: of initialisation and tokens.
        increment_layers: layers that make one of the increments whose cosines are read out at the end; None for no
            read-out.
    """

    KIND: ClassVar[str] = "probe"

    model: ModelConfig
    table: tuple[ParameterRow, ...]
    betas: tuple[float, float]
    steps: int
    sequences: int
    seq_len: int
    seed: int
    increment_layers: int | None

    @property
    def _head(self) -> str:
        return f"probe-L{self.model.n_layers}-N{self.model.n_loops}-lr{format_rate(self.table[0].lr)}"

    @property
    def total_tokens(self) -> int:
        """Tokens of all steps."""
        return self.steps * self.sequences * self.seq_len


@dataclass(frozen=True)
class TheoryConfig(_Run):
    """The residual recursion of Equations 1 and 2, h ← h + ε · W_ℓ · ReLU(h), drawn several times.

    Attributes:
        d_model: width d.
        n_layers: matrices L in the stack.
        n_loops: times N the stack is applied.
        residual_scale: ε.
        shared: the N applications of a layer share its matrix; otherwise each draws its own.
        seeds: one draw of matrices and input each.
    """

    KIND: ClassVar[str] = "theory"

    d_model: int
    n_layers: int
    n_loops: int
    residual_scale: float
    shared: bool
    seeds: tuple[int, ...]

    @property
    def _head(self) -> str:
        return f"theory-L{self.n_layers}-N{self.n_loops}"

    @property
    def steps(self) -> int:
        """Draws."""
        return len(self.seeds)

    @property
    def applications(self) -> int:
        """Layers that the input passes through: L · N."""
        return self.n_layers * self.n_loops

    @property
    def flops(self) -> float:
        """2 · d² a matrix-vector product."""
        return 2.0 * self.d_model**2 * self.applications * len(self.seeds)


AnyRun = RunConfig | ProbeConfig | TheoryConfig
KINDS: dict[str, type[AnyRun]] = {kind.KIND: kind for kind in (RunConfig, ProbeConfig, TheoryConfig)}


def run_from_dict(fields: dict[str, Any]) -> AnyRun:
    """The run of whatever kind whose `to_dict` gave `fields`.

    Raises:
        UserError: for a record of an unknown kind or another schema version.
    """
    kind = fields.get("kind", RunConfig.KIND)  # records of schema 1 had none; `from_dict` refuses them by name
    if kind not in KINDS:
        raise UserError(f"run record has kind {kind!r}; this version knows {', '.join(KINDS)}")
    return KINDS[kind].from_dict(fields)


def _plain_fields(value: Any) -> dict[str, Any]:
    """The fields of a dataclass as plain values, without those at their neutral value (`model.config.neutral`)."""
    return {
        field.name: _plain(getattr(value, field.name))
        for field in fields(value)
        if not (field.metadata.get("neutral") and getattr(value, field.name) == field.default)
    }


def _plain(value: Any) -> Any:
    """Dataclasses as dicts and tuples as lists, all the way down."""
    if is_dataclass(value):
        return _plain_fields(value)
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value


def _restored(key: str, value: Any) -> Any:
    match key:
        case "model":
            return ModelConfig(**value)
        case "table":
            return tuple(ParameterRow(**row) for row in value)
        case "schedule":
            return Schedule(**value)
    return tuple(value) if isinstance(value, list) else value
