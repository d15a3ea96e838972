"""One row of the per-tensor table, and the base values that rows are made from (the paper's Table 3)."""

from dataclasses import dataclass

from model.neutral import neutral

DRAWS = ("truncated", "normal", "uniform", "eye")


@dataclass(frozen=True)
class ParameterRow:
    """One kind of tensor, with its numbers resolved.

    Attributes:
        kind: name of the row.
        pattern: regular expression that the whole parameter name must match.
        init_std: σ of the first values; None for tensors that are not drawn, and start at `start`.
        lr: peak learning rate.
        eps: AdamW's ε.
        weight_decay: AdamW's decoupled weight decay.
        draw: how the first values are drawn with σ: `truncated` (a normal, cut at ±3σ), `normal`, `uniform` on ±√3 σ,
            or `eye`, which is σ times the identity.
        part_gains: factors on σ for equal parts of the tensor's rows; empty for 1.
        start: first value of a tensor that is not drawn.
    """

    kind: str
    pattern: str
    init_std: float | None
    lr: float
    eps: float
    weight_decay: float
    draw: str = neutral("truncated")
    part_gains: tuple[float, ...] = neutral(())
    start: float = neutral(1.0)

    def __post_init__(self) -> None:
        if self.draw not in DRAWS:
            raise ValueError(f"draw={self.draw} is unknown; allowed: {', '.join(DRAWS)}")


@dataclass(frozen=True)
class BaseValues:
    """What a table is computed from.

    Attributes:
        base_lr: η0.
        init_std: σ0.
        eps: ε0 of AdamW.
        weight_decay: ω0.
        depth_factor: m_L^(−1/2), by which tensors inside the loop scale their rate and their ε.
        applications: L · N, blocks that a token passes through.
    """

    base_lr: float
    init_std: float
    eps: float
    weight_decay: float
    depth_factor: float
    applications: int = 1

    def matrix(self, kind: str, pattern: str, *, gain: float = 1.0, part_gains: tuple[float, ...] = ()) -> ParameterRow:
        """A matrix inside the loop: initialised with σ0, times a gain, and decayed."""
        lr, eps = self._in_loop
        return ParameterRow(kind, pattern, gain * self.init_std, lr, eps, self.weight_decay, part_gains=part_gains)

    def gain(self, kind: str, pattern: str, *, start: float = 1.0) -> ParameterRow:
        """A gain inside the loop: starts at 1 unless said otherwise, is not decayed."""
        return ParameterRow(kind, pattern, None, *self._in_loop, 0.0, start=start)

    def identity(self, kind: str, pattern: str) -> ParameterRow:
        """A square matrix inside the loop that starts as the identity and is not decayed."""
        return ParameterRow(kind, pattern, 1.0, *self._in_loop, 0.0, draw="eye")

    @property
    def _in_loop(self) -> tuple[float, float]:
        """Rate and AdamW's ε of a tensor inside the loop."""
        return self.base_lr * self.depth_factor, self.eps * self.depth_factor
