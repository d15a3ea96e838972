"""From a composed configuration to a run: its values checked, ε and the rates as numbers."""

from dataclasses import dataclass, fields, replace
from pkgutil import resolve_name
from typing import Any

from omegaconf import DictConfig, OmegaConf

from model import ModelConfig
from sweeper.config.checks import check_residual_scale, check_run, with_keys
from sweeper.config.kinds import Config
from sweeper.data import TASKS, DataSpec, TokenizerSpec, make_task
from sweeper.errors import UserError
from sweeper.run.base import Run
from sweeper.run.execution import Execution, Tracking
from sweeper.run.spec import KINDS


@dataclass(frozen=True)
class ResolvedRun:
    """A run, how to carry it out, and where it stands in a sweep's grid.

    `axes` are the plotted coordinates: panel, rule, architecture, n_layers, ref_layers, depth_multiplier, n_loops,
    base_lr, d_model, seed.
    """

    config: Run
    execution: Execution
    axes: dict[str, Any]

    def on_data(self, manifest_hash: str) -> "ResolvedRun":
        """The same run on other data; a run that reads none stays as it is."""
        return replace(self, config=self.config.on_data(manifest_hash))


def data_spec(config: DictConfig) -> DataSpec:
    """The data section as the data package's own value."""
    section = OmegaConf.to_container(config.data, resolve=True)
    assert isinstance(section, dict)
    task, name = section["task"], section["name"]
    if (task is not None) != (name in TASKS):
        names = " or ".join(TASKS)
        raise UserError(f"data.name={name} and data.task do not go together; choose a task by data={names}")
    if task is not None:
        section["task"] = make_task(name, task)
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
        run: Run = resolve_name(KINDS[tree.kind].resolver)(tree, manifest_hash)
    except ValueError as error:
        raise UserError(with_keys(str(error))) from error
    except OverflowError as error:  # of a power in ε
        raise UserError("scaling: residual_scale overflows; choose another scaling.alpha or scaling.beta") from error
    check_residual_scale(run.residual_scale)
    axes = {
        "panel": tree.panel,
        "rule": _rule_name(tree),
        "architecture": architecture_name(tree.model.loop, tree.model.block),
        "n_layers": tree.model.n_layers,
        "ref_layers": tree.scaling.ref_layers,
        "depth_multiplier": tree.model.n_layers / tree.scaling.ref_layers,
        "n_loops": tree.model.n_loops,
        "base_lr": tree.optimizer.base_lr,
        "d_model": run.d_model,
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


def _rule_name(tree: Config) -> str:
    """Of the rule, or its exponents where they are given instead."""
    given = {"alpha": tree.scaling.alpha, "beta": tree.scaling.beta}
    return " ".join(f"{key}={value:g}" for key, value in given.items() if value is not None) or tree.scaling.rule


def architecture_name(loop: str, block: str) -> str:
    """Of a model's `loop` and `block`, by what is not neutral: plain, add, post_norm, add+post_norm."""
    neutral = {field.name: field.default for field in fields(ModelConfig)}
    return "+".join(v for k, v in (("loop", loop), ("block", block)) if v != neutral[k]) or "plain"


def _execution(tree: Config, run: Run) -> Execution:
    fields = vars(tree.execution).copy()
    budget, recompute = fields.pop("memory_gib"), fields.pop("recompute")
    tracking = Tracking(**vars(tree.tracking))
    execution = Execution(**fields, recompute=False, validate_every=tree.validation.every, tracking=tracking)
    return run.fitted(execution, budget, recompute)
