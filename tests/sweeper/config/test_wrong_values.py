"""Every field has a rule, and a value that breaks it is one line with exit status 2, and nothing is written."""

import types
from collections.abc import Callable, Iterator
from dataclasses import is_dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin, get_type_hints

import pytest
from hydra_plugins.loopsweep import LocalNode, SlurmNode
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from sweeper.config.kinds import Config
from sweeper.config.rules import Rule

INTERNAL = ("hydra.launcher._target_",)  # what Hydra itself needs; not a value of the user's


class Field(NamedTuple):
    """A field's key and what its type says."""

    key: str
    base: Any
    items: Any  # the base type of a list's items
    optional: bool
    rules: tuple[Rule, ...]
    item_rules: tuple[Rule, ...]


def parsed(hint: Any) -> tuple[Any, bool, tuple[Rule, ...]]:
    """The type below `Annotated` and `| None`, whether None is allowed, and the rules."""
    if get_origin(hint) is Annotated:
        inner, *rules = get_args(hint)
        base, optional, below = parsed(inner)
        return base, optional, (*below, *rules)
    if get_origin(hint) in (Union, types.UnionType):
        members = [member for member in get_args(hint) if member is not type(None)]
        base, _, rules = parsed(members[0])
        return base, len(members) < len(get_args(hint)), rules
    return hint, False, ()


def leaves(section: Any, prefix: str) -> Iterator[Field]:
    for name, hint in get_type_hints(section, include_extras=True).items():
        base, optional, rules = parsed(hint)
        if is_dataclass(base):
            yield from leaves(base, f"{prefix}{name}.")
            continue
        is_list = get_origin(base) is list
        items, _, item_rules = parsed(get_args(base)[0]) if is_list else (None, False, ())
        yield Field(prefix + name, list if is_list else base, items, optional, rules, item_rules)


LAUNCHERS = {"local": LocalNode, "slurm": SlurmNode}
FIELDS = {field.key: (None, field) for field in leaves(Config, "")} | {
    f"{launcher}: {field.key}": (launcher, field)
    for launcher, node in LAUNCHERS.items()
    for field in leaves(node, "hydra.launcher.")
    if field.key not in INTERNAL
}


@pytest.mark.parametrize(("launcher", "field"), FIELDS.values(), ids=FIELDS)
def test_every_field_has_a_rule(launcher: str | None, field: Field) -> None:
    assert field.base is bool or field.rules or field.item_rules, f"{field.key} has a type and no rule"


SCALARS: dict[Any, st.SearchStrategy[Any]] = {
    int: st.integers(max_value=0) | st.integers(min_value=2**63) | st.integers(1, 2**40),
    float: st.floats(width=64),
    str: st.text(alphabet="ab 0~/:?#\n", max_size=8) | st.just("x" * 300),
}
WRONG_TYPES = {
    int: ("many", 1.5, True, [1], {"a": 1}),
    float: ("fast", [1.0], {"a": 1}),
    str: ([1], {"a": 1}),
    bool: ("maybe", [True], 1.5),
    list: (1, "foo", {"a": 1}),
    dict[str, Any]: (1, "foo", [1], {"a": [1]}),
}


def breaks(value: Any, rules: tuple[Rule, ...]) -> bool:
    return not all(rule.allows(value) for rule in rules)


def broken_values(field: Field) -> st.SearchStrategy[Any]:
    """Values of the right type that break a rule; of a wrong type where there is no rule to break."""
    if field.base is list:
        items = SCALARS[field.items]
        bad_item = items.filter(lambda value: breaks(value, field.item_rules)).map(lambda value: [value])
        good_items = st.lists(items.filter(lambda value: not breaks(value, field.item_rules)), max_size=3)
        doubled = good_items.map(lambda values: values * 2).filter(lambda values: breaks(values, field.rules))
        return bad_item | doubled if field.rules else bad_item
    if field.base not in SCALARS:
        return wrong_types(field)
    return SCALARS[field.base].filter(lambda value: breaks(value, field.rules))


def wrong_types(field: Field) -> st.SearchStrategy[Any]:
    """Values of a wrong type, and null where it is not allowed."""
    return st.sampled_from([*WRONG_TYPES[field.base], *([] if field.optional else [None])])


def typed(value: Any) -> str:
    """A value as Hydra's command line has it."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{typed(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(typed, value)) + "]"
    if isinstance(value, str):
        return f"'{value}'"
    return "null" if value is None else str(value).lower()


def once_each(max_examples: int) -> settings:
    """The same draws in every run of the tests; a failure is reported as drawn."""
    fixtures = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much]
    return settings(
        max_examples=max_examples,
        derandomize=True,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=fixtures,
    )


@pytest.fixture
def refused(command_line, tmp_path: Path, text_dir: Path) -> Callable[[str | None, Field, Any], None]:
    """Types a value on a command line and looks at what comes back."""

    def check(launcher: str | None, field: Field, value: Any) -> None:
        override = f"{field.key}={typed(value)}"
        paths = [f"paths.{name}={tmp_path / name}" for name in ("runs", "sweeps", "data")]
        source = "data=phop" if field.key.startswith("data.task.") else f"data.path={text_dir}"
        grid = ["--multirun", "preset=smoke", source, f"hydra/launcher={launcher or 'local'}"]
        told = command_line(*grid, *paths, override)
        assert told.status == 2, override
        assert told.err.startswith("error: "), told.err
        assert told.err.count("\n") == 1, told.err
        assert field.key in told.err, told.err
        assert "Traceback" not in told.out
        assert list(tmp_path.iterdir()) == []

    return check


@pytest.mark.parametrize(("launcher", "field"), FIELDS.values(), ids=FIELDS)
@once_each(max_examples=1)
@given(data=st.data())
def test_a_value_that_breaks_a_rule_is_refused(
    refused, launcher: str | None, field: Field, data: st.DataObject
) -> None:
    refused(launcher, field, data.draw(broken_values(field), label=field.key))


@once_each(max_examples=20)
@given(data=st.data())
def test_any_wrong_value_is_refused(refused, data: st.DataObject) -> None:
    launcher, field = data.draw(st.sampled_from([*FIELDS.values()]))
    refused(launcher, field, data.draw(wrong_types(field) | broken_values(field), label=field.key))
