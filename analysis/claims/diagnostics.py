"""Claims about the causes and the use of stability: the stream's norm, gradient oscillation, loops at test time.

All of them from the sweep `architectures`, each stabiliser at its own best rate.
"""

import math

import numpy as np
import pandas as pd

from analysis.claims.architectures import COLLAPSE_LOOPS, FLT, LT, best_runs, grid
from analysis.claims.verdict import (
    Finding,
    Unjudged,
    Verdict,
    as_text,
    assessment,
    every,
    fold_text,
    judge,
    not_measured,
)
from analysis.records.result_sets import ARCHITECTURES, Records
from analysis.stats import instability
from analysis.stats.collapse import is_collapsed, nats_learned
from analysis.stats.comparison import Stabiliser
from analysis.stats.intervals import mean_over_seeds
from analysis.stats.transfer import REFERENCE_LOOPS

# An explosion is at least tenfold growth here, no growth is 1. Half-way between them, in decades.
EXPLODES = 0.5
OSCILLATION_LOOPS = (6, 9, 12)
KEPT = 0.5  # half-way between a loss that is kept and one that has collapsed to the unigram entropy


@assessment
def norm_explodes_over_loops(records: Records) -> Finding:
    """At N = 12 the norm of LT's stream grows from the first loop to the last more than √10 times, FLT's less."""
    return _explosion(records, over_loops=True)


@assessment
def norm_explodes_over_steps(records: Records) -> Finding:
    """At N = 12 the norm after LT's last loop grows over training more than √10 times, that of FLT less."""
    return _explosion(records, over_loops=False)


@assessment
def gradient_oscillates_less(records: Records) -> Finding:
    """At N = 6, 9, 12 the standard deviation of the gradient norm in the stable phase is lower under FLT than LT."""
    findings, texts = [], []
    for n_loops in OSCILLATION_LOOPS:
        lt, flt = (_oscillations(records, stabiliser, n_loops) for stabiliser in (LT, FLT))
        both = lt.add_suffix("_lt").join(flt.add_suffix("_flt"), how="inner")
        octaves = (np.log2(both["deviation_lt"]) - np.log2(both["deviation_flt"])).to_numpy()
        if len(octaves) == 0 or np.isnan(octaves).any():
            raise Unjudged(Finding(Verdict.INCONCLUSIVE, why=f"LT and FLT both diverged at N = {n_loops}"))
        larger = mean_over_seeds(octaves)
        findings.append(judge(larger, low=0.0, reason="interval spans 1"))
        steps = f"steps {both['first_flt'].min():.0f}–{both['last_flt'].max():.0f}"
        texts.append(f"{fold_text(larger, 2, '.3g')} at N = {n_loops}, {steps}")
    return every(findings).with_text("LT over FLT: " + "; ".join(texts))


@assessment
def keeps_its_loss(records: Records, stabiliser: Stabiliser) -> Finding:
    """With every other loop count at test time, a model trained at N > 1 keeps half of what it has learned."""
    findings, texts = [], []
    for n_loops in sorted(set(grid(records, stabiliser)["n_loops"]) - {REFERENCE_LOOPS}):
        shares = _shares_kept(records, best_runs(records, stabiliser, n_loops), f"{stabiliser} at N = {n_loops}")
        kept = {n_test: mean_over_seeds(of_seeds.to_numpy()) for n_test, of_seeds in shares.items()}
        findings += [judge(estimate, low=KEPT) for estimate in kept.values()]
        least = min(kept, key=lambda n_test: kept[n_test].value)
        texts.append(f"N = {n_loops} at least {as_text(kept[least], '.2f')} at N_test = {least}")
    if not findings:
        raise Unjudged(not_measured(f"no N > 1 of {stabiliser} in the records"))
    return every(findings).with_text("share kept: " + "; ".join(texts))


def _explosion(records: Records, *, over_loops: bool) -> Finding:
    grow = instability.growth_over_loops if over_loops else instability.growth_over_steps
    findings, texts = [], []
    for stabiliser, (low, high) in ((LT, (EXPLODES, math.inf)), (FLT, (-math.inf, EXPLODES))):
        lines = _lines(records, best_runs(records, stabiliser, COLLAPSE_LOOPS))
        growth = np.array([grow(of_run, COLLAPSE_LOOPS) for of_run in lines.values()])
        if np.isnan(growth).any():
            raise Unjudged(not_measured(f"no norms per loop of {stabiliser} at N = {COLLAPSE_LOOPS} in the records"))
        decades = mean_over_seeds(growth)
        findings.append(judge(decades, low, high, reason="interval spans √10"))
        texts.append(f"{stabiliser.architecture} {fold_text(decades, 10, '.3g')}")
    span = f"from loop 1 to {COLLAPSE_LOOPS}" if over_loops else "from the first recorded step to the last"
    return every(findings).with_text(f"{', '.join(texts)} {span}")


def _oscillations(records: Records, stabiliser: Stabiliser, n_loops: int) -> pd.DataFrame:
    """Deviation, first and last step, per seed."""
    runs = best_runs(records, stabiliser, n_loops)
    rate = float(runs["base_lr"].iloc[0])
    rows = {seed: instability.oscillation(lines, rate) for seed, lines in _lines(records, runs).items()}
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["deviation", "first", "last"])
    if table["deviation"].isna().any():
        raise Unjudged(not_measured(f"no gradient norms of {stabiliser} at N = {n_loops} in the records"))
    return table


def _lines(records: Records, runs: pd.DataFrame) -> dict[int, pd.DataFrame]:
    """The metrics of each seed's run, by step."""
    curves = records.curves.get(ARCHITECTURES)
    if curves is None:
        raise Unjudged(not_measured("no curves in the records"))
    return {
        seed: curves[curves["run_id"] == run_id].sort_values("step")
        for seed, run_id in zip(runs["seed"], runs["run_id"], strict=True)
    }


def _shares_kept(records: Records, runs: pd.DataFrame, name: str) -> pd.DataFrame:
    """The share that a run keeps of the nats it has learned: a row per run, a column per other loop count."""
    readouts = records.readouts.get(ARCHITECTURES)
    if is_collapsed(runs).any():
        raise Unjudged(Finding(Verdict.INCONCLUSIVE, why=f"diverged or collapsed: {name}"))
    unknown = Unjudged(not_measured(f"no loss at other loop counts of {name} in the records"))
    if readouts is None:
        raise unknown
    losses = readouts[(readouts["readout"] == "test_loss") & readouts["run_id"].isin(runs["run_id"])]
    losses = losses[losses["i"] != runs["n_loops"].iloc[0]]
    losses = losses.assign(mean=losses["mean"].fillna(math.inf))  # a loss that is not a number
    by_run = losses.pivot(index="run_id", columns="i", values="mean").reindex(runs["run_id"])
    if by_run.empty or by_run.isna().any(axis=None):
        raise unknown
    entropy, learned = runs["unigram_entropy"].to_numpy(), nats_learned(runs).to_numpy()
    kept: pd.DataFrame = (-by_run.sub(entropy, axis=0)).div(learned, axis=0)
    return kept
