"""The configuration tree that Hydra composes: every key, its type, and the rule that its value keeps.

Hydra refuses an unknown key and a wrong type. `sweeper.config.checks` reads the rules off the types, and holds what no
field can say alone. Values are in `conf/`.
"""

import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf

from model import BLOCKS, LOOPS, RULES
from sweeper.config.kinds import KindSections
from sweeper.config.rules import (
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
    Seed,
    Seeds,
    Share,
    at_least,
    at_most,
    matching,
    one_of,
)
from sweeper.run.execution import MODES
from sweeper.run.spec import KINDS, PRECISIONS

CONFIG_DIR = Path(__file__).resolve().parents[2] / "conf"
PLUGINS = str(Path(__file__).resolve().parents[1] / "plugins")
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

    `loop` says how the state passes from one loop step to the next, `block` where a block has its norms.
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
    """AdamW and the base values of the per-tensor table."""

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
class DataSection:
    """Where text comes from; `path` replaces the named source by a directory, `files` limits the hub's."""

    name: Name = MISSING
    path: Line | None = None
    text_column: Line = "text"
    tokenizer: TokenizerSection = field(default_factory=TokenizerSection)
    shard_tokens: Count = MISSING
    val_fraction: Share = MISSING
    files: Count | None = None


@dataclass
class GridSection:
    """Axes of the sweeps."""

    base_lr: Rates = MISSING
    n_loops: Counts = MISSING
    seeds: Seeds = MISSING


@dataclass
class ValidationSection:
    """A fixed set of `tokens`, scored every `every` steps and at the end."""

    tokens: Count = MISSING
    every: Count = MISSING


@dataclass
class ExecutionSection:
    """How runs are executed. Nothing here changes what a run is.

    Activations are recomputed where a run would otherwise need more than `memory_gib`; `recompute` overrides that.
    """

    device: Annotated[str, one_of(("cpu", "cuda"))] = MISSING
    micro_batch: Count = MISSING
    compile: bool = MISSING
    recompute: bool | None = None
    memory_gib: Positive | None = None
    threads: Threads = MISSING
    log_every: Count = MISSING
    checkpoint_every: Count = MISSING


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


@dataclass
class Config(KindSections):
    """Root of the tree. What sweeps fill other values from comes first, so that a check names the key as typed."""

    kind: Annotated[str, one_of(KINDS)] = MISSING
    preset: Name = MISSING
    panel: Name = MISSING
    experiment: Name = MISSING
    title: Line | None = None
    seed: Seed = MISSING
    precision: Annotated[str, one_of(PRECISIONS)] = MISSING
    diverged_above: Positive = MISSING
    grid: GridSection = field(default_factory=GridSection)
    scaling: ScalingSection = field(default_factory=ScalingSection)
    model: ModelSection = field(default_factory=ModelSection)
    optimizer: OptimizerSection = field(default_factory=OptimizerSection)
    schedule: ScheduleSection = field(default_factory=ScheduleSection)
    batch: BatchSection = field(default_factory=BatchSection)
    validation: ValidationSection = field(default_factory=ValidationSection)
    data: DataSection = field(default_factory=DataSection)
    execution: ExecutionSection = field(default_factory=ExecutionSection)
    tracking: TrackingSection = field(default_factory=TrackingSection)
    paths: PathsSection = field(default_factory=PathsSection)


def register() -> None:
    """Make the plugins, the schema, the panels' short names and the resolvers known to Hydra. Idempotent."""
    if (
        PLUGINS not in sys.path
    ):  # Hydra finds the namespace package `hydra_plugins` on the import path, and nowhere else
        sys.path.append(PLUGINS)
    store = ConfigStore.instance().store
    store(name="schema", node=Config)
    for name, option in short_names(CONFIG_DIR / "panel").items():
        store(group="panel", name=name, node={"defaults": [option]}, package="_global_")
    OmegaConf.register_new_resolver("loopsweep.times", lambda a, b: a * b, replace=True)
    OmegaConf.register_new_resolver("loopsweep.comma", lambda items: ",".join(map(str, items)), replace=True)


def short_names(group: Path) -> dict[str, str]:
    """The options in the folders of a group by their last part, where no other has it: `a` for `lr_transfer/a`."""
    options = [f"{file.parent.name}/{file.stem}" for file in sorted(group.glob("*/*.yaml"))]
    count = Counter(Path(option).name for option in options)
    return {Path(option).name: option for option in options if count[Path(option).name] == 1}
