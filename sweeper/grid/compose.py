"""From Hydra's list of jobs to the runs of a grid, in milliseconds a job.

Composing a job through Hydra takes some 80 ms, so a grid of 600 would take minutes. Jobs of one grid differ in plain
values almost everywhere and in config groups (a panel) almost nowhere: compose once per choice of everything that is
not a varying plain value, and set the values on that.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import OverrideType
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict

from sweeper.config.checks import check_rates


def compose_jobs(context: HydraContext, config: DictConfig, jobs: Sequence[Sequence[str]]) -> Iterator[DictConfig]:
    """The task configuration of every job in turn, equal to what Hydra composes for it.

    Args:
        context: of the running Hydra application.
        config: the multirun's master configuration.
        jobs: overrides of each job, in whatever number of grids.

    Yields:
        A configuration that is valid until the next one is asked for: jobs that differ in plain values only share it.
    """
    loader = context.config_loader
    parser = OverridesParser.create(config_loader=loader)
    parsed = {text: parser.parse_override(text) for text in {text for job in jobs for text in job}}
    shared = set(jobs[0]).intersection(*jobs) if jobs else set()
    keys = {override.key_or_group for text, override in parsed.items() if text not in shared}
    groups = {key for key in keys if loader.get_group_options(key)}
    plain = {
        text
        for text, override in parsed.items()
        if text not in shared
        and override.type == OverrideType.CHANGE
        and override.package is None
        and override.key_or_group not in groups
    }
    bases: dict[tuple[Any, ...], DictConfig] = {}
    for job in jobs:
        rest = [text for text in job if text not in plain]
        values = {parsed[text].key_or_group: parsed[text].value() for text in job if text in plain}
        base = (*rest, frozenset(values))  # jobs on one base set the same keys: none inherits another's value
        if base not in bases:
            bases[base] = loader.load_sweep_config(config, rest)
            with open_dict(bases[base]):
                del bases[base]["hydra"]
            if not _refers(bases[base], values):
                OmegaConf.resolve(bases[base])  # once, and not with every job
        for key, value in values.items():
            OmegaConf.update(bases[base], key, value, merge=True)
        yield bases[base]


def _refers(config: DictConfig, keys: Iterable[str]) -> bool:
    """Whether an interpolation somewhere in the tree may depend on one of the keys: it shares a word with it."""
    found = (text.partition("${")[2] for text in _strings(OmegaConf.to_container(config)))
    words = {word for text in found for word in re.findall(r"\w+", text)}
    return not words.isdisjoint(part for key in keys for part in key.split("."))


def _strings(tree: Any) -> Iterator[str]:
    """The strings among the leaves of nested dicts and lists."""
    if isinstance(tree, str):
        yield tree
    elif isinstance(tree, dict | list):
        for child in tree.values() if isinstance(tree, dict) else tree:
            yield from _strings(child)


def check_axes(jobs: Sequence[Sequence[str]]) -> None:
    """The rates a grid sweeps over, wherever they were given, are positive and increasing.

    Raises:
        UserError: if they are not, or the grid is empty.
    """
    rates: dict[str, None] = {}
    for job in jobs:
        for text in job:
            key, _, value = text.partition("=")
            if key == "optimizer.base_lr":
                rates[value] = None
    if rates:
        check_rates("optimizer.base_lr", [_number(rate) for rate in rates])


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")
