"""The residual scale: one formula for every rule.

ε(N, L) = λ · N^(−α) · m_L^(−β),      m_L = L / L_ref
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class ScalingRule:
    """Exponents of the residual scale: α on the loop count N, β on the depth multiplier m_L.

    All that figures and claims need to know of a rule follows from them (`analysis.plotting.rules`).
    """

    alpha: float
    beta: float

    @property
    def update_growth(self) -> float:
        """The p of N^p in Theorem 2's bound η·ε·N on how far one optimizer step moves h_N."""
        return 1.0 - self.alpha


# A new rule is one row here. Figures derive its formula and its expected growth, and give it a colour and a marker.
RULES = {
    "none": ScalingRule(alpha=0.0, beta=0.0),
    "sqrt": ScalingRule(alpha=0.5, beta=0.5),
    "linear": ScalingRule(alpha=1.0, beta=0.5),  # the paper's factored rule, Section 4
}


def residual_scale(
    rule: str | ScalingRule, n_loops: int, n_layers: int, *, ref_layers: int = 12, multiplier: float = 1.0
) -> float:
    """Residual scale ε of a stack of `n_layers` unique blocks applied `n_loops` times (Theorem 3).

    Args:
        rule: a name in `RULES`, or custom exponents.
        n_loops: loop count N.
        n_layers: unique depth L.
        ref_layers: reference depth L_ref at which m_L = 1 (the paper's is 12).
        multiplier: the constant λ.

    Raises:
        ValueError: for an unknown rule, a count below 1 or a multiplier that is not positive.
    """
    if isinstance(rule, str):
        if rule not in RULES:
            raise ValueError(f"unknown scaling rule {rule!r}; known: {', '.join(RULES)}")
        rule = RULES[rule]
    for name, value in (("n_loops", n_loops), ("n_layers", n_layers), ("ref_layers", ref_layers)):
        if value < 1:
            raise ValueError(f"{name}={value} must be at least 1")
    if not multiplier > 0:
        raise ValueError(f"multiplier={multiplier} must be positive")
    depth_multiplier = n_layers / ref_layers
    return float(multiplier * n_loops**-rule.alpha * depth_multiplier**-rule.beta)
