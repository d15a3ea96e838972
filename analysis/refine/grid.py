"""The curves of a sweep as arrays, with what a run of each costs."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from analysis.stats import curves, looks
from analysis.stats.curves import Curve
from analysis.stats.intervals import ALPHA
from analysis.stats.optimum import Floats
from analysis.stats.transfer import CURVE_KEY, CurveKey
from sweeper.hardware import GPUS

FINISHED = ("done", "diverged")
Run = tuple[CurveKey, float, int]  # a curve, a base rate, a seed


@dataclass(frozen=True)
class Grid:
    """The curves of a sweep: (R,) rates ascending and (R, S) losses of the runs, NaN no run, +inf diverged.

    Attributes:
        curves: per panel, rule, L and N. Curves of the same runs, such as those of sqrt and linear at N = 1, share the
            array of losses.
        seeds: of the S columns.
        depths: depth multiplier of each L.
        hours: of one run of each curve. NaN where nothing is known.
        missing: cells without a result.
        round: that added the last cells, see `analysis.stats.looks`.
    """

    curves: Mapping[CurveKey, tuple[Floats, Floats]]
    seeds: tuple[int, ...]
    depths: Mapping[int, float]
    hours: Mapping[CurveKey, float]
    missing: tuple[Run, ...] = ()
    round: int = 0

    @property
    def has_noise(self) -> bool:
        """Whether two points of some depth have two seeds or more, so that there are intervals."""
        points: Counter[int] = Counter()
        for key, (_, runs) in self.curves.items():
            if key == self.twins(key)[0]:
                points[key[2]] += int((np.isfinite(runs).sum(axis=1) > 1).sum())
        return any(count > 1 for count in points.values())

    def fitted(self, keys: Iterable[CurveKey], alpha: float = ALPHA) -> dict[CurveKey, Curve]:
        """The curves with their optima, each depth with the noise of its own curves among `keys`."""
        chosen = list(keys)
        found: dict[CurveKey, Curve] = {}
        for n_layers in sorted({key[2] for key in chosen}):
            at_depth = {key: self.curves[key] for key in chosen if key[2] == n_layers}
            found |= curves.of_depth(at_depth, alpha)
        return found

    def twins(self, key: CurveKey) -> list[CurveKey]:
        """The curves of the same runs, `key` among them."""
        return [other for other in self.curves if self.curves[other][1] is self.curves[key][1]]

    def has(self, run: Run) -> bool:
        """Whether the run is in the sweep with a result."""
        key, rate, seed = run
        rates, runs = self.curves[key]
        at = np.flatnonzero(rates == rate)
        return bool(len(at)) and seed in self.seeds and not np.isnan(runs[at[0], self.seeds.index(seed)])

    def with_runs(self, losses: Mapping[Run, float], number: int) -> "Grid":
        """The sweep with more runs, which round `number` has added. A run enters all curves that are its twins."""
        seeds = tuple(sorted({*self.seeds, *(seed for _, _, seed in losses)}))
        found: dict[CurveKey, tuple[Floats, Floats]] = {}
        done: dict[int, tuple[Floats, Floats]] = {}
        for key, (rates, runs) in self.curves.items():
            if id(runs) not in done:
                twins = set(self.twins(key))
                new = {(rate, seed): loss for (other, rate, seed), loss in losses.items() if other in twins}
                wider = np.array(sorted({*rates.tolist(), *(rate for rate, _ in new)}))
                table = np.full((len(wider), len(seeds)), math.nan)
                rows, columns = np.searchsorted(wider, rates), np.searchsorted(seeds, self.seeds)
                table[np.ix_(rows, columns)] = runs
                for (rate, seed), loss in new.items():
                    table[np.searchsorted(wider, rate), seeds.index(seed)] = loss
                done[id(runs)] = wider, table
            found[key] = done[id(runs)]
        return replace(self, curves=found, seeds=seeds, round=number)


def from_cells(cells: pd.DataFrame, *, by_flops: bool = False) -> Grid:
    """The grid of a table of cells of one context, see `analysis.records.sources.load_cells`.

    `by_flops`: hours are those of an H100, also where times were measured.
    """
    seeds = tuple(sorted(map(int, cells["seed"].unique())))
    finished = cells["val_loss"].where(cells["state"] == "done").mask(cells["state"] == "diverged", math.inf)
    cells = cells.assign(loss=finished)
    found: dict[CurveKey, tuple[Floats, Floats]] = {}
    of_runs: dict[frozenset[str], tuple[Floats, Floats]] = {}
    keys: dict[CurveKey, pd.DataFrame] = {}
    for values, of_curve in cells.groupby(CURVE_KEY, sort=True):
        panel, rule, n_layers, _, n_loops = values
        key = str(panel), str(rule), int(str(n_layers)), int(str(n_loops))
        table = of_curve.pivot(index="base_lr", columns="seed", values="loss").reindex(columns=list(seeds))
        arrays = table.index.to_numpy(dtype=float), table.to_numpy(dtype=float)
        found[key] = of_runs.setdefault(frozenset(of_curve["run_id"]), arrays)
        keys[key] = of_curve
    unfinished = cells[~cells["state"].isin(FINISHED)]
    missing = [
        ((row["panel"], row["rule"], row["n_layers"], row["n_loops"]), row["base_lr"], row["seed"])
        for row in unfinished.to_dict("records")
    ]
    return Grid(
        curves=found,
        seeds=seeds,
        depths={
            int(str(n_layers)): float(of["depth_multiplier"].iloc[0]) for n_layers, of in cells.groupby("n_layers")
        },
        hours=_hours(cells, keys, by_flops=by_flops),
        missing=tuple(missing),
        round=looks.last_round(cells),
    )


UTILISATION = 0.377  # of an H100's peak, attention counted: that of the paper's trainings together, by their plan
GPU_FLOPS = GPUS["H100"].peak * UTILISATION


def _hours(cells: pd.DataFrame, keys: Mapping[CurveKey, pd.DataFrame], *, by_flops: bool) -> dict[CurveKey, float]:
    """Measured where runs have finished, in proportion to L · N and steps elsewhere; else on an H100, from FLOPs."""
    nothing = pd.Series(math.nan, index=cells.index)
    work = cells["n_layers"] * cells["n_loops"] * cells["steps"]
    seconds = cells.get("step_seconds", nothing).where(cells["state"] == "done")
    if seconds.notna().any() and not by_flops:
        each = float(seconds.sum() / work[seconds.notna()].sum())
        means = {key: float(seconds[of_curve.index].mean()) for key, of_curve in keys.items()}
        return {
            key: (means[key] if math.isfinite(means[key]) else each * float(work[of_curve.index].iloc[0])) / 3600
            for key, of_curve in keys.items()
        }
    flops = cells.get("flops", nothing)
    return {key: float(flops[of_curve.index].iloc[0]) / GPU_FLOPS / 3600 for key, of_curve in keys.items()}
