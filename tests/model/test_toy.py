"""The toy model is Equations 1 and 2, and grows as Theorem 1 says."""

import math

import pytest
import torch

from model.toy import toy_recursion


def by_hand(d_model: int, n_layers: int, n_loops: int, epsilon: float, seed: int) -> tuple[float, float]:
    """R and branch energy of the shared recursion, in double precision and without rescaling."""
    generator = torch.Generator().manual_seed(seed)
    h = torch.randn(d_model, generator=generator).double()
    h = h / h.norm() * math.sqrt(d_model)
    scale = 1 / math.sqrt(d_model)
    matrices = [torch.randn(d_model, d_model, generator=generator).double() * scale for _ in range(n_layers)]
    total = torch.zeros_like(h)
    for _ in range(n_loops):
        for matrix in matrices:
            branch = matrix @ h.clamp_min(0)
            h, total = h + epsilon * branch, total + branch
    return float(h.norm()) * scale, float(total.norm()) ** 2 / d_model


@pytest.mark.parametrize(("n_layers", "n_loops", "epsilon"), [(1, 1, 1.0), (1, 8, 0.125), (3, 4, 0.2), (2, 200, 1.0)])
def test_shared_recursion_equals_the_one_by_hand(n_layers, n_loops, epsilon) -> None:
    """The last case reaches 1e40 and beyond, where single precision would have overflowed."""
    end = toy_recursion(d_model=48, n_layers=n_layers, n_loops=n_loops, residual_scale=epsilon, shared=True, seed=3)
    rms, energy = by_hand(48, n_layers, n_loops, epsilon, seed=3)
    assert end.residual_rms == pytest.approx(rms, rel=1e-3)
    assert end.branch_energy == pytest.approx(energy, rel=1e-3)


@pytest.mark.parametrize(("shared", "alpha", "exponent"), [(True, 1.0, 2.0), (False, 0.5, 1.0)])
def test_branch_energy_grows_quadratically_if_shared_and_linearly_if_not(shared, alpha, exponent) -> None:
    """Theorem 1; within 0.1, which narrow stacks and two loop counts allow."""

    def log_energy(n_loops: int) -> float:
        draws = [
            toy_recursion(
                d_model=256, n_layers=1, n_loops=n_loops, residual_scale=n_loops**-alpha, shared=shared, seed=seed
            )
            for seed in range(20)
        ]
        return sum(math.log2(draw.branch_energy) for draw in draws) / len(draws)

    assert (log_energy(128) - log_energy(16)) / 3 == pytest.approx(exponent, abs=0.1)


def test_a_shared_matrix_and_fresh_ones_agree_where_there_is_one_loop() -> None:
    """One application of a fresh Gaussian matrix has the law of a Gaussian vector: E R² = 1 + ε²/2 for ReLU."""
    for shared in (True, False):
        squares = [
            toy_recursion(d_model=128, n_layers=1, n_loops=1, residual_scale=1.0, shared=shared, seed=seed).residual_rms
            ** 2
            for seed in range(200)
        ]
        assert sum(squares) / 200 == pytest.approx(1.5, abs=0.05)
