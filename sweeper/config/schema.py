"""The sections of the configuration: every key, its type, and the rule that its value keeps. The root is in `kinds`.

Hydra refuses an unknown key and a wrong type. `sweeper.config.checks` reads the rules off the types, and holds what no
field can say alone. Values are in `conf/`.
"""

from dataclasses import dataclass, field
from typing import Annotated

from omegaconf import MISSING

from model import BLOCKS, LOOPS, PART_SETS, RULES
from model.parameter_row import OPTIMIZERS
from sweeper.config.rules import (
    DISTINCT,
    FINITE,
    FITS_FLOAT32,
    AverageFactor,
    Count,
    CountOrZero,
    Counts,
    Exponent,
    Folder,
    Line,
    Name,
    NotNegative,
    Positive,
    Rates,
    Seconds,
    Seeds,
    Share,
    at_least,
    at_most,
    matching,
    one_of,
)
from sweeper.run.execution import MODES

RotaryBase = Annotated[float, FINITE, at_least(1), FITS_FLOAT32]
Threads = Annotated[int, at_least(1), at_most(1024)]
Project = Annotated[
    str, matching(r"[^/\\#?%:\x00-\x1f]{1,128}", "a wandb project: 1 to 128 characters, none of / \\ # ? % :")
]
Entity = Annotated[str, matching(r"[\w.-]{1,128}", "a wandb account: letters, digits and any of ._-")]
Address = Annotated[str, matching(r"https?://[^\s/]+(/\S*)?", "an address such as https://api.wandb.ai")]


@dataclass
class ModelSection:
    """Shape of the model; `n_layers` usually comes from the panel, as a multiple of `scaling.ref_layers`.

    `loop` says how the state passes from one loop step to the next, `block` where a block has its norms, `parts` what
    norms, attention, MLP and head are.
    """

    vocab_size: Count = MISSING
    d_model: Count = MISSING
    n_heads: Count = MISSING
    mlp_dim: Count = MISSING
    n_layers: Count = MISSING
    n_loops: Count = MISSING
    rope_theta: RotaryBase = MISSING
    norm_eps: Positive = MISSING
    loop: Annotated[str, one_of(LOOPS)] = MISSING
    block: Annotated[str, one_of(BLOCKS)] = MISSING
    parts: Annotated[str, one_of(PART_SETS)] = MISSING


@dataclass
class ScalingSection:
    """ε = λ · N^(−α) · m_L^(−β): the rule names the exponents, `multiplier` is λ, `ref_layers` is L_ref.

    `alpha` and `beta`, where given, stand in for the rule's own.
    """

    rule: Annotated[str, one_of(RULES)] = MISSING
    alpha: Exponent | None = None
    beta: Exponent | None = None
    ref_layers: Count = MISSING
    multiplier: Positive = MISSING


@dataclass
class OptimizerSection:
    """The optimizer of the blocks' matrices, AdamW's numbers, and the base values of the per-tensor table."""

    kind: Annotated[str, one_of(OPTIMIZERS)] = MISSING
    base_lr: Positive = MISSING
    init_std: Positive = MISSING
    beta1: AverageFactor = MISSING
    beta2: AverageFactor = MISSING
    eps: Positive = MISSING
    weight_decay: NotNegative = MISSING
    grad_clip: Positive | None = MISSING


@dataclass
class ScheduleSection:
    """Optimizer steps: all, of warmup, of final decay."""

    steps: Count = MISSING
    warmup: CountOrZero = MISSING
    decay: CountOrZero = MISSING


@dataclass
class BatchSection:
    """One optimizer step: sequences × tokens."""

    sequences: Count = MISSING
    seq_len: Count = MISSING


@dataclass
class TokenizerSection:
    """`bpe` trains a small byte-level BPE on the training split, `llama3` is the published one; `path` is a file."""

    kind: Name = MISSING
    vocab_size: Count = MISSING
    path: Line | None = None


@dataclass
class TaskSection:
    """A task whose examples are drawn: `levels` are trained, `beyond` only measured; null where a task has no such."""

    levels: Counts = MISSING
    beyond: Annotated[list[Count], DISTINCT] = MISSING
    alphabet: Count | None = None
    length: Count | None = None


@dataclass
class DataSection:
    """Where text comes from; `path` replaces the named source by a directory, `files` limits the hub's.

    `task` stands in place of text where the source is a task.
    """

    name: Name = MISSING
    path: Line | None = None
    text_column: Line = "text"
    tokenizer: TokenizerSection = field(default_factory=TokenizerSection)
    shard_tokens: Count = MISSING
    val_fraction: Share = MISSING
    files: Count | None = None
    task: TaskSection | None = None


@dataclass
class GridSection:
    """Axes of the sweeps."""

    base_lr: Rates = MISSING
    n_loops: Counts = MISSING
    seeds: Seeds = MISSING


@dataclass
class RefineSection:
    """Set by `loopsweep refine`: the number of its round, 0 for none, and why it adds these runs."""

    round: Annotated[int, at_least(0), at_most(99)] = 0
    reason: Line | None = None


@dataclass
class ArchitecturesSection:
    """Depth and axes of the sweep `architectures`. `kin_loops` are the N of what neither paper is about."""

    n_layers: Count = MISSING
    n_loops: Counts = MISSING
    kin_loops: Counts = MISSING
    base_lr: Rates = MISSING


@dataclass
class ValidationSection:
    """A fixed set of `tokens`, scored every `every` steps and at the end."""

    tokens: Count = MISSING
    every: Count = MISSING


@dataclass
class ExecutionSection:
    """How runs are executed. Nothing here changes what a run is.

    Activations are recomputed where a run would otherwise need more than `memory_gib`; `recompute` overrides that. On a
    GPU `micro_batch` is an upper limit: a smaller one that fits comes before recomputation. Keys with a default are for
    GPUs, see `sweeper.run.execution.Execution`.
    """

    device: Annotated[str, one_of(("cpu", "cuda"))] = MISSING
    micro_batch: Count = MISSING
    compile: bool = MISSING
    recompute: bool | None = None
    memory_gib: Positive | None = None
    threads: Threads = MISSING
    log_every: Count = MISSING
    checkpoint_every: Count = MISSING
    probe_memory: bool = True
    fused_loss: bool = True
    bf16_weights: bool = True
    flat_gradients: bool = True
    allow_uncompiled: bool = False
    deterministic: bool = False


@dataclass
class TrackingSection:
    """Where runs are mirrored to, see `sweeper.run.execution.Tracking`."""

    mode: Annotated[str, one_of(MODES)] = MISSING
    project: Project = MISSING
    entity: Entity | None = MISSING
    base_url: Address = MISSING
    init_timeout: Seconds = MISSING
    finish_timeout: Seconds = MISSING


@dataclass
class PathsSection:
    """Where runs, sweep manifests and prepared data lie; never part of a record. Without `sweeps`, beside the runs."""

    runs: Folder = MISSING
    sweeps: Folder | None = None
    data: Folder = MISSING
