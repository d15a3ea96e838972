"""Every check of a configuration's values, before anything is written or queued.

A check raises a `UserError` of one line that names the key, its value, what is allowed and, where there is one, the way
out. `check_values` holds each field to the rules of its type (`sweeper.config.rules`). The other functions hold what no
field can say alone: values against each other, the prepared data and this machine. What a part of the program checks
itself (`ModelConfig`, `Schedule`, `DataSpec`) stays there, and `with_keys` gives its message the full keys.
"""

import re
import types
from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from hydra.core.override_parser.types import Override
from omegaconf import MISSING, DictConfig, OmegaConf, open_dict

from sweeper.config.kinds import Config
from sweeper.config.rules import DISTINCT, FLOAT32_MAX, NOT_EMPTY, Rates, Rule, show
from sweeper.config.schema import ModelSection
from sweeper.data import Manifest, passages, task_of
from sweeper.errors import UserError
from sweeper.files import check_writable
from sweeper.hardware import memory_bytes
from sweeper.records.sweep_manifest import sweeps_beside
from sweeper.run.base import Run
from sweeper.run.execution import Execution
from sweeper.run.memory import GIB
from sweeper.run.spec import KINDS, RunConfig

# Names that messages of `model` use, and the keys that they come from.
MODEL_KEYS = {field.name: f"model.{field.name}" for field in fields(ModelSection)} | {
    "ref_layers": "scaling.ref_layers",
    "multiplier": "scaling.multiplier",
    "max_seq_len": "batch.seq_len",
    "residual_scale": "scaling: residual_scale",
    "optimizer": "optimizer.kind",
}


def check_values(section: object, prefix: str = "") -> None:
    """Every field of a section, and of the sections in it, is known and keeps its rules.

    Args:
        section: an instance of a dataclass whose types carry rules.
        prefix: of its keys, such as `model.`; empty for the root.

    Raises:
        UserError: for the first that does not.
    """
    kind: Any = type(section)
    known = _rules(kind)
    for name, value in vars(section).items():
        if name not in known:  # Hydra refuses an unknown key, but not one that is added with `+`
            raise UserError(f"{prefix}{name} is unknown; allowed: {', '.join(known)}")
        if value == MISSING:
            raise UserError(f"{prefix}{name} has no value; give {prefix}{name}=VALUE")
        if is_dataclass(value):
            check_values(value, f"{prefix}{name}.")
        elif value is not None:  # OmegaConf has refused null where the type does
            _check(f"{prefix}{name}", value, *known[name])


def check_composed(config: DictConfig) -> None:
    """The values of a configuration as Hydra hands it over: before a multirun's axes are made of them.

    Raises:
        UserError: for one that is not allowed.
    """
    own = config.copy()
    with open_dict(own):
        del own["hydra"]
    check_values(OmegaConf.to_object(own))
    for plugin in ("launcher", "sweeper"):
        plugin_options(config, plugin)


def plugin_options(config: DictConfig, plugin: str) -> Any:
    """The options of hydra.launcher or hydra.sweeper, as an instance of its node.

    Raises:
        UserError: for one that is not allowed.
    """
    options = OmegaConf.to_object(config.hydra[plugin])
    if is_dataclass(options) and type(options).__module__.startswith("hydra_plugins"):  # Hydra's own have no rules
        check_values(options, f"hydra.{plugin}.")
    return options


def check_axis(override: Override) -> None:
    """An axis of a grid has values, and none of them twice.

    Raises:
        UserError: naming its key.
    """
    if not override.is_sweep_override() or not override.is_discrete_sweep():
        return
    key = override.get_key_element()
    values = [panel_name(str(value)) if key == "panel" else str(value) for value in override.sweep_iterator()]
    for rule in (NOT_EMPTY, DISTINCT):
        if not rule.allows(values):
            raise UserError(f"{key}={override.get_value_string()} {rule.text}")


def panel_name(option: str) -> str:
    """The name that records have for an option of the group `panel`: `a` for `lr_transfer/a`, too."""
    return option.rpartition("/")[2]


def check_run(tree: Config) -> None:
    """The values of one run, alone and against each other.

    Raises:
        UserError: for one that is not allowed.
    """
    check_values(tree)
    sequences, micro_batch = tree.batch.sequences, tree.execution.micro_batch
    if sequences % micro_batch:
        raise UserError(f"batch.sequences={sequences} is not a multiple of execution.micro_batch={micro_batch}")
    kind, vocabulary = KINDS[tree.kind], tree.data.tokenizer.vocab_size
    if kind.reads_data and tree.model.vocab_size < vocabulary:
        raise UserError(
            f"model.vocab_size={tree.model.vocab_size} is smaller than data.tokenizer.vocab_size={vocabulary}"
        )
    tokens, seq_len = tree.validation.tokens, tree.batch.seq_len
    if kind.has_val_loss and tokens % seq_len:
        nearest = max(1, round(tokens / seq_len)) * seq_len
        raise UserError(
            f"validation.tokens={tokens} is not a whole number of sequences of batch.seq_len={seq_len}; "
            f"the nearest is {nearest}"
        )
    if kind.has_val_loss and tree.execution.device == "cuda" and tokens // seq_len % micro_batch:
        raise UserError(
            f"validation.tokens={tokens} is {tokens // seq_len} sequences, not a multiple of "
            f"execution.micro_batch={micro_batch}, so that a GPU would compile twice; use validation.tokens="
            f"{max(1, round(tokens / seq_len / micro_batch)) * micro_batch * seq_len}"
        )


def check_residual_scale(epsilon: float) -> None:
    """ε is a number of fp32 above 0: exponents and counts that are allowed one by one may still make another.

    Raises:
        UserError: if it is not.
    """
    if not 0 < epsilon <= FLOAT32_MAX:
        raise UserError(
            f"scaling: residual_scale={show(epsilon)} must be positive and at most {show(FLOAT32_MAX)}; "
            "choose another scaling.alpha, scaling.beta or scaling.multiplier"
        )


def check_rates(key: str, rates: list[float]) -> None:
    """A learning-rate axis is positive and strictly increasing.

    Raises:
        UserError: naming the key and the values.
    """
    _check(key, rates, *_rules_of(Rates))


def check_data(run: Run, manifest: Manifest) -> None:
    """The prepared data has the sequences that a training reads, and no token that its model lacks.

    Raises:
        UserError: if it does not fit.
    """
    if not isinstance(run, RunConfig):
        return
    if manifest.vocab_size > run.model.vocab_size:
        raise UserError(
            f"model.vocab_size={run.model.vocab_size} is smaller than the data's vocabulary of {manifest.vocab_size}; "
            "set it to that"
        )
    if (task := task_of(manifest)) is not None:
        if run.seq_len != task.row_tokens:
            raise UserError(
                f"batch.seq_len={run.seq_len} must be {task.row_tokens}, the tokens of an example of data={task.NAME} "
                f"with these levels; set batch.seq_len={task.row_tokens}"
            )
        return
    for split in ("train", "val"):
        if manifest.tokens(split) <= run.seq_len:
            raise UserError(
                f"batch.seq_len={run.seq_len} needs {run.seq_len + 1} tokens, and the {split} split has "
                f"{manifest.tokens(split)}; use shorter sequences or more text"
            )
    available = (manifest.tokens("val") - 1) // run.seq_len * run.seq_len
    if run.validation_tokens > available:
        raise UserError(
            f"validation.tokens={run.validation_tokens} exceeds the validation split, which has {available} in "
            f"sequences of {run.seq_len}; lower it to at most that"
        )


def fitted(run: Run, manifest: Manifest) -> Run:
    """The run with a validation set that is no larger than the validation split of a small corpus.

    Only where the data was split by passages, see `sweeper.data.passages`. Otherwise too large a set is an error.
    """
    if not isinstance(run, RunConfig) or manifest.source.get("split") != passages.NAME:
        return run
    available = (manifest.tokens("val") - 1) // run.seq_len * run.seq_len
    return replace(run, validation_tokens=min(run.validation_tokens, available)) if available > 0 else run


def check_machine(run: Run, execution: Execution) -> None:
    """This machine has the device of a run, and the memory that the run needs at least.

    Raises:
        UserError: if it has not.
    """
    if execution.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise UserError(
                "execution.device=cuda, but no GPU is visible; use execution.device=cpu or hydra/launcher=slurm"
            )
        return
    needed, present = run.least_bytes(execution.micro_batch) / GIB, memory_bytes() / GIB
    if needed > present:
        shape = ", ".join(f"{key}={value}" for key, value in run.sizes(execution.micro_batch).items())
        raise UserError(
            f"{shape}: a run needs at least {needed:,.1f} GiB of memory, and this machine has {present:,.1f}; lower one"
        )


def check_paths(config: DictConfig, *names: str, probe: bool = True) -> None:
    """The directories paths.NAME can be written, and wandb's beside the runs where runs are mirrored.

    Args:
        config: the composed configuration.
        names: of directories.
        probe: see `sweeper.files.check_writable`; False where nothing will be written.

    Raises:
        UserError: for one that cannot.
    """
    for name in names:
        place = directory_of(config, name)
        check_writable(f"paths.{name}={place}", place, probe=probe)
    if "runs" in names and config.tracking.mode != "off":
        folder = Path(str(config.paths.runs)).resolve().parent / "wandb"
        check_writable(f"tracking.mode={config.tracking.mode}: {folder}, beside paths.runs,", folder, probe=probe)


def directory_of(config: DictConfig, name: str) -> Path:
    """The directory paths.NAME. Manifests lie beside the runs unless `paths.sweeps` says otherwise."""
    given = config.paths[name]
    return sweeps_beside(directory_of(config, "runs")) if given is None else Path(str(given))


def with_keys(message: str) -> str:
    """A message of `model` with the keys of the configuration instead of its own names."""
    return re.sub(r"(?<![\w.])\w+(?=[=/])", lambda match: MODEL_KEYS.get(match[0], match[0]), message)


def _check(key: str, value: Any, own: Sequence[Rule], of_items: Sequence[Rule]) -> None:
    for item in value if of_items else ():
        for rule in of_items:
            if not rule.allows(item):
                raise UserError(f"{key}={show(value)}: {show(item)} {rule.text}")
    for rule in own:
        if not rule.allows(value):
            raise UserError(f"{key}={show(value)} {rule.text}")


@cache
def _rules(section: type) -> dict[str, tuple[tuple[Rule, ...], tuple[Rule, ...]]]:
    """Of every field of a section, the rules of its value and of the items of its value."""
    return {name: _rules_of(hint) for name, hint in get_type_hints(section, include_extras=True).items()}


def _rules_of(hint: Any) -> tuple[tuple[Rule, ...], tuple[Rule, ...]]:
    """The rules that a type carries for a value, and for the items of a list."""
    arguments = get_args(hint)
    if get_origin(hint) is Annotated:
        own, of_items = _rules_of(arguments[0])
        return (*own, *arguments[1:]), of_items
    if get_origin(hint) in (Union, types.UnionType):
        found = [_rules_of(argument) for argument in arguments if argument is not type(None)]
        return found[0]
    return ((), _rules_of(arguments[0])[0]) if get_origin(hint) is list else ((), ())
