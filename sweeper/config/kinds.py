"""The root of the configuration, and what each kind of run makes of it: its section and its resolver.

Sections have the names of the kinds. Resolvers are named by the rows of `sweeper.run.spec.KINDS`. A resolver gets
values that keep the rules of their types. It raises `ValueError`, naming the keys, for values that do not go together.
"""

import re
from dataclasses import dataclass, field
from typing import Annotated

from omegaconf import MISSING

from model import RULES, ModelConfig, ParameterRow, ScalingRule, parameter_table, residual_scale
from sweeper.config.design import DESIGNS
from sweeper.config.rules import (
    Count,
    CountOrZero,
    Counts,
    Line,
    Name,
    Positive,
    Seed,
    Seeds,
    at_least,
    at_most,
    one_of,
)
from sweeper.config.schema import (
    ArchitecturesSection,
    BatchSection,
    DataSection,
    ExecutionSection,
    GridSection,
    ModelSection,
    OptimizerSection,
    PathsSection,
    RefineSection,
    ScalingSection,
    ScheduleSection,
    TrackingSection,
    ValidationSection,
)
from sweeper.run.schedule import Schedule
from sweeper.run.spec import KINDS, PRECISIONS, ProbeConfig, RunConfig, TheoryConfig

# The keys and sections whose values determine the result of a run, by its kind.
READS: dict[str, tuple[str, ...]] = {
    RunConfig.KIND: (
        *("model", "scaling", "optimizer", "schedule", "batch", "data", "validation.tokens"),
        *("precision", "diverged_above", "diagnostics", "stop_lost"),
    ),
    ProbeConfig.KIND: ("model", "scaling", "optimizer", "schedule", "batch", "probe.increment_layers", "probe.warmup"),
    TheoryConfig.KIND: ("scaling", "theory"),
}
Draws = Annotated[int, at_least(1), at_most(1_000_000)]  # each has a seed in the run's record


@dataclass
class WidthSection:
    """Width of a model, and what follows from it."""

    d_model: Count = MISSING
    n_heads: Count = MISSING
    mlp_dim: Count = MISSING
    init_std: Positive = MISSING


@dataclass
class ProbeSection(WidthSection):
    """A run of kind `probe`, and the preset's shape and axes of a sweep of them.

    `depth` is what the panel counts, loops or layers. `increment_layers` layers make one of the increments whose
    cosines are read out; null for no read-out. `warmup` steps pass until the rate is reached, more than the run has if
    need be. `copies` is the width of Figure 3a's 64 independent stacks.
    """

    depth: Count = 1
    increment_layers: Count | None = None
    warmup: CountOrZero = 0
    vocab_size: Count = MISSING
    copies: WidthSection = field(default_factory=WidthSection)
    depths: Counts = MISSING
    seeds: Seeds = MISSING


@dataclass
class TheorySection:
    """A run of kind `theory`: width, whether loop steps share their matrices, and draws."""

    d_model: Count = 1024
    shared: bool = True
    draws: Draws = 10


@dataclass
class Config:
    """Root of the tree. What sweeps fill other values from comes first, so that a check names the key as typed."""

    probe: ProbeSection = field(default_factory=ProbeSection)
    theory: TheorySection = field(default_factory=TheorySection)
    kind: Annotated[str, one_of(KINDS)] = MISSING
    preset: Name = MISSING
    panel: Name = MISSING
    experiment: Name = MISSING
    title: Line | None = None
    design: Annotated[str, one_of(DESIGNS)] = MISSING
    refine: RefineSection = field(default_factory=RefineSection)
    seed: Seed = MISSING
    precision: Annotated[str, one_of(PRECISIONS)] = MISSING
    diverged_above: Positive = MISSING
    diagnostics: bool = MISSING
    stop_lost: bool = MISSING
    grid: GridSection = field(default_factory=GridSection)
    architectures: ArchitecturesSection = field(default_factory=ArchitecturesSection)
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


def _rule(tree: Config) -> ScalingRule:
    named = RULES[tree.scaling.rule]
    alpha, beta = tree.scaling.alpha, tree.scaling.beta
    return ScalingRule(named.alpha if alpha is None else alpha, named.beta if beta is None else beta)


def _table(tree: Config, model: ModelConfig, depth_multiplier: float) -> tuple[ParameterRow, ...]:
    optimizer = tree.optimizer
    return parameter_table(
        base_lr=optimizer.base_lr,
        init_std=optimizer.init_std,
        eps=optimizer.eps,
        weight_decay=optimizer.weight_decay,
        depth_multiplier=depth_multiplier,
        applications=model.n_layers * model.n_loops,
        block=model.block,
        loop=model.loop,
        parts=model.parts,
        optimizer=optimizer.kind,
        d_model=model.d_model,
    )


def _model(tree: Config, epsilon: float) -> ModelConfig:
    model = ModelConfig(**vars(tree.model), residual_scale=epsilon, max_seq_len=tree.batch.seq_len)
    return model.without_idle_loop()


def training(tree: Config, manifest_hash: str) -> RunConfig:
    """ε and the rates follow from N, L and L_ref."""
    counts = {"n_loops": tree.model.n_loops, "n_layers": tree.model.n_layers, "ref_layers": tree.scaling.ref_layers}
    epsilon = residual_scale(_rule(tree), **counts, multiplier=tree.scaling.multiplier)
    model = _model(tree, epsilon)
    return RunConfig(
        model=model,
        table=_table(tree, model, tree.model.n_layers / tree.scaling.ref_layers),
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
        diagnostics=tree.diagnostics,
        stop_lost=tree.stop_lost,
    )


def probe(tree: Config, manifest_hash: str) -> ProbeConfig:
    """At initialisation the rules read 1, 1/√k, 1/k, where k counts loops or layers, and rates ignore the depth."""
    _check_probe(tree)
    depth = tree.model.n_loops * tree.model.n_layers
    epsilon = residual_scale(_rule(tree), depth, 1, ref_layers=1, multiplier=tree.scaling.multiplier)
    model = _model(tree, epsilon)
    return ProbeConfig(
        model=model,
        table=_table(tree, model, 1.0),
        betas=(tree.optimizer.beta1, tree.optimizer.beta2),
        steps=tree.schedule.steps,
        sequences=tree.batch.sequences,
        seq_len=tree.batch.seq_len,
        seed=tree.seed,
        increment_layers=tree.probe.increment_layers,
        warmup=tree.probe.warmup,
    )


def theory(tree: Config, manifest_hash: str) -> TheoryConfig:
    """ε = λ · N^(−α) · L^(−β): the toy model has no reference depth."""
    n_loops, n_layers = tree.model.n_loops, tree.model.n_layers
    return TheoryConfig(
        d_model=tree.theory.d_model,
        n_layers=n_layers,
        n_loops=n_loops,
        residual_scale=residual_scale(_rule(tree), n_loops, n_layers, ref_layers=1, multiplier=tree.scaling.multiplier),
        shared=tree.theory.shared,
        seeds=tuple(range(tree.seed, tree.seed + tree.theory.draws)),
    )


def _check_probe(tree: Config) -> None:
    layers, per_increment = tree.model.n_layers, tree.probe.increment_layers
    if per_increment is not None and layers % per_increment:
        raise ValueError(f"model.n_layers={layers} is not a multiple of probe.increment_layers={per_increment}")
    for prefix, width in (("probe", tree.probe), ("probe.copies", tree.probe.copies)):
        try:
            ModelConfig(1, width.d_model, width.n_heads, width.mlp_dim, n_layers=1, n_loops=1)
        except ValueError as error:
            raise ValueError(re.sub(r"\w+(?=[=/])", rf"{prefix}.\g<0>", str(error))) from error
