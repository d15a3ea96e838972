"""One row of the per-tensor table, and the base values that rows are made from (the paper's Table 3)."""

from dataclasses import dataclass

from model.neutral import neutral

DRAWS = ("truncated", "normal", "uniform", "eye")
OPTIMIZERS = ("adamw", "muon")
MUON_EPS = 1e-7
# Rates beside Muon's, in multiples of η0 (1 is 0.02 in arXiv 2605.18797), at the width for which they were tuned. They
# change with the width by (d / 768)^(−1/2), where Muon's does not.
EMBEDDING_RATIO, HEAD_RATIO, TUNED_WIDTH = 10.0, 0.2, 768


@dataclass(frozen=True)
class ParameterRow:
    """One kind of tensor, with its numbers resolved.

    Attributes:
        kind: name of the row.
        pattern: regular expression that the whole parameter name must match.
        init_std: σ of the first values; None for tensors that are not drawn, and start at `start`.
        lr: peak learning rate.
        eps: the optimizer's ε.
        weight_decay: decoupled weight decay.
        draw: how the first values are drawn with σ: `truncated` (a normal, cut at ±3σ), `normal`, `uniform` on ±√3 σ,
            or `eye`, which is σ times the identity.
        part_gains: factors on σ for equal parts of the tensor's rows; empty for 1.
        start: first value of a tensor that is not drawn.
        optimizer: `adamw` or `muon`, see `model.optimizer`.
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
    optimizer: str = neutral("adamw")

    def __post_init__(self) -> None:
        for name, known in (("draw", DRAWS), ("optimizer", OPTIMIZERS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)} is unknown; allowed: {', '.join(known)}")


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
        optimizer: of the matrices of blocks. AdamW has everything else.
        d_model: width, on which AdamW's rates depend beside Muon.
    """

    base_lr: float
    init_std: float
    eps: float
    weight_decay: float
    depth_factor: float
    applications: int = 1
    optimizer: str = "adamw"
    d_model: int = TUNED_WIDTH

    @property
    def embedding_lr(self) -> float:
        """Rate of the embedding."""
        return self.base_lr * adamw_ratio(EMBEDDING_RATIO, self.optimizer, self.d_model)

    @property
    def adamw_lr(self) -> float:
        """Rate of what is neither the embedding nor a block's matrix. Beside Muon all of it has the head's."""
        return self.base_lr * adamw_ratio(HEAD_RATIO, self.optimizer, self.d_model)

    def matrix(
        self,
        kind: str,
        pattern: str,
        *,
        gain: float = 1.0,
        part_gains: tuple[float, ...] = (),
        draw: str = "truncated",
    ) -> ParameterRow:
        """A block's matrix: initialised with σ0, times a gain, and decayed. With gain 0 it starts at 0."""
        eps = MUON_EPS if self.optimizer == "muon" else self.eps * self.depth_factor
        return ParameterRow(
            kind,
            pattern,
            gain * self.init_std if gain else None,
            self.base_lr * self.depth_factor,
            eps,
            self.weight_decay,
            draw=draw,
            part_gains=part_gains,
            start=1.0 if gain else 0.0,
            optimizer=self.optimizer,
        )

    def gain(self, kind: str, pattern: str, *, start: float = 1.0) -> ParameterRow:
        """A gain inside the loop: starts at 1 unless said otherwise, is not decayed."""
        return ParameterRow(kind, pattern, None, *self._in_loop, 0.0, start=start)

    def identity(self, kind: str, pattern: str) -> ParameterRow:
        """A square matrix inside the loop that starts as the identity and is not decayed."""
        return ParameterRow(kind, pattern, 1.0, *self._in_loop, 0.0, draw="eye")

    @property
    def _in_loop(self) -> tuple[float, float]:
        """AdamW's rate and ε of a tensor inside the loop."""
        return self.adamw_lr * self.depth_factor, self.eps * self.depth_factor


def adamw_ratio(beside_muon: float, optimizer: str, d_model: int) -> float:
    """A rate of AdamW over η0: `beside_muon` at the tuned width where Muon has the blocks' matrices, else 1."""
    return beside_muon * (d_model / TUNED_WIDTH) ** -0.5 if optimizer == "muon" else 1.0
