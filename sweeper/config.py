"""The configuration tree that Hydra composes, its types, and the checks that types cannot express.

Values live in `conf/`; here are only names and types, so that an unknown key or a wrong type is an error.
"""

import math
from dataclasses import dataclass, field, is_dataclass
from itertools import pairwise
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

from model import RULES, ModelConfig, parameter_table, residual_scale
from sweeper.data import DataSpec, TokenizerSpec
from sweeper.errors import UserError
from sweeper.run_config import Execution, RunConfig
from sweeper.schedule import Schedule


@dataclass
class ModelSection:
    """Shape of the model; `n_layers` usually comes from the panel, as a multiple of `scaling.ref_layers`."""

    vocab_size: int = MISSING
    d_model: int = MISSING
    n_heads: int = MISSING
    mlp_dim: int = MISSING
    n_layers: int = MISSING
    n_loops: int = MISSING
    rope_theta: float = MISSING
    norm_eps: float = MISSING


@dataclass
class ScalingSection:
    """ε = λ · N^(−α) · m_L^(−β): the rule names the exponents, `multiplier` is λ, `ref_layers` is L_ref."""

    rule: str = MISSING
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
    """`bpe` trains a small byte-level BPE on the training split; `llama3` is the published tokenizer."""

    kind: str = MISSING
    vocab_size: int = MISSING


@dataclass
class DataSection:
    """Where text comes from; `path` replaces the named source by a directory of one's own."""

    name: str = MISSING
    path: str | None = None
    text_column: str = "text"
    tokenizer: TokenizerSection = field(default_factory=TokenizerSection)
    shard_tokens: int = MISSING
    val_fraction: float = MISSING


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
    """How runs are carried out; none of this changes what a run is."""

    device: str = MISSING
    micro_batch: int = MISSING
    compile: bool = MISSING
    recompute: bool = MISSING
    threads: int = MISSING
    log_every: int = MISSING
    checkpoint_every: int = MISSING


@dataclass
class PathsSection:
    """Where runs, sweep manifests and prepared data lie; never part of a record."""

    runs: str = MISSING
    sweeps: str = MISSING
    data: str = MISSING


@dataclass
class Config:
    """Root of the tree."""

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
    paths: PathsSection = field(default_factory=PathsSection)


def register() -> None:
    """Make the schema and the resolvers of `conf/` known to Hydra. Idempotent."""
    ConfigStore.instance().store(name="schema", node=Config)
    OmegaConf.register_new_resolver("times", lambda a, b: a * b, replace=True)
    OmegaConf.register_new_resolver("comma", lambda items: ",".join(str(i) for i in items), replace=True)


@dataclass(frozen=True)
class ResolvedRun:
    """A run, how to carry it out, and where it stands in a sweep's grid.

    `axes` are the plotted coordinates: panel, rule, n_layers, ref_layers, depth_multiplier, n_loops, base_lr, seed.
    """

    config: RunConfig
    execution: Execution
    axes: dict[str, Any]


def data_spec(config: DictConfig) -> DataSpec:
    """The data section as the data package's own value."""
    section = OmegaConf.to_container(config.data, resolve=True)
    assert isinstance(section, dict)
    return DataSpec(**{**section, "tokenizer": TokenizerSpec(**section["tokenizer"])})


def resolve(config: DictConfig, manifest_hash: str) -> ResolvedRun:
    """Check one composed configuration and turn it into a run.

    Args:
        config: an instance of `Config`, composed.
        manifest_hash: of the prepared data; any placeholder while only planning.

    Raises:
        UserError: for a value that is missing, unknown or impossible; the message names the key.
    """
    tree: Config = OmegaConf.to_object(config)  # type: ignore[assignment]
    _refuse_unknown(tree)
    _require_choice("precision", tree.precision, ("fp32", "bf16"))
    _require_choice("execution.device", tree.execution.device, ("cpu", "cuda"))
    _require_choice("scaling.rule", tree.scaling.rule, tuple(RULES))
    for key, value in _positive_values(tree).items():
        if not (value > 0 and math.isfinite(value)):
            raise UserError(f"{key}={value} must be positive")
    if tree.batch.sequences % tree.execution.micro_batch:
        raise UserError(
            f"batch.sequences={tree.batch.sequences} is not a multiple of "
            f"execution.micro_batch={tree.execution.micro_batch}"
        )
    if tree.model.vocab_size < tree.data.tokenizer.vocab_size:
        raise UserError(
            f"model.vocab_size={tree.model.vocab_size} is smaller than "
            f"data.tokenizer.vocab_size={tree.data.tokenizer.vocab_size}"
        )
    try:
        run = _run_config(tree, manifest_hash)
    except ValueError as error:
        raise UserError(str(error)) from error
    depth_multiplier = tree.model.n_layers / tree.scaling.ref_layers
    axes = {
        "panel": tree.panel,
        "rule": tree.scaling.rule,
        "n_layers": tree.model.n_layers,
        "ref_layers": tree.scaling.ref_layers,
        "depth_multiplier": depth_multiplier,
        "n_loops": tree.model.n_loops,
        "base_lr": tree.optimizer.base_lr,
        "seed": tree.seed,
    }
    execution = Execution(**vars(tree.execution), validate_every=tree.validation.every)
    return ResolvedRun(config=run, execution=execution, axes=axes)


def depth_warning(axes: dict[str, Any]) -> str | None:
    """One line when L is not a whole multiple of L_ref, as every one of the paper's depths is."""
    if float(axes["depth_multiplier"]).is_integer():
        return None
    return (
        f"model.n_layers={axes['n_layers']} is not a multiple of scaling.ref_layers={axes['ref_layers']}: "
        f"m_L becomes {axes['depth_multiplier']:g}"
    )


def check_rates(key: str, rates: list[float]) -> None:
    """A learning-rate axis is positive and strictly increasing.

    Raises:
        UserError: naming the key and the values.
    """
    shown = ", ".join(f"{rate:g}" for rate in rates)
    if not rates:
        raise UserError(f"{key} is empty; give at least one learning rate")
    if not all(math.isfinite(rate) and rate > 0 for rate in rates):
        raise UserError(f"{key}=[{shown}] has a rate that is not positive")
    if any(a >= b for a, b in pairwise(rates)):
        raise UserError(f"{key}=[{shown}] is not strictly increasing")


def _run_config(tree: Config, manifest_hash: str) -> RunConfig:
    epsilon = residual_scale(
        tree.scaling.rule,
        tree.model.n_loops,
        tree.model.n_layers,
        ref_layers=tree.scaling.ref_layers,
        multiplier=tree.scaling.multiplier,
    )
    return RunConfig(
        model=ModelConfig(**vars(tree.model), residual_scale=epsilon, max_seq_len=tree.batch.seq_len),
        table=parameter_table(
            base_lr=tree.optimizer.base_lr,
            init_std=tree.optimizer.init_std,
            eps=tree.optimizer.eps,
            weight_decay=tree.optimizer.weight_decay,
            depth_multiplier=tree.model.n_layers / tree.scaling.ref_layers,
        ),
        betas=(tree.optimizer.beta1, tree.optimizer.beta2),
        grad_clip=tree.optimizer.grad_clip,
        schedule=Schedule(**vars(tree.schedule)),
        batch_sequences=tree.batch.sequences,
        seq_len=tree.batch.seq_len,
        validation_tokens=tree.validation.tokens,
        diverged_above=tree.diverged_above,
        data=manifest_hash,
        seed=tree.seed,
        precision=tree.precision,
    )


def _positive_values(tree: Config) -> dict[str, float]:
    sections = {
        "optimizer": ("base_lr", "init_std", "eps", "grad_clip"),
        "batch": ("sequences", "seq_len"),
        "validation": ("tokens", "every"),
        "execution": ("micro_batch", "threads", "log_every", "checkpoint_every"),
        "scaling": ("ref_layers", "multiplier"),
    }
    values: dict[str, float] = {"diverged_above": tree.diverged_above}
    for section, keys in sections.items():
        for key in keys:
            value = getattr(getattr(tree, section), key)
            if value is not None:
                values[f"{section}.{key}"] = value
    return values


def _refuse_unknown(section: Any, prefix: str = "") -> None:
    """Hydra refuses an unknown key, but not one that is added with `+`."""
    for key, value in vars(section).items():
        if key not in (known := type(section).__dataclass_fields__):
            raise UserError(f"{prefix}{key} is unknown; allowed: {', '.join(known)}")
        if is_dataclass(value):
            _refuse_unknown(value, f"{prefix}{key}.")


def _require_choice(key: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UserError(f"{key}={value} is unknown; allowed: {', '.join(allowed)}")
