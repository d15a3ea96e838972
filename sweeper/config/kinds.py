"""What each kind of run reads from the configuration: its section, and the resolver that makes a run of it.

Sections have the names of the kinds. Resolvers are named by the rows of `sweeper.run.spec.KINDS`.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from omegaconf import MISSING

from model import RULES, ModelConfig, ParameterRow, ScalingRule, parameter_table, residual_scale
from sweeper.run.schedule import Schedule
from sweeper.run.spec import ProbeConfig, RunConfig, TheoryConfig

if TYPE_CHECKING:
    from sweeper.config.schema import Config


@dataclass
class WidthSection:
    """Width of a model, and what follows from it."""

    d_model: int = MISSING
    n_heads: int = MISSING
    mlp_dim: int = MISSING
    init_std: float = MISSING


@dataclass
class ProbeSection(WidthSection):
    """A run of kind `probe`, and the preset's shape and axes of a sweep of them.

    `depth` is what the panel counts, loops or layers. `increment_layers` layers make one of the increments whose
    cosines are read out; null for no read-out. `copies` is the width of Figure 3a's 64 independent stacks.
    """

    depth: int = 1
    increment_layers: int | None = None
    vocab_size: int = MISSING
    copies: WidthSection = field(default_factory=WidthSection)
    depths: list[int] = MISSING
    seeds: list[int] = MISSING


@dataclass
class TheorySection:
    """A run of kind `theory`: width, whether loop steps share their matrices, and draws."""

    d_model: int = 1024
    shared: bool = True
    draws: int = 10


@dataclass
class KindSections:
    """The sections of all kinds. A training has none of its own."""

    probe: ProbeSection = field(default_factory=ProbeSection)
    theory: TheorySection = field(default_factory=TheorySection)


def _rule(tree: "Config") -> ScalingRule:
    named = RULES[tree.scaling.rule]
    alpha, beta = tree.scaling.alpha, tree.scaling.beta
    return ScalingRule(named.alpha if alpha is None else alpha, named.beta if beta is None else beta)


def _table(tree: "Config", model: ModelConfig, depth_multiplier: float) -> tuple[ParameterRow, ...]:
    optimizer = tree.optimizer
    return parameter_table(
        base_lr=optimizer.base_lr,
        init_std=optimizer.init_std,
        eps=optimizer.eps,
        weight_decay=optimizer.weight_decay,
        depth_multiplier=depth_multiplier,
        block=model.block,
        loop=model.loop,
    )


def _model(tree: "Config", epsilon: float) -> ModelConfig:
    model = ModelConfig(**vars(tree.model), residual_scale=epsilon, max_seq_len=tree.batch.seq_len)
    return model.without_idle_loop()


def training(tree: "Config", manifest_hash: str) -> RunConfig:
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
    )


def probe(tree: "Config", manifest_hash: str) -> ProbeConfig:
    """At initialisation the rules read 1, 1/√k, 1/k, where k counts loops or layers, and every rate is η0."""
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
    )


def theory(tree: "Config", manifest_hash: str) -> TheoryConfig:
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
