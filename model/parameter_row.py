"""One row of the per-tensor table, and the base values that rows are made from (the paper's Table 3)."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ParameterRow:
    """One kind of tensor, with its numbers resolved.

    Attributes:
        kind: name of the row.
        pattern: regular expression that the whole parameter name must match.
        init_std: σ of the truncated normal, cut at ±3σ; None for gains, which start at 1.
        lr: peak learning rate.
        eps: AdamW's ε.
        weight_decay: AdamW's decoupled weight decay.
    """

    kind: str
    pattern: str
    init_std: float | None
    lr: float
    eps: float
    weight_decay: float


@dataclass(frozen=True)
class BaseValues:
    """What a table is computed from.

    Attributes:
        base_lr: η0.
        init_std: σ0.
        eps: ε0 of AdamW.
        weight_decay: ω0.
        depth_factor: m_L^(−1/2), by which tensors inside the loop scale their rate and their ε.
    """

    base_lr: float
    init_std: float
    eps: float
    weight_decay: float
    depth_factor: float

    def matrix(self, kind: str, pattern: str) -> ParameterRow:
        """A matrix inside the loop: initialised with σ0 and decayed."""
        return self._in_loop(kind, pattern, self.init_std, self.weight_decay)

    def gain(self, kind: str, pattern: str) -> ParameterRow:
        """A gain inside the loop: starts at 1, is not decayed."""
        return self._in_loop(kind, pattern, None, 0.0)

    def _in_loop(self, kind: str, pattern: str, init_std: float | None, weight_decay: float) -> ParameterRow:
        lr, eps = self.base_lr * self.depth_factor, self.eps * self.depth_factor
        return ParameterRow(kind, pattern, init_std, lr, eps, weight_decay)
