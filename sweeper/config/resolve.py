"""From a composed configuration to a run: its values checked, ε and the rates as numbers."""

from dataclasses import dataclass, replace
from typing import Any

from omegaconf import DictConfig, OmegaConf

from model import RULES, ModelConfig, ParameterRow, ScalingRule, parameter_table, residual_scale
from sweeper.config.checks import check_residual_scale, check_run, with_keys
from sweeper.config.schema import Config
from sweeper.data import DataSpec, TokenizerSpec
from sweeper.errors import UserError
from sweeper.run.execution import Execution, Tracking
from sweeper.run.memory import needs_recompute
from sweeper.run.schedule import Schedule
from sweeper.run.spec import AnyRun, ProbeConfig, RunConfig, TheoryConfig


@dataclass(frozen=True)
class ResolvedRun:
    """A run, how to carry it out, and where it stands in a sweep's grid.

    `axes` are the plotted coordinates: panel, rule, n_layers, ref_layers, depth_multiplier, n_loops, base_lr,
    d_model, seed.
    """

    config: AnyRun
    execution: Execution
    axes: dict[str, Any]

    def on_data(self, manifest_hash: str) -> "ResolvedRun":
        """The same run on other data; a run that reads none stays as it is."""
        if not isinstance(self.config, RunConfig):
            return self
        return replace(self, config=replace(self.config, data=manifest_hash))


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
    check_run(tree)
    try:
        run: AnyRun
        match tree.kind:
            case ProbeConfig.KIND:
                run = _probe(tree)
            case TheoryConfig.KIND:
                run = _theory(tree)
            case _:
                run = _training(tree, manifest_hash)
    except ValueError as error:
        raise UserError(with_keys(str(error))) from error
    check_residual_scale(run.residual_scale)
    axes = {
        "panel": tree.panel,
        "rule": _rule_name(tree),
        "n_layers": tree.model.n_layers,
        "ref_layers": tree.scaling.ref_layers,
        "depth_multiplier": tree.model.n_layers / tree.scaling.ref_layers,
        "n_loops": tree.model.n_loops,
        "base_lr": tree.optimizer.base_lr,
        "d_model": tree.theory.d_model if tree.kind == TheoryConfig.KIND else tree.model.d_model,
        "seed": tree.seed,
    }
    return ResolvedRun(config=run, execution=_execution(tree, run), axes=axes)


def depth_warning(axes: dict[str, Any]) -> str | None:
    """One line when L is not a whole multiple of L_ref, as every one of the paper's depths is."""
    if float(axes["depth_multiplier"]).is_integer():
        return None
    return (
        f"model.n_layers={axes['n_layers']} is not a multiple of scaling.ref_layers={axes['ref_layers']}: "
        f"m_L becomes {axes['depth_multiplier']:g}"
    )


def _rule(tree: Config) -> ScalingRule:
    named = RULES[tree.scaling.rule]
    alpha, beta = tree.scaling.alpha, tree.scaling.beta
    return ScalingRule(named.alpha if alpha is None else alpha, named.beta if beta is None else beta)


def _rule_name(tree: Config) -> str:
    """Of the rule, or its exponents where they are given instead."""
    given = {"alpha": tree.scaling.alpha, "beta": tree.scaling.beta}
    return " ".join(f"{key}={value:g}" for key, value in given.items() if value is not None) or tree.scaling.rule


def _table(tree: Config, model: ModelConfig, depth_multiplier: float) -> tuple[ParameterRow, ...]:
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


def _model(tree: Config, epsilon: float) -> ModelConfig:
    model = ModelConfig(**vars(tree.model), residual_scale=epsilon, max_seq_len=tree.batch.seq_len)
    return model.without_idle_loop()


def _training(tree: Config, manifest_hash: str) -> RunConfig:
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


def _probe(tree: Config) -> ProbeConfig:
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


def _execution(tree: Config, run: AnyRun) -> Execution:
    fields = vars(tree.execution).copy()
    budget = fields.pop("memory_gib")
    if fields["recompute"] is None:
        exceeded = isinstance(run, RunConfig) and needs_recompute(run, tree.execution.micro_batch, budget)
        fields["recompute"] = exceeded
    tracking = Tracking(**vars(tree.tracking))
    return Execution(**fields, validate_every=tree.validation.every, tracking=tracking)


def _theory(tree: Config) -> TheoryConfig:
    n_loops, n_layers = tree.model.n_loops, tree.model.n_layers
    return TheoryConfig(
        d_model=tree.theory.d_model,
        n_layers=n_layers,
        n_loops=n_loops,
        residual_scale=residual_scale(_rule(tree), n_loops, n_layers, ref_layers=1, multiplier=tree.scaling.multiplier),
        shared=tree.theory.shared,
        seeds=tuple(range(tree.seed, tree.seed + tree.theory.draws)),
    )
