"""The kinds of runs: what determines the result of each, and the table of all of them, `KINDS`, at the end."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from model import ModelConfig, ParameterRow
from model.neutral import neutral
from sweeper.run.base import ModelRun, Run
from sweeper.run.execution import Execution
from sweeper.run.identity import format_rate
from sweeper.run.memory import fit_memory, training_bytes
from sweeper.run.schedule import Schedule

PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True)
class RunConfig(ModelRun):
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
        diagnostics: also record every one of the first steps, norms along the loop, and losses at other loop counts
            (`sweeper.training.diagnostics`). They are part of the result, so they make another run.
        stop_lost: stop as diverged once the loss has blown up (`sweeper.training.blow_up`), not at the last step.
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
    diagnostics: bool = neutral(False)
    stop_lost: bool = neutral(False)

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision={self.precision} is unknown; allowed: {', '.join(PRECISIONS)}")

    @property
    def head(self) -> str:
        """The name alone: trainings had their ids before there were kinds."""
        return self.name

    @property
    def label(self) -> str:
        """Loops, layers and rate, and the seed unless it is 0."""
        label = f"N{self.model.n_loops}-L{self.model.n_layers}-lr{format_rate(self.base_lr)}"
        return f"{label}-s{self.seed}" if self.seed else label

    @property
    def uses_bf16(self) -> bool:
        """Under autocast."""
        return self.precision == "bf16"

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

    def least_bytes(self, micro_batch: int) -> int:
        """With the activations of one recomputed loop step."""
        return training_bytes(self, micro_batch, recompute=True)

    def fitted(self, execution: Execution, memory_gib: float | None, recompute: bool | None) -> Execution:
        """See `sweeper.run.memory.fit_memory`."""
        return fit_memory(self, execution, memory_gib, recompute)

    def on_data(self, manifest_hash: str) -> Self:
        """The same training on other data."""
        return replace(self, data=manifest_hash)


@dataclass(frozen=True)
class ProbeConfig(ModelRun):
    """The first optimizer steps at a constant rate or in warmup, on the same random tokens every step (Section 5.1).

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
        warmup: steps until the rate is reached, in a linear rise that `steps` may end before.
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
    warmup: int = neutral(0)

    @property
    def total_tokens(self) -> int:
        """Tokens of all steps."""
        return self.steps * self.sequences * self.seq_len


@dataclass(frozen=True)
class TheoryConfig(Run):
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
    def name(self) -> str:
        """Layers and loops."""
        return f"L{self.n_layers}-N{self.n_loops}"

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

    def least_bytes(self, micro_batch: int) -> int:
        """Its matrices in fp32; those of independent draws are drawn row by row."""
        return 4 * self.d_model**2 * self.n_layers if self.shared else 4 * self.d_model

    def sizes(self, micro_batch: int) -> dict[str, int]:
        """Width and layers."""
        return {"theory.d_model": self.d_model, "model.n_layers": self.n_layers}


@dataclass(frozen=True)
class RunKind:
    """A kind of run: a row of `KINDS`, the only place that lists them.

    A new kind needs three files outside conf/ and tests:

        sweeper/run/spec.py         its values, a class below `Run`, and its row
        sweeper/config/kinds.py     its section of the configuration, and how a configuration becomes its values
        sweeper/training/<kind>.py  what executes it

    Functions are named "module:function", and `pkgutil.resolve_name` imports them when they are needed: planning
    imports no torch, and this room knows nothing of those above it.

    Attributes:
        spec: what determines the result.
        resolver: makes a `spec` of a checked configuration (a `sweeper.config.kinds.Config`) and the hash of its data.
        runner: executes a `sweeper.training.attempt.Attempt`. It returns the measured part of the result, or None if it
            was told to stop.
        reads_data: it reads prepared text, which a sweep prepares first.
        has_val_loss: its result holds a validation loss; a figure refuses a finished run without one.
        step_timer: measures step times before any run of a sweep has finished, as
            `sweeper.execution.step_timing.measured_step_times` does; None for a kind whose plans show no time.
    """

    spec: type[Run]
    resolver: str
    runner: str
    reads_data: bool = False
    has_val_loss: bool = False
    step_timer: str | None = None

    @property
    def name(self) -> str:
        """Its value of the key `kind`."""
        return self.spec.KIND


KINDS = {
    row.name: row
    for row in (
        RunKind(
            RunConfig,
            resolver="sweeper.config.kinds:training",
            runner="sweeper.training.trainer:run_training",
            reads_data=True,
            has_val_loss=True,
            step_timer="sweeper.execution.step_timing:measured_step_times",
        ),
        RunKind(ProbeConfig, resolver="sweeper.config.kinds:probe", runner="sweeper.training.probe:run_probe"),
        RunKind(TheoryConfig, resolver="sweeper.config.kinds:theory", runner="sweeper.training.toy:run_theory"),
    )
}


def kind_of(run_id: str) -> RunKind:
    """The kind of a run, read from its id."""
    return KINDS.get(run_id.partition("-")[0], KINDS[RunConfig.KIND])


def run_from_dict(record: dict[str, Any]) -> Run:
    """The run of whatever kind whose `to_dict` gave `record`.

    Raises:
        ValueError: for an unknown kind, another schema, and fields or values that this version does not know.
    """
    kind = record.get("kind", RunConfig.KIND)  # records of schema 1 had none
    if kind not in KINDS:
        raise ValueError(f"it has kind {kind!r}, this version knows {', '.join(KINDS)}")
    return KINDS[kind].spec.from_dict(record)
