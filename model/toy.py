"""The paper's own toy model, Equations 1 and 2: a residual recursion h ← h + ε · W_ℓ · ReLU(h)."""

import math
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class ToyOutcome:
    """Where one draw of the recursion ends.

    Attributes:
        residual_rms: R = d^(−1/2)·‖h‖₂ of the output; the input has R = 1.
        branch_energy: d^(−1)·‖Σ r‖² of the unscaled branch outputs r = W·ReLU(h), summed over layers and loops.
    """

    residual_rms: float
    branch_energy: float


def toy_recursion(
    *, d_model: int, n_layers: int, n_loops: int, residual_scale: float, shared: bool, seed: int
) -> ToyOutcome:
    """One draw: W_ij ~ N(0, 1/d), a Gaussian input with R = 1, then `n_loops` passes over `n_layers` matrices.

    A matrix that is used once, as all are where the loops do not share them, maps u to a Gaussian vector of variance
    ‖u‖²/d, whatever went before: that vector is drawn instead of the matrix.

    Args:
        d_model: width d.
        n_layers: matrices L in the stack.
        n_loops: times N the stack is applied.
        residual_scale: ε.
        shared: every loop uses the same L matrices; otherwise each of the N · L applications has its own.
        seed: of matrices and input.
    """
    generator = torch.Generator().manual_seed(seed)

    def gaussian(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) / math.sqrt(d_model)

    h = gaussian(d_model)
    h *= math.sqrt(d_model) / h.norm()
    matrices = [gaussian(d_model, d_model) for _ in range(n_layers)] if shared else []
    branches, unit = torch.zeros_like(h), 1.0  # h and branches are in multiples of `unit`
    for n in range(n_loops * n_layers):
        u = h.relu()
        r = matrices[n % n_layers] @ u if shared else gaussian(d_model) * u.norm()
        h = h + residual_scale * r
        branches += r
        if (size := float(h.norm())) > 1e9:  # the recursion is homogeneous: what would overflow can be rescaled
            h, branches, unit = h / size, branches / size, unit * size
    return ToyOutcome(unit * float(h.norm()) / math.sqrt(d_model), unit**2 * float(branches.square().sum()) / d_model)
