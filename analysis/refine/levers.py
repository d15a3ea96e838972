"""What more runs would do to an interval, in closed form from the design matrix.

A lever is a set of rates of one curve. A unit of it is one more seed at all of them. Vertices are located by seeds on
the flanks: for a parabola of curvature c near the middle of the fitted rates, Var(vertex) = s² / (4 c² Σ z²), and a run
at the optimum itself adds nothing (Fedorov and Müller 1997; Melas, Pepelyshev, Cheng, Metrika 58, 2003). Where the
curvature could still be zero, an inner rate is needed as well.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from analysis.refine.grid import Grid, Run
from analysis.refine.questions import Target, Term
from analysis.stats.curves import Curve
from analysis.stats.intervals import t_quantile
from analysis.stats.optimum import WINDOW_OCTAVES, Floats
from analysis.stats.seeds import ENOUGH_DF, AdditiveFit, additive_fit
from analysis.stats.transfer import PAIRED_SEEDS, CurveKey, seed_differences

FLANK_OCTAVES = 0.85  # from the vertex at least, else a new rate is put an octave from it
_NEARLY_OPEN = 0.9  # share of the curvature that could be noise, beyond which an interval counts as open
_WORST_LUCK = 3.0  # times the expected width that an interval counts for, even if it is open
_LEAST_DF = 0.5  # stands for none, so that the first seeds of a depth count for much
STEP_OCTAVES = 0.5  # of an extension at least, and the least gap that is halved
FEW_DF = 8  # degrees of freedom below which residuals of the parabolas help to guess the noise
OWN_DF, OWN_RATIO = 4, 2.0  # from which, and with how much more or less noise, a curve is guessed to have its own
FEWEST_PAIRS = 3  # seeds at both points that a guess of their differences' noise takes


@dataclass(frozen=True, order=True)
class Lever:
    """One more seed at each of `rates` of a curve, as often as wanted."""

    key: CurveKey
    rates: tuple[float, ...]

    def runs(self, grid: Grid, units: int) -> list[Run]:
        """The runs of the first `units` units, each with a seed that none of these rates has."""
        rates, table = grid.curves[self.key]
        at = np.isin(rates, self.rates)
        used = {seed for column, seed in enumerate(grid.seeds) if not np.isnan(table[at][:, column]).all()}
        seeds: list[int] = []
        candidate = 0
        while len(seeds) < units:
            if candidate not in used:
                seeds.append(candidate)
            candidate += 1
        new = [(self.key, rate, grid.seeds[0]) for rate in self.rates if rate not in rates]  # tied to the other rates
        return list(dict.fromkeys([*new, *((self.key, rate, seed) for seed in seeds for rate in self.rates)]))


@dataclass
class Expected:
    """Expected half-widths of a question's targets with more units of levers.

    Args:
        grid: the sweep.
        curves: the fitted curves of the question.
        alpha: of the intervals at the next look.
    """

    grid: Grid
    curves: Mapping[CurveKey, Curve]
    alpha: float
    units: dict[Lever, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._noise = guessed_noise(self.curves)
        self._curvature = _curvatures(self.curves)
        self._levers: dict[Term, list[Lever]] = {}
        self._parts: dict[Term, tuple[Floats, list[Floats]]] = {}
        self._luck: dict[Term, float] = {}

    def levers(self, term: Term) -> list[Lever]:
        """The levers that narrow a term, none if nothing does."""
        if term not in self._levers:
            self._levers[term] = self._found(term)
        return self._levers[term]

    def learn(self, targets: Iterable[Target]) -> None:
        """Take the intervals of now into account, where the data are less lucky than expected. Call it once, first."""
        for term in {term for target in targets for term in target.terms if term.rate is None}:
            now = self.curves[term.key].optimum.octaves
            expected = self._arm(term, self._margin(term))
            if now.has_interval and math.isfinite(expected):
                self._luck[term] = min(max((now.high - now.low) / 2 / expected, 1.0), _WORST_LUCK)

    def half_width(self, target: Target) -> float:
        """With the units of now. +inf if a term cannot be known."""
        pair = self._pair(target)
        squares = 0.0
        for term in target.terms:
            squares += self._arm(term, self._margin(term) if pair is None else pair) ** 2
        return math.inf if math.isnan(squares) else math.sqrt(squares)

    def _margin(self, term: Term) -> float:
        """Half-width of the interval of a single run of the term's curve."""
        noise, depth = self._noise[term.key], self.curves[term.key].noise
        if term.rate is not None and depth is not None and depth.between.df:  # it is compared across curves
            noise = Guess(depth.between.sd, depth.between.df, own=False)
        of_it = [key for key in self.curves if key == term.key or (not noise.own and key[2] == term.key[2])]
        units = [(lever, count) for lever, count in self.units.items() if lever.key in of_it]
        # A seed adds one less than its rates; those of lone rates share seeds.
        more = sum(count * (len(lever.rates) - 1 if len(lever.rates) > 1 else 0.5) for lever, count in units)
        return t_quantile(max(noise.df + more, _LEAST_DF), self.alpha / 2) * noise.sd

    def _pair(self, target: Target) -> float | None:
        """The same from the differences of seeds that both terms have, None with too few to guess by."""
        (first, at), (second, below) = ((self.curves[term.key], self._place(term)) for term in target.terms)
        if at is None or below is None:
            return None
        own = seed_differences(first, at, second, below)
        seeds = min(self._count(term) for term in target.terms)
        if len(own) < FEWEST_PAIRS or seeds < PAIRED_SEEDS:
            return None
        return t_quantile(seeds - 1, self.alpha / 2) * float(np.std(own, ddof=1)) / math.sqrt(2)

    def _place(self, term: Term) -> int | None:
        return None if term.rate is None else self.curves[term.key].place(term.rate)

    def _count(self, term: Term) -> float:
        """Runs at the rate of a term, with the units of now."""
        at = self._place(term)
        now = 0.0 if at is None else float(self.curves[term.key].seeds[at])
        return now + sum(map(self._units, self.levers(term)))

    def _arm(self, term: Term, margin: float) -> float:
        """Half-width of one term, `margin` being that of a single run. Where it would be open: a large number."""
        if term.rate is not None:
            count = self._count(term)
            return margin / math.sqrt(count) if count else math.inf
        if term not in self._parts:
            self._parts[term] = self._information(term)
        now, each = self._parts[term]
        normal = now + sum(
            (self._units(lever) * unit for lever, unit in zip(self.levers(term), each, strict=True)), 0.0
        )
        determinant = normal[0, 0] * normal[1, 1] - normal[0, 1] ** 2
        if determinant <= 1e-12:
            return math.inf
        curvature = self._curvature[term.key[2]]
        # Fieller's interval is wider than the delta method's by the share g of the curvature that could be noise.
        g = margin**2 * normal[0, 0] / determinant / curvature**2
        factor = 1 / (1 - g) if g < _NEARLY_OPEN else (1 + g) / (1 - _NEARLY_OPEN)
        arm = float(margin * math.sqrt(normal[1, 1] / determinant) / (2 * curvature) * factor)
        return arm * self._luck.get(term, 1.0)

    def _units(self, lever: Lever) -> int:
        return self.units.get(lever, 0)

    def _information(self, term: Term) -> tuple[Floats, list[Floats]]:
        """(2, 2) normal matrices of slope and curvature about the vertex: of the runs, and of a unit of each lever."""
        curve = self.curves[term.key]
        fitted = curve.fitted
        vertex = _vertex(curve)
        z = np.log2(curve.rates[fitted]) - vertex
        now = sum((_normal(z[np.isfinite(column)]) for column in curve.runs[fitted].T), np.zeros((2, 2)))
        return now, [_normal(np.log2(np.array(lever.rates)) - vertex) for lever in self.levers(term)]

    def _found(self, term: Term) -> list[Lever]:
        curve = self.curves[term.key]
        if term.rate is not None:
            return [Lever(term.key, (term.rate,))] if math.isfinite(term.rate) else []
        outer = flanks(term.key, curve)
        if outer is None:
            return []
        low, high = outer.rates
        inner = [rate for rate in curve.rates[curve.fitted] if low < rate < high]
        middle = min(inner, key=lambda rate: abs(math.log2(rate) - _vertex(curve)), default=None)
        return [outer] if middle is None else [outer, Lever(term.key, (low, float(middle), high))]


def flanks(key: CurveKey, curve: Curve) -> Lever | None:
    """The lever of a vertex: a rate on either side, never diverged and never beside a diverged rate.

    The outermost rates that the parabola is fitted to. A side whose outermost rate is nearer than `FLANK_OCTAVES` gets
    a new rate, unless runs diverge there. None without a fit.
    """
    fitted = curve.fitted
    if len(fitted) < 3:
        return None
    x, vertex = np.log2(curve.rates), _vertex(curve)
    calm = [at for at in fitted if not _beside_divergence(curve, int(at))]
    found = []
    for side in (-1, 1):
        there = [at for at in calm if (x[at] - vertex) * side > 0]
        at = max(there, key=lambda one: (x[one] - vertex) * side, default=None)
        reach = 0.0 if at is None else (x[at] - vertex) * side
        wary = [int(one) for one in fitted if one not in calm and (x[one] - vertex) * side > max(reach, 0.0)]
        if reach < FLANK_OCTAVES and wary:  # half-way to the rate beside divergence
            start = x[at] if at is not None else vertex
            near = wary[0] if side > 0 else wary[-1]
            found.append(rounded(2.0 ** float((start + x[near]) / 2)))
        elif reach < FLANK_OCTAVES and not _diverges(curve, side):
            found.append(rounded(2.0 ** (vertex + side * WINDOW_OCTAVES)))
        elif at is not None:
            found.append(float(curve.rates[at]))
    return Lever(key, tuple(found)) if len(found) == 2 else None


def rounded(rate: float) -> float:
    """To three digits."""
    return round(rate, 2 - math.floor(math.log10(rate)))


def beyond_edge(curve: Curve) -> tuple[float, str] | None:
    """A rate that closes an optimum at the edge, and why; None where nothing can."""
    flag, x = curve.optimum.flag, np.log2(curve.rates)
    finite = np.flatnonzero(np.isfinite(curve.losses))
    if not flag.startswith("at the edge") or not len(finite):
        return None
    at = int(np.flatnonzero(curve.rates == curve.optimum.rate)[0])
    if "grid ends above" in flag or "grid ends below" in flag:
        side = 1 if "grid ends above" in flag else -1
        gap = abs(float(x[at] - x[at - side])) if 0 <= at - side < len(x) else STEP_OCTAVES
        return rounded(2.0 ** float(x[at] + side * min(max(gap, STEP_OCTAVES), WINDOW_OCTAVES))), flag.removeprefix(
            "at the edge: "
        )
    if "diverged above" in flag or "diverged below" in flag:
        side = 1 if "diverged above" in flag else -1
        gap = float(x[at + side] - x[at])
        if abs(gap) >= STEP_OCTAVES:
            return rounded(2.0 ** float(x[at] + gap / 2)), flag.removeprefix("at the edge: ")
    return None


@dataclass(frozen=True)
class Guess:
    """Standard deviation of one run of a curve, the degrees of freedom of now, and whether they are its `own`."""

    sd: float
    df: float
    own: bool


def guessed_noise(curves: Mapping[CurveKey, Curve]) -> dict[CurveKey, Guess]:
    """The noise of every curve: that of its depth, or its own where its seeds scatter clearly more or less."""
    fits = {id(curve.runs): additive_fit(curve.runs[curve.fitted]) for curve in curves.values()}
    of_depth = _noise_of_depths(curves, fits)
    found = {}
    for key, curve in curves.items():
        sd, df = of_depth[key[2]]
        own = fits[id(curve.runs)]
        its_sd = math.sqrt(own.squares / own.df) if own.df else math.nan
        differs = own.df >= OWN_DF and not sd / OWN_RATIO <= its_sd <= sd * OWN_RATIO
        found[key] = Guess(its_sd, own.df, True) if differs or own.df >= ENOUGH_DF else Guess(sd, df, False)
    return found


def _noise_of_depths(
    curves: Mapping[CurveKey, Curve], fits: Mapping[int, AdditiveFit]
) -> dict[int, tuple[float, float]]:
    """Pooled sd and df at each depth, from the fit of every array of runs, by its identity.

    From few degrees of freedom, the sd with the residuals of the parabolas.
    """
    found = {}
    for n_layers in {key[2] for key in curves}:
        of_depth = {id(curve.runs): curve for key, curve in curves.items() if key[2] == n_layers}
        squares, df = math.fsum(fits[one].squares for one in of_depth), math.fsum(fits[one].df for one in of_depth)
        now = df
        if df < FEW_DF:
            for curve in of_depth.values():
                fitted = curve.fitted
                if len(fitted) > 3:
                    x = np.log2(curve.rates[fitted]) - np.log2(curve.optimum.rate)
                    weights = np.sqrt(curve.seeds[fitted])
                    fit = np.polyfit(x, curve.losses[fitted], 2, w=weights)
                    squares += float(((np.polyval(fit, x) - curve.losses[fitted]) ** 2 * curve.seeds[fitted]).sum())
                    df += len(fitted) - 3
        found[n_layers] = math.sqrt(squares / df) if df else math.nan, now
    return found


def _curvatures(curves: Mapping[CurveKey, Curve]) -> dict[int, float]:
    """Nats per squared octave at each depth: the median over its curves, which noise moves less than each one."""
    found = {}
    for n_layers in {key[2] for key in curves}:
        fits = []
        for key, curve in curves.items():
            fitted = curve.fitted
            if key[2] == n_layers and len(fitted) >= 3:
                fits.append(np.polyfit(np.log2(curve.rates[fitted]), curve.losses[fitted], 2)[0])
        found[n_layers] = max(float(np.median(fits)), 1e-6) if fits else math.nan
    return found


def _vertex(curve: Curve) -> float:
    fitted = curve.optimum.fitted_rate
    return float(np.log2(fitted if math.isfinite(fitted) else curve.optimum.rate))


def _normal(z: Floats) -> Floats:
    """(2, 2) normal matrix of slope and curvature from one seed at `z`, with its own offset."""
    powers = np.stack([z, z**2])
    powers = powers - powers.mean(axis=1, keepdims=True) if len(z) else powers
    product: Floats = powers @ powers.T
    return product


def _beside_divergence(curve: Curve, at: int) -> bool:
    near = curve.losses[max(at - 1, 0) : at + 2]
    return bool(np.isinf(near).any())


def _diverges(curve: Curve, side: int) -> bool:
    at = int(np.flatnonzero(curve.rates == curve.optimum.rate)[0])
    return bool(np.isinf(curve.losses[at:] if side > 0 else curve.losses[:at]).any())
