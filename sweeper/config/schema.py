"""The configuration tree that Hydra composes: names and types, so that an unknown key or a wrong type is an error.

Values live in `conf/`; what types cannot express is checked in `sweeper.config.resolve`.
"""

from dataclasses import dataclass, field

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf

from sweeper.config.kinds import KindSections


@dataclass
class ModelSection:
    """Shape of the model; `n_layers` usually comes from the panel, as a multiple of `scaling.ref_layers`.

    `loop` says how the state passes from one loop step to the next, `block` where a block has its norms.
    """

    vocab_size: int = MISSING
    d_model: int = MISSING
    n_heads: int = MISSING
    mlp_dim: int = MISSING
    n_layers: int = MISSING
    n_loops: int = MISSING
    rope_theta: float = MISSING
    norm_eps: float = MISSING
    loop: str = MISSING
    block: str = MISSING


@dataclass
class ScalingSection:
    """ε = λ · N^(−α) · m_L^(−β): the rule names the exponents, `multiplier` is λ, `ref_layers` is L_ref.

    `alpha` and `beta`, where given, stand in for the rule's own.
    """

    rule: str = MISSING
    alpha: float | None = None
    beta: float | None = None
    ref_layers: int = MISSING
    multiplier: float = MISSING


@dataclass
class OptimizerSection:
    """AdamW and the base values of the per-tensor table."""

    base_lr: float = MISSING
    init_std: float = MISSING
    beta1: float = MISSING
    beta2: float = MISSING
    eps: float = MISSING
    weight_decay: float = MISSING
    grad_clip: float | None = MISSING


@dataclass
class ScheduleSection:
    """Optimizer steps: all, of warmup, of final decay."""

    steps: int = MISSING
    warmup: int = MISSING
    decay: int = MISSING


@dataclass
class BatchSection:
    """One optimizer step: sequences × tokens."""

    sequences: int = MISSING
    seq_len: int = MISSING


@dataclass
class TokenizerSection:
    """`bpe` trains a small byte-level BPE on the training split, `llama3` is the published one; `path`: one's own."""

    kind: str = MISSING
    vocab_size: int = MISSING
    path: str | None = None


@dataclass
class DataSection:
    """Where text comes from; `path` replaces the named source by a directory of one's own, `files` limits the hub's."""

    name: str = MISSING
    path: str | None = None
    text_column: str = "text"
    tokenizer: TokenizerSection = field(default_factory=TokenizerSection)
    shard_tokens: int = MISSING
    val_fraction: float = MISSING
    files: int | None = None


@dataclass
class GridSection:
    """Axes of the sweeps."""

    base_lr: list[float] = MISSING
    n_loops: list[int] = MISSING
    seeds: list[int] = MISSING


@dataclass
class ValidationSection:
    """A fixed set of `tokens`, scored every `every` steps and at the end."""

    tokens: int = MISSING
    every: int = MISSING


@dataclass
class ExecutionSection:
    """How runs are carried out; none of this changes what a run is.

    Activations are recomputed where a run would otherwise need more than `memory_gib`; `recompute` decides it by hand.
    """

    device: str = MISSING
    micro_batch: int = MISSING
    compile: bool = MISSING
    recompute: bool | None = None
    memory_gib: float | None = None
    threads: int = MISSING
    log_every: int = MISSING
    checkpoint_every: int = MISSING


@dataclass
class TrackingSection:
    """Where runs are mirrored to, see `sweeper.run.execution.Tracking`."""

    mode: str = MISSING
    project: str = MISSING
    entity: str | None = MISSING
    base_url: str = MISSING
    init_timeout: float = MISSING
    finish_timeout: float = MISSING


@dataclass
class PathsSection:
    """Where runs, sweep manifests and prepared data lie; never part of a record."""

    runs: str = MISSING
    sweeps: str = MISSING
    data: str = MISSING


@dataclass
class Config(KindSections):
    """Root of the tree."""

    kind: str = MISSING
    preset: str = MISSING
    panel: str = MISSING
    experiment: str = MISSING
    seed: int = MISSING
    precision: str = MISSING
    diverged_above: float = MISSING
    model: ModelSection = field(default_factory=ModelSection)
    scaling: ScalingSection = field(default_factory=ScalingSection)
    optimizer: OptimizerSection = field(default_factory=OptimizerSection)
    schedule: ScheduleSection = field(default_factory=ScheduleSection)
    batch: BatchSection = field(default_factory=BatchSection)
    validation: ValidationSection = field(default_factory=ValidationSection)
    data: DataSection = field(default_factory=DataSection)
    grid: GridSection = field(default_factory=GridSection)
    execution: ExecutionSection = field(default_factory=ExecutionSection)
    tracking: TrackingSection = field(default_factory=TrackingSection)
    paths: PathsSection = field(default_factory=PathsSection)


def register() -> None:
    """Make the schema and the resolvers of `conf/` known to Hydra. Idempotent."""
    ConfigStore.instance().store(name="schema", node=Config)
    OmegaConf.register_new_resolver("times", lambda a, b: a * b, replace=True)
    OmegaConf.register_new_resolver("comma", lambda items: ",".join(str(i) for i in items), replace=True)
