"""A run's identity: everything that determines its result, nothing else, and never by accident another."""

import math
from dataclasses import replace
from typing import Any

import pytest
import yaml

from model import ModelConfig, parameter_table, residual_scale
from sweeper.run.identity import format_rate
from sweeper.run.schedule import Schedule
from sweeper.run.spec import RunConfig


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths to every plain value of a nested record."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return [leaf for key, item in items for leaf in leaves(item, (*path, key))]
    return [path]


def changed(value: Any) -> Any:
    if value in (None, "fp32"):
        return 0.5 if value is None else "bf16"
    return f"{value}x" if isinstance(value, str) else 2 * value + 2


TABLE = parameter_table(base_lr=8e-3, init_std=0.139, eps=1e-8, weight_decay=0.1, depth_multiplier=1)
PLAIN = RunConfig(
    model=ModelConfig(vocab_size=300, d_model=16, n_heads=1, mlp_dim=40, n_layers=1, n_loops=2, residual_scale=0.5),
    table=TABLE,
    betas=(0.9, 0.95),
    grad_clip=1.0,
    schedule=Schedule(steps=12, warmup=2, decay=4),
    batch_sequences=4,
    seq_len=32,
    validation_tokens=512,
    diverged_above=7.0,
    data="0123456789abcdef",
    seed=0,
    precision="fp32",
)
FIELDS = [path for path in leaves(PLAIN.to_dict()) if path not in (("schema",), ("kind",))]


@pytest.mark.parametrize("path", FIELDS, ids=lambda path: ".".join(map(str, path)))
def test_every_determining_field_makes_another_run(path) -> None:
    record: Any = PLAIN.to_dict()
    parent = record
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = changed(parent[path[-1]])
    assert RunConfig.from_dict(record).run_id != PLAIN.run_id


def test_a_run_knows_nothing_of_how_where_or_under_which_name_it_is_carried_out() -> None:
    names = {name for path in leaves(PLAIN.to_dict()) for name in path}
    assert names.isdisjoint({"rule", "panel", "preset", "device", "micro_batch", "compile", "recompute", "threads"})
    assert names.isdisjoint({"paths", "runs", "workers", "log_every", "checkpoint_every", "launcher", "tracker"})


def test_the_id_of_a_run_is_fixed_for_good() -> None:
    """Another id for the same run would orphan every finished one: change SCHEMA_VERSION if you must."""
    assert PLAIN.run_id == "L1-N2-lr8e-3-2e0da18d3567"


def test_sqrt_and_linear_at_one_loop_and_reference_depth_are_one_run() -> None:
    def run(rule: str, n_loops: int, n_layers: int) -> str:
        epsilon = residual_scale(rule, n_loops, n_layers, ref_layers=2)
        model = replace(PLAIN.model, n_loops=n_loops, n_layers=n_layers, residual_scale=epsilon)
        return replace(PLAIN, model=model).run_id

    assert run("sqrt", 1, 2) == run("linear", 1, 2)
    assert run("sqrt", 2, 2) != run("linear", 2, 2)
    assert run("sqrt", 1, 4) == run("linear", 1, 4)  # both rules have β = ½
    assert run("none", 1, 4) != run("linear", 1, 4)


def test_noise_in_a_floats_last_bit_does_not_split_a_run() -> None:
    scale, rate = PLAIN.model.residual_scale, TABLE[2].lr
    table = (*TABLE[:2], replace(TABLE[2], lr=math.nextafter(rate, 1)), TABLE[3])
    near = replace(PLAIN, model=replace(PLAIN.model, residual_scale=math.nextafter(scale, 0)), table=table)
    assert near != PLAIN
    assert near.run_id == PLAIN.run_id
    assert replace(PLAIN, model=replace(PLAIN.model, residual_scale=scale * (1 + 1e-9))).run_id != PLAIN.run_id


def test_an_id_tells_depth_loops_and_rate() -> None:
    assert PLAIN.run_id.startswith("L1-N2-lr8e-3-")


@pytest.mark.parametrize(
    ("rate", "shown"),
    [(1.25e-3, "1.25e-3"), (5e-4, "5e-4"), (0.016, "1.6e-2"), (1.0, "1e0"), (8.838834764831845e-4, "8.839e-4")],
)
def test_rates_are_shown_as_people_write_them(rate, shown) -> None:
    assert format_rate(rate) == shown


def test_a_record_is_read_back_as_it_was_through_yaml() -> None:
    text = yaml.safe_dump(PLAIN.to_dict())
    assert RunConfig.from_dict(yaml.safe_load(text)) == PLAIN
    assert RunConfig.from_dict(yaml.safe_load(text)).run_id == PLAIN.run_id
    unclipped = replace(PLAIN, grad_clip=None)
    assert RunConfig.from_dict(unclipped.to_dict()) == unclipped


@pytest.mark.parametrize("schema", [0, 1, None])
def test_a_record_of_another_schema_is_refused(schema) -> None:
    with pytest.raises(ValueError, match=rf"schema {schema}, this version reads 2"):
        RunConfig.from_dict({**PLAIN.to_dict(), "schema": schema})


def test_diagnostics_make_another_run_and_their_absence_none() -> None:
    diagnosed = replace(PLAIN, diagnostics=True)
    assert diagnosed.run_id != PLAIN.run_id
    assert RunConfig.from_dict(yaml.safe_load(yaml.safe_dump(diagnosed.to_dict()))) == diagnosed
    assert "diagnostics" not in PLAIN.to_dict()


def test_tokens_are_sequences_times_length_times_steps() -> None:
    assert (PLAIN.batch_tokens, PLAIN.total_tokens) == (4 * 32, 4 * 32 * 12)
