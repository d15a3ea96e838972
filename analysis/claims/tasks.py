"""Claims about tasks: what more loops buy, in training and at test time. From sweeps whose data are a task."""

import pandas as pd

from analysis.claims.verdict import Finding, Unjudged, as_text, assessment, judge, not_measured, unfinished
from analysis.records.result_sets import ARCHITECTURES, Records
from analysis.stats import accuracy
from analysis.stats.comparison import Stabiliser
from analysis.stats.intervals import Estimate

LR_TRANSFER = "lr_transfer"
MANY_LOOPS = 8
FLT_LOOPS = 12
PRESET = "phop_quick"  # that the commands name


@assessment
def loops_raise_accuracy(records: Records) -> Finding:
    """Under linear at L_ref, accuracy at N = 8 minus that at N = 1, each at its best rate, is above zero."""
    cells = _cells(records, LR_TRANSFER, "linear")
    chosen = cells[(cells["depth_multiplier"] == 1) & cells["n_loops"].isin((1, MANY_LOOPS))]
    few, many = (_best(chosen[chosen["n_loops"] == n], f"N = {n} under linear") for n in (1, MANY_LOOPS))
    gain = _difference(many, few)
    texts = [f"{of[accuracy.ACCURACY].mean():.3f} at N = {n}" for n, of in ((1, few), (MANY_LOOPS, many))]
    return judge(gain, low=0.0).with_text(f"{as_text(gain, '+.3f')}: {', '.join(texts)}")


@assessment
def scaling_beats(records: Records, scaled: Stabiliser, other: Stabiliser) -> Finding:
    """At N = 12 the accuracy of `scaled` minus that of `other`, each at its best rate, is above zero."""
    cells = _cells(records, ARCHITECTURES)
    runs = {}
    for one in (scaled, other):
        of_one = cells[(cells["architecture"] == one.architecture) & (cells["rule"] == one.rule)]
        runs[one] = _best(of_one[of_one["n_loops"] == FLT_LOOPS], f"{one} at N = {FLT_LOOPS}")
    gain = _difference(runs[scaled], runs[other])
    texts = [f"{of[accuracy.ACCURACY].mean():.3f} of {one}" for one, of in runs.items()]
    return judge(gain, low=0.0).with_text(f"{as_text(gain, '+.3f')}: {', '.join(texts)}")


@assessment
def more_test_loops_help(records: Records) -> Finding:
    """Under linear at L_ref, models of N = 8 answer levels beyond training more often with 16 loops than with 8."""
    cells = _cells(records, LR_TRANSFER, "linear")
    chosen = cells[(cells["depth_multiplier"] == 1) & (cells["n_loops"] == MANY_LOOPS)]
    runs = _best(chosen, f"N = {MANY_LOOPS} under linear")
    levels = accuracy.level_table(runs, records.readouts.get(LR_TRANSFER, _NO_READOUTS))
    beyond = levels[levels["kind"] == "beyond"]
    means = beyond.groupby(["test_loops", "seed"])["accuracy"].mean()
    tested = set(beyond["test_loops"])
    if not {MANY_LOOPS, 2 * MANY_LOOPS} <= tested:
        raise Unjudged(not_measured("no accuracy beyond training at other loop counts in the records"))
    gain = accuracy.paired_difference(means[2 * MANY_LOOPS], means[MANY_LOOPS])
    texts = [f"{means[n].mean():.3f} at N_test = {n}" for n in (MANY_LOOPS, 2 * MANY_LOOPS)]
    return judge(gain, low=0.0).with_text(f"{as_text(gain, '+.3f')}: {', '.join(texts)}")


_NO_READOUTS = pd.DataFrame({"run_id": [], "readout": [], "i": [], "mean": []}).astype({"readout": "str"})


def _cells(records: Records, experiment: str, rule: str | None = None) -> pd.DataFrame:
    cells = records.cells.get(experiment)
    command = f"loopsweep submit +sweep={experiment} preset={PRESET}"
    if cells is None or not accuracy.has_accuracy(cells):
        raise Unjudged(not_measured(f"no {experiment} sweep of a task in the records: {command}"))
    return cells if rule is None else cells[cells["rule"] == rule]


def _best(cells: pd.DataFrame, what: str) -> pd.DataFrame:
    """The runs at the best rate of the one curve in `cells`."""
    if missing := unfinished(cells, f"run with {what}"):
        raise Unjudged(missing)
    return accuracy.at_best_rates(cells)


def _difference(first: pd.DataFrame, second: pd.DataFrame) -> Estimate:
    by_seed = [runs.set_index("seed")[accuracy.ACCURACY] for runs in (first, second)]
    return accuracy.paired_difference(*by_seed)
