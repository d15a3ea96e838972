"""One resolved run: what determines its result, and the identity that follows from it."""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

from model import ModelConfig, ParameterRow
from sweeper.errors import UserError
from sweeper.schedule import Schedule

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class RunConfig:
    """Everything that determines a run's result, and nothing else.

    The scaling rule's name, paths, launcher, device and worker counts are left out on purpose: two runs that
    compute the same are the same run. At N = 1 and m_L = 1 the sqrt and linear rules meet here.

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
    def run_id(self) -> str:
        """Readable head, then a hash of every field: `L12-N4-lr1.25e-3-0f3a…`."""
        canonical = json.dumps(_rounded(self.to_dict()), sort_keys=True, separators=(",", ":"))
        digest = hashlib.sha256(canonical.encode()).hexdigest()[:12]
        base_lr = self.table[0].lr
        return f"L{self.model.n_layers}-N{self.model.n_loops}-lr{format_rate(base_lr)}-{digest}"

    @property
    def batch_tokens(self) -> int:
        """Tokens in one optimizer step."""
        return self.batch_sequences * self.seq_len

    @property
    def total_tokens(self) -> int:
        """Tokens of the whole training."""
        return self.batch_tokens * self.schedule.steps

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as they stand in config.yaml and as they are hashed."""
        fields = asdict(self)
        return {"schema": SCHEMA_VERSION, **fields, "betas": list(self.betas), "table": list(fields["table"])}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "RunConfig":
        """Inverse of `to_dict`.

        Raises:
            UserError: for a record of another schema version.
        """
        fields = dict(fields)
        schema = fields.pop("schema", None)
        if schema != SCHEMA_VERSION:
            raise UserError(
                f"run record has schema {schema!r}, this version reads {SCHEMA_VERSION}; "
                "use the version that wrote it, or another paths.runs= directory"
            )
        return cls(
            **{
                **fields,
                "model": ModelConfig(**fields["model"]),
                "table": tuple(ParameterRow(**row) for row in fields["table"]),
                "betas": tuple(fields["betas"]),
                "schedule": Schedule(**fields["schedule"]),
            }
        )


@dataclass(frozen=True)
class Execution:
    """How a run is carried out: may change its speed and memory, never what it is.

    Attributes:
        device: "cpu" or "cuda".
        micro_batch: sequences in one forward pass; gradients accumulate up to the run's batch.
        compile: compile one block and reuse it for every layer and loop step.
        recompute: recompute activations in the backward pass instead of storing them.
        threads: CPU threads of one run.
        log_every: steps between lines in metrics.jsonl.
        validate_every: steps between validations on the way; the last step always validates.
        checkpoint_every: steps between checkpoints.
    """

    device: str
    micro_batch: int
    compile: bool
    recompute: bool
    threads: int
    log_every: int
    validate_every: int
    checkpoint_every: int


def format_rate(rate: float) -> str:
    """A learning rate as people write it: 1.25e-3, not 0.00125."""
    mantissa, exponent = f"{rate:.3e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def _rounded(value: Any) -> Any:
    """Floats to 12 significant digits, so that a power's last bit cannot make a second run of the same one."""
    if isinstance(value, float):
        return float(f"{value:.12g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value
