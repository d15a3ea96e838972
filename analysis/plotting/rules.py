"""A scaling rule in the words of figures: its formula and its expected growth, both derived from its exponents."""

import math
import re

from model.scaling import RULES

EXPONENT = re.compile(r"\b(alpha|beta)=([-+.\de]+)")


def exponents(rule: str) -> tuple[float, float]:
    """α and β of a rule as records name it: a row of `RULES`, or exponents such as "alpha=0.75 beta=0.5".

    NaN for an exponent that is not in the name.
    """
    if rule in RULES:
        return RULES[rule].alpha, RULES[rule].beta
    given = {name: float(value) for name, value in EXPONENT.findall(rule)}
    return given.get("alpha", math.nan), given.get("beta", math.nan)


def loop_formula(rule: str, count: str) -> str:
    """ε as a function of a count alone, the loops "N" or unique layers "L"; empty if α is unknown."""
    return _formula(_power(count, exponents(rule)[0]))


def named(rule: str, count: str) -> str:
    """A rule's name and, if known, its `loop_formula`."""
    return ", ".join(filter(None, (rule, loop_formula(rule, count))))


def formula(rule: str) -> str:
    """ε as a function of the loops N and the depth multiplier m_L; empty if an exponent is unknown."""
    alpha, beta = exponents(rule)
    if alpha == beta == 0.5:
        return _formula(r"\sqrt{N\,m_L}")
    loops, depth = _power("N", alpha), _power("m_L", beta)
    if not (loops and depth):
        return ""
    factors = [factor for factor in (loops, depth) if factor != "1"]
    product = factors[0] if factors else "1"
    if len(factors) == 2:
        product = f"({loops}{depth})" if depth.startswith(r"\sqrt") else rf"({loops}\,{depth})"
    return _formula(product)


def update_growth(rule: str) -> float:
    """`ScalingRule.update_growth`, NaN if α is unknown."""
    return 1.0 - exponents(rule)[0]


def growth_text(exponent: float) -> str:
    """How N to the power `exponent` grows, in words and signs."""
    power = _power("N", exponent)
    return "constant" if power == "1" else rf"$\propto {power}$"


def _formula(product: str) -> str:
    if not product:
        return ""
    return r"$\varepsilon=1$" if product == "1" else rf"$\varepsilon=1/{product}$"


def _power(base: str, exponent: float) -> str:
    """`base` to the power `exponent` in mathtext; empty for NaN."""
    if math.isnan(exponent):
        return ""
    known = {0.0: "1", 0.5: rf"\sqrt{{{base}}}", 1.0: base}
    return known.get(exponent, f"{base}^{{{exponent:g}}}")
