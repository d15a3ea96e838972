"""Growth of the stream's norm and gradient oscillation, from lines with both planted."""

import math

import numpy as np
import pandas as pd
import pytest

from analysis.stats.instability import growth_over_loops, growth_over_steps, oscillation


def lines(norms: dict[str, list[float]], every: int = 1) -> pd.DataFrame:
    """Lines at steps 1, 2, …; norms are on every `every`-th line."""
    steps = len(next(iter(norms.values()))) * every
    table = pd.DataFrame({"step": range(1, steps + 1), "loss": 3.0})
    for name, values in norms.items():
        table[name] = np.nan
        table.loc[every - 1 :: every, name] = values
    return table


@pytest.mark.parametrize("every", [1, 10])
def test_growth_is_read_at_the_end_of_the_record_and_only_on_lines_that_have_norms(every: int) -> None:
    last = 10.0 * 10 ** np.linspace(0, 2, 20)  # two decades over the record, to 1000
    table = lines({"stream_norm_1": [8.0] * 20, "stream_norm_2": [9.0] * 20, "stream_norm_3": [*last]}, every)
    end = np.log10(last[-2:]).mean()  # the last tenth
    assert growth_over_loops(table, 3) == pytest.approx(end - math.log10(8.0))
    assert growth_over_steps(table, 3) == pytest.approx(end - 1.0)
    assert growth_over_steps(table, 1) == 0.0


def test_a_norm_that_is_infinite_at_the_end_is_infinite_growth() -> None:
    table = lines({"stream_norm_1": [1.0] * 9 + [np.inf], "stream_norm_2": [1.0] * 9 + [np.inf]})
    assert growth_over_loops(table, 2) == math.inf
    assert growth_over_steps(table, 2) == math.inf


def test_without_norms_of_every_loop_there_is_no_growth() -> None:
    for table in (lines({"loss_": [1.0]}), lines({"stream_norm_1": [1.0], "stream_norm_2": [2.0]})):
        assert math.isnan(growth_over_loops(table, 3))
        assert math.isnan(growth_over_steps(table, 3))


def test_oscillation_is_that_of_the_steps_at_the_full_rate() -> None:
    rate = np.array([0.5, 1.0, 1.0, 1.0, 1.0, 0.5]) * 8e-3
    norms = [9.0, 1.0, 2.0, 3.0, 4.0, 9.0]
    table = pd.DataFrame({"step": range(1, 7), "base_lr": rate, "grad_norm": norms})
    assert oscillation(table, 8e-3) == (pytest.approx(np.std([1, 2, 3, 4], ddof=1)), 2, 5)
    assert oscillation(table.assign(grad_norm=[9.0, 1.0, math.inf, 3.0, 4.0, 9.0]), 8e-3) == (math.inf, 2, 5)


def test_oscillation_needs_two_steps_with_a_gradient_norm() -> None:
    table = pd.DataFrame({"step": [1, 2], "base_lr": 8e-3, "grad_norm": [1.0, np.nan]})
    assert math.isnan(oscillation(table, 8e-3)[0])
    assert math.isnan(oscillation(table[["step"]], 8e-3)[0])
