"""From a composed configuration to a run: the checks that types cannot express, and ε and the rates as numbers."""

import math
from dataclasses import dataclass, is_dataclass, replace
from itertools import pairwise
from pkgutil import resolve_name
from typing import Any

from omegaconf import DictConfig, OmegaConf

from model import RULES
from sweeper.config.schema import Config
from sweeper.data import DataSpec, TokenizerSpec
from sweeper.errors import UserError
from sweeper.run.execution import MODES, Execution, Tracking
from sweeper.run.spec import KINDS, Run


@dataclass(frozen=True)
class ResolvedRun:
    """A run, how to carry it out, and where it stands in a sweep's grid.

    `axes` are the plotted coordinates: panel, rule, n_layers, ref_layers, depth_multiplier, n_loops, base_lr,
    d_model, seed.
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
    _check(tree)
    try:
        run: Run = resolve_name(KINDS[tree.kind].resolver)(tree, manifest_hash)
    except ValueError as error:
        raise UserError(str(error)) from error
    axes = {
        "panel": tree.panel,
        "rule": _rule_name(tree),
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


def _rule_name(tree: Config) -> str:
    """Of the rule, or its exponents where they are given instead."""
    given = {"alpha": tree.scaling.alpha, "beta": tree.scaling.beta}
    return " ".join(f"{key}={value:g}" for key, value in given.items() if value is not None) or tree.scaling.rule


def _execution(tree: Config, run: Run) -> Execution:
    fields = vars(tree.execution).copy()
    budget = fields.pop("memory_gib")
    if fields["recompute"] is None:
        fields["recompute"] = run.needs_recompute(tree.execution.micro_batch, budget)
    tracking = Tracking(**vars(tree.tracking))
    return Execution(**fields, validate_every=tree.validation.every, tracking=tracking)


def _check(tree: Config) -> None:
    _require_choice("kind", tree.kind, tuple(KINDS))
    _require_choice("precision", tree.precision, ("fp32", "bf16"))
    _require_choice("execution.device", tree.execution.device, ("cpu", "cuda"))
    _require_choice("tracking.mode", tree.tracking.mode, MODES)
    _require_choice("scaling.rule", tree.scaling.rule, tuple(RULES))
    for key, value in _positive_values(tree).items():
        if not (value > 0 and math.isfinite(value)):
            raise UserError(f"{key}={value} must be positive")
    if tree.batch.sequences % tree.execution.micro_batch:
        raise UserError(
            f"batch.sequences={tree.batch.sequences} is not a multiple of "
            f"execution.micro_batch={tree.execution.micro_batch}"
        )
    if KINDS[tree.kind].reads_data and tree.model.vocab_size < tree.data.tokenizer.vocab_size:
        raise UserError(
            f"model.vocab_size={tree.model.vocab_size} is smaller than "
            f"data.tokenizer.vocab_size={tree.data.tokenizer.vocab_size}"
        )


def _positive_values(tree: Config) -> dict[str, float]:
    sections = {
        "optimizer": ("base_lr", "init_std", "eps", "grad_clip"),
        "batch": ("sequences", "seq_len"),
        "validation": ("tokens", "every"),
        "execution": ("micro_batch", "memory_gib", "threads", "log_every", "checkpoint_every"),
        "scaling": ("ref_layers", "multiplier"),
        "probe": ("increment_layers",),
        "theory": ("d_model", "draws"),
        "tracking": ("init_timeout", "finish_timeout"),
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
