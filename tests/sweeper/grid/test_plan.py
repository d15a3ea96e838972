"""What a sweep would do, in which order, and how long it would take."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeper.config.resolve import ResolvedRun
from sweeper.grid.plan import Plan, StepTimes, learned_step_times
from sweeper.records.status import RunStatus, State
from sweeper.records.sweep_manifest import Sweep


def plan(run, execution, shapes: list[tuple[int, int]], status: Mapping[int, RunStatus] = {}) -> Plan:
    """A plan of runs of shapes (L, N), in that order; status by position."""
    configs = [replace(run, model=replace(run.model, n_layers=layers, n_loops=n)) for layers, n in shapes]
    runs = {config.run_id: ResolvedRun(config, execution, {}) for config in configs}
    states = {run_id: status.get(i, RunStatus(State.PENDING)) for i, run_id in enumerate(runs)}
    return Plan(Sweep("s", "e", "p", ()), runs, states)


@given(
    base=st.floats(1e-4, 10),
    per_block=st.floats(1e-4, 10),
    applications=st.lists(st.integers(1, 400), min_size=2, max_size=20).filter(lambda xs: len(set(xs)) > 1),
)
def test_step_times_find_the_line_they_were_drawn_from(base, per_block, applications) -> None:
    times = StepTimes([(n, base + per_block * n) for n in applications])
    for n in (1, 10, 400):
        # Far outside two close observations rounding is magnified.
        assert times.base + times.per_block * n == pytest.approx(base + per_block * n, rel=1e-6)


def test_relative_errors_count_the_same_for_short_and_long_steps() -> None:
    """Two observations of each, off by ±10%: the fit lies between them at both ends."""
    times = StepTimes([(1, 0.9), (1, 1.1), (100, 90.0), (100, 110.0)])
    assert times.base + times.per_block == pytest.approx(0.99, rel=0.02)
    assert times.base + 100 * times.per_block == pytest.approx(99, rel=0.02)


def test_one_depth_alone_does_not_make_a_line() -> None:
    with pytest.raises(ValueError, match="two different depths"):
        StepTimes([(4, 1.0), (4, 1.1)])


def test_a_runs_time_is_its_steps_times_base_and_blocks(literal_run) -> None:
    run = replace(literal_run, model=replace(literal_run.model, n_layers=3, n_loops=4))
    assert StepTimes([(1, 1.5), (2, 2.0)]).run_seconds(run) == pytest.approx((1 + 0.5 * 12) * 12)


def test_the_costliest_run_goes_first(literal_run, execution) -> None:
    shapes = [(1, 1), (1, 8), (4, 1), (4, 8), (2, 2)]
    order = plan(literal_run, execution, shapes)
    costs = [order.runs[run_id].config.flops for run_id in order.to_run]
    assert len(costs) == 5
    assert costs == sorted(costs, reverse=True)


def test_equal_costs_keep_the_grids_order(literal_run, execution) -> None:
    order = plan(literal_run, execution, [(1, 2), (2, 1), (1, 2)])
    assert order.to_run == list(order.runs)


def test_only_open_runs_are_run(literal_run, execution) -> None:
    states = list(State)
    every = plan(
        literal_run, execution, [(1, n + 1) for n in range(len(states))], dict(enumerate(map(RunStatus, states)))
    )
    to_run = {every.status[run_id].state for run_id in every.to_run}
    assert to_run == {State.PENDING, State.FAILED, State.TIMEOUT, State.LOST}
    assert every.count(State.DONE) == 1
    assert every.count(State.DONE, State.DIVERGED) == 2
    assert every.count(*State) == len(states)


def test_step_times_are_learned_from_finished_runs_of_two_depths(literal_run, execution) -> None:
    def finished(seconds: float) -> RunStatus:
        return RunStatus(State.DONE, step=10, step_seconds=seconds)

    shapes = [(1, 1), (1, 2), (1, 4)]
    learned = learned_step_times(plan(literal_run, execution, shapes, {0: finished(10), 1: finished(15)}))
    assert (learned.base, learned.per_block) == (pytest.approx(0.5), pytest.approx(0.5))
    assert learned_step_times(plan(literal_run, execution, shapes, {0: finished(10)})) is None
    assert learned_step_times(plan(literal_run, execution, shapes)) is None
    on_gpu = {0: finished(10), 1: replace(finished(15), gpu="NVIDIA H100 80GB HBM3", gpus=1)}
    assert learned_step_times(plan(literal_run, execution, shapes, on_gpu)) is None
