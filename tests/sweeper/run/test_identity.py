"""A field that is added with a neutral default changes no id, and every kind is read back as it was."""

from dataclasses import dataclass, field, fields, make_dataclass, replace
from typing import Any

import pytest
import yaml
from hypothesis import assume, given
from hypothesis import strategies as st

from model import ModelConfig, parameter_table
from model.config import neutral
from sweeper.run.base import Run
from sweeper.run.plain import from_plain, to_plain
from sweeper.run.schedule import Schedule
from sweeper.run.spec import KINDS, ProbeConfig, RunConfig, TheoryConfig, kind_of, run_from_dict

MODEL = ModelConfig(vocab_size=300, d_model=16, n_heads=1, mlp_dim=40, n_layers=1, n_loops=2, residual_scale=0.5)
TABLE = parameter_table(base_lr=8e-3, init_std=0.139, eps=1e-8, weight_decay=0.1, depth_multiplier=1)
RUNS: list[Run] = [
    RunConfig(MODEL, TABLE, (0.9, 0.95), None, Schedule(12, 2, 4), 4, 32, 512, 7.0, "0123456789abcdef", 0, "fp32"),
    ProbeConfig(MODEL, TABLE, (0.9, 0.95), 10, 1, 128, 0, None),
    TheoryConfig(64, 2, 8, 0.125, True, (0, 1, 2)),
]
each_kind = pytest.mark.parametrize("run", RUNS, ids=lambda run: run.KIND)
plain_values = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()


def grown(value: Any, default: Any, **more: Any) -> Any:
    """The same value in a version whose class has one more field, neutral at `default`."""
    kind = type(value)
    bigger = make_dataclass(kind.__name__, [("extra", Any, neutral(default))], bases=(kind,), frozen=True)
    return bigger(**{field.name: getattr(value, field.name) for field in fields(value)}, **more)


def test_every_kind_is_tested_here() -> None:
    assert {run.KIND for run in RUNS} == set(KINDS)


@each_kind
@given(default=plain_values, other=plain_values)
def test_a_neutral_field_changes_no_id_and_another_value_does(run, default, other) -> None:
    assume(other != default)
    assert grown(run, default).run_id == grown(run, default, extra=default).run_id == run.run_id
    assert grown(run, default, extra=other).run_id != run.run_id


@pytest.mark.parametrize("run", RUNS[:2], ids=lambda run: run.KIND)
@given(default=plain_values, other=plain_values)
def test_a_neutral_field_of_the_model_changes_no_id_and_another_value_does(run, default, other) -> None:
    assume(other != default)
    assert replace(run, model=grown(MODEL, default)).run_id == run.run_id
    assert replace(run, model=grown(MODEL, default, extra=other)).run_id != run.run_id


@each_kind
@given(default=plain_values, other=plain_values)
def test_a_record_without_a_neutral_field_is_read_back_with_the_neutral_value(run, default, other) -> None:
    assume(other != default)
    new = grown(run, default)
    assert new.from_dict(run.to_dict()) == new
    changed = grown(run, default, extra=other)
    assert type(new).from_dict({**run.to_dict(), "extra": other}).extra == changed.extra == other


@each_kind
def test_a_neutral_field_is_in_no_record(run) -> None:
    assert grown(run, 3).to_dict() == run.to_dict()
    assert grown(run, 3, extra=4).to_dict() == {**run.to_dict(), "extra": 4}


def test_the_fields_that_models_gained_are_neutral() -> None:
    """Those that a record of before has are these; what came after must not be in it."""
    assert set(RUNS[0].to_dict()["model"]) == {
        "vocab_size",
        "d_model",
        "n_heads",
        "mlp_dim",
        "n_layers",
        "n_loops",
        "residual_scale",
        "max_seq_len",
        "rope_theta",
        "norm_eps",
    }


@each_kind
def test_a_run_of_any_kind_is_read_back_as_it_was_through_yaml(run) -> None:
    back = run_from_dict(yaml.safe_load(yaml.safe_dump(run.to_dict())))
    assert back == run
    assert type(back) is type(run)
    assert back.run_id == run.run_id


@each_kind
def test_an_id_tells_the_kind(run) -> None:
    assert kind_of(run.run_id) is KINDS[run.KIND]


def test_dataclasses_in_tuples_and_in_each_other_are_read_back() -> None:
    @dataclass(frozen=True)
    class Leaf:
        size: int
        name: str = neutral("oak")

    @dataclass(frozen=True)
    class Tree:
        leaves: tuple[Leaf, ...]
        root: Leaf
        note: str | None = None
        tags: tuple[str, ...] = field(default_factory=tuple)

    tree = Tree((Leaf(1), Leaf(2, "ash")), Leaf(3))
    plain = {"leaves": [{"size": 1}, {"size": 2, "name": "ash"}], "root": {"size": 3}, "note": None, "tags": []}
    assert to_plain(tree) == plain
    assert from_plain(Tree, plain) == tree
    assert from_plain(Tree, {key: plain[key] for key in ("leaves", "root")}) == tree
    with pytest.raises(ValueError, match="Leaf needs a field 'size'"):
        from_plain(Tree, plain | {"root": {}})
    with pytest.raises(ValueError, match="Leaf has no field 'colour' here"):
        from_plain(Tree, plain | {"root": {"size": 3, "colour": "red"}})
