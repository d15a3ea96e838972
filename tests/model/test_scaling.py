"""ε(N, L) = λ · N^(−α) · m_L^(−β), for every rule."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model import RULES, ScalingRule, residual_scale

counts = st.integers(1, 256)
multipliers = st.floats(0.01, 100)
ROUNDING = 1e-12  # relative; a few roundings of fp64


@given(n=counts, layers=counts, ref=counts, multiplier=multipliers)
def test_none_is_the_multiplier_alone(n, layers, ref, multiplier) -> None:
    assert residual_scale("none", n, layers, ref_layers=ref, multiplier=multiplier) == multiplier


@given(n=counts, layers=counts, ref=counts, multiplier=multipliers)
def test_sqrt_divides_by_the_root_of_loops_times_depth(n, layers, ref, multiplier) -> None:
    expected = multiplier / math.sqrt(n * layers / ref)
    found = residual_scale("sqrt", n, layers, ref_layers=ref, multiplier=multiplier)
    assert found == pytest.approx(expected, rel=ROUNDING)


@given(n=counts, layers=counts, ref=counts, multiplier=multipliers)
def test_linear_divides_by_loops_and_by_the_root_of_depth(n, layers, ref, multiplier) -> None:
    expected = multiplier / (n * math.sqrt(layers / ref))
    found = residual_scale("linear", n, layers, ref_layers=ref, multiplier=multiplier)
    assert found == pytest.approx(expected, rel=ROUNDING)


@given(layers=counts, ref=counts, multiplier=multipliers)
def test_sqrt_is_linear_at_one_loop(layers, ref, multiplier) -> None:
    """Equal to the last bit, because a run's identity holds the number."""
    sqrt, linear = (residual_scale(r, 1, layers, ref_layers=ref, multiplier=multiplier) for r in ("sqrt", "linear"))
    assert sqrt == linear


@given(alpha=st.floats(0, 2), beta=st.floats(0, 2), n=counts, layers=counts)
def test_a_rule_of_ones_own_is_its_exponents(alpha, beta, n, layers) -> None:
    expected = math.exp(-alpha * math.log(n) - beta * math.log(layers / 12))
    assert residual_scale(ScalingRule(alpha, beta), n, layers) == pytest.approx(expected, rel=ROUNDING)


@pytest.mark.parametrize(
    ("rule", "n", "layers", "expected"),
    [("none", 8, 48, 1.0), ("sqrt", 4, 12, 0.5), ("linear", 8, 12, 0.125), ("linear", 8, 48, 0.0625)],
)
def test_the_papers_reference_depth_is_the_default(rule, n, layers, expected) -> None:
    assert residual_scale(rule, n, layers) == expected


def test_rules_are_the_papers() -> None:
    assert {name: (rule.alpha, rule.beta) for name, rule in RULES.items()} == {
        "none": (0, 0),
        "sqrt": (0.5, 0.5),
        "linear": (1, 0.5),
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rule": "cubic"}, "unknown scaling rule 'cubic'; known: none, sqrt, linear"),
        ({"n_loops": 0}, "n_loops=0 must be at least 1"),
        ({"n_layers": -1}, "n_layers=-1 must be at least 1"),
        ({"ref_layers": 0}, "ref_layers=0 must be at least 1"),
        ({"multiplier": 0.0}, "multiplier=0.0 must be positive"),
        ({"multiplier": math.nan}, "multiplier=nan must be positive"),
    ],
)
def test_what_cannot_be_is_an_error_that_names_it(arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        residual_scale(**{"rule": "linear", "n_loops": 1, "n_layers": 12, **arguments})
