"""Accuracy of a task from planted records: best rates, intervals, levels, claims and the figure."""

import math
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from analysis import plot_tasks
from analysis.claims import tasks
from analysis.claims.architectures import FLT, PLAIN_LINEAR
from analysis.claims.verdict import Verdict
from analysis.records.result_sets import Records
from analysis.stats import accuracy

RATES = (4e-3, 8e-3, 1.6e-2)
LEVELS = {"trained": (1, 2), "beyond": (3, 4)}
Store = Callable[..., Path]


def make_cells(gain: float = 0.1) -> pd.DataFrame:
    """Two rules, N = 1 and 8, three seeds: the loss is best at 8e-3, accuracy rises by `gain` an octave of N."""
    rows = [
        {
            "sweep": "lr_transfer-phop_quick",
            "experiment": "lr_transfer",
            "preset": "phop_quick",
            "panel": panel,
            "rule": rule,
            "n_layers": 1,
            "ref_layers": 1,
            "depth_multiplier": 1.0,
            "n_loops": n_loops,
            "base_lr": rate,
            "seed": seed,
            "run_id": f"{rule if n_loops > 1 else 'any'}-{n_loops}-{rate:g}-{seed}",
            "state": "done",
            "val_loss": 0.5 + 0.1 * abs(math.log2(rate / 8e-3)),
            "val_accuracy": 0.5 + gain * math.log2(n_loops) + 0.01 * seed + (0.1 if rate > 8e-3 else 0.0),
            "val_exact_match": 0.1 * seed,
            "step": 10,
            "steps": 10,
            "reason": "",
        }
        for panel, rule in (("a", "sqrt"), ("b", "linear"))
        for n_loops in (1, 8)
        for rate in RATES
        for seed in (0, 1, 2)
    ]
    return pd.DataFrame(rows)


def make_readouts(cells: pd.DataFrame, gain: float = 0.05) -> pd.DataFrame:
    """Accuracy falls with the level, and beyond training rises by `gain` with each octave of loops at test time."""
    rows = []
    for row in cells.drop_duplicates("run_id").to_dict("records"):
        for kind, levels in LEVELS.items():
            for level in levels:
                for loops in (1, 8, 16):
                    value = 0.9 - 0.1 * level + (gain * math.log2(loops / row["n_loops"]) if kind == "beyond" else 0.0)
                    value += 0.001 * row["seed"] * loops
                    rows += [
                        (row["run_id"], f"{score}_{kind}_{level}", loops, -1, value, 0.1)
                        for score in ("accuracy", "exact_match")
                    ]
                rows.append((row["run_id"], "loop_loss", level, -1, 1.0, 0.1))
    return pd.DataFrame(rows, columns=["run_id", "readout", "i", "j", "mean", "std"])


def records(cells: pd.DataFrame, readouts: pd.DataFrame | None = None, experiment: str = "lr_transfer") -> Records:
    tables = {} if readouts is None else {experiment: readouts}
    return Records("phop_quick", "here", cells={experiment: cells}, readouts=tables)


def test_the_best_rate_is_the_one_of_the_lowest_loss_not_of_the_highest_accuracy() -> None:
    runs = accuracy.at_best_rates(make_cells())
    assert set(runs["base_lr"]) == {8e-3}
    assert len(runs) == 2 * 2 * 3


def test_a_lucky_run_at_a_rate_that_no_other_seed_has_is_not_the_best() -> None:
    cells = make_cells()
    runs = cells[(cells["base_lr"] == 8e-3) & (cells["n_loops"] == 8)]
    spread = runs["val_loss"] + 0.05 * runs["seed"]
    cells.loc[runs.index, "val_loss"] = spread
    lucky = runs[runs["seed"] == 0].assign(base_lr=1.2e-2, val_loss=spread.mean() - 0.005, run_id="lucky")
    assert set(accuracy.at_best_rates(pd.concat([cells, lucky]))["base_lr"]) == {8e-3}


def test_a_rate_at_which_a_seed_diverged_is_not_the_best() -> None:
    cells = make_cells()
    lost = (cells["base_lr"] == 8e-3) & (cells["seed"] == 1) & (cells["n_loops"] == 8)
    cells.loc[lost, ["state", "val_loss"]] = ["diverged", math.nan]
    best = accuracy.at_best_rates(cells).groupby("n_loops")["base_lr"].first()
    assert best.to_dict() == {1: 8e-3, 8: 4e-3}


def test_accuracy_has_student_s_interval_over_seeds() -> None:
    row = accuracy.accuracy_table(make_cells()).query("rule == 'linear' and n_loops == 8").iloc[0]
    assert row["accuracy"] == pytest.approx(0.81)
    assert row["accuracy_high"] - row["accuracy"] == pytest.approx(4.303 * 0.01 / math.sqrt(3), rel=1e-3)
    assert row["seeds"] == 3


def test_levels_are_read_off_the_names_of_read_outs() -> None:
    cells = make_cells()
    table = accuracy.level_table(accuracy.at_best_rates(cells), make_readouts(cells))
    assert len(table) == 12 * 4 * 3
    assert set(zip(table["kind"], table["level"], strict=True)) == {(k, n) for k, of in LEVELS.items() for n in of}


@pytest.mark.parametrize(("gain", "verdict"), [(0.1, Verdict.HOLDS), (-0.1, Verdict.FAILS)])
def test_more_loops_raise_accuracy_where_they_do(gain: float, verdict: Verdict) -> None:
    found = tasks.loops_raise_accuracy(records(make_cells(gain)))
    assert found.verdict is verdict
    assert f"{3 * gain:+.3f}".replace("-", "−") in found.measured


@pytest.mark.parametrize(("gain", "verdict"), [(0.05, Verdict.HOLDS), (-0.05, Verdict.FAILS)])
def test_loops_at_test_time_help_beyond_where_they_do(gain: float, verdict: Verdict) -> None:
    cells = make_cells()
    assert tasks.more_test_loops_help(records(cells, make_readouts(cells, gain))).verdict is verdict


def test_one_over_n_is_compared_with_flt_at_twelve_loops() -> None:
    cells = make_cells().query("n_loops == 8").assign(n_loops=12, experiment="architectures", architecture="plain")
    cells = cells.assign(architecture=cells["architecture"].mask(cells["rule"] == "sqrt", "FLT"))
    cells = cells.assign(rule=cells["rule"].replace("sqrt", "none"))
    worse = cells.assign(val_accuracy=cells["val_accuracy"] - 0.2 * (cells["architecture"] == "FLT"))
    found = tasks.scaling_beats(records(worse, experiment="architectures"), PLAIN_LINEAR, FLT)
    assert found.verdict is Verdict.HOLDS
    assert "+0.200" in found.measured


def test_text_and_missing_runs_decide_nothing() -> None:
    cells = make_cells()
    text = cells.drop(columns=["val_accuracy", "val_exact_match"])
    for found in (
        tasks.loops_raise_accuracy(records(text)),
        tasks.more_test_loops_help(records(text)),
        tasks.more_test_loops_help(records(cells)),  # without read-outs
        tasks.scaling_beats(records(cells), PLAIN_LINEAR, FLT),
    ):
        assert found.verdict is Verdict.NOT_MEASURED
    part = cells.assign(state=cells["state"].mask(cells["n_loops"] == 8, "pending"))
    part.loc[cells["n_loops"] == 8, ["val_loss", "val_accuracy"]] = math.nan
    assert tasks.loops_raise_accuracy(records(part)).verdict is Verdict.NOT_MEASURED


def test_the_figure_has_every_curve_and_level(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cells = make_cells()
    results = store(tmp_path, cells, None, make_readouts(cells))
    argv = ["--results", str(results), "--out", str(tmp_path), "--format", "svg"]
    assert plot_tasks.main(argv) == 0
    assert len(pd.read_csv(tmp_path / "tasks.csv")) == 4
    levels = pd.read_csv(tmp_path / "tasks_levels.csv")
    assert set(levels["rule"]) == {"linear"}
    assert len(levels) == 6 * 4 * 3
    assert "0.810" in capsys.readouterr().out


def test_text_has_no_such_figure(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = store(tmp_path, make_cells().drop(columns=["val_accuracy", "val_exact_match"]))
    assert plot_tasks.main(["--results", str(results), "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: sweep lr_transfer-phop_quick has no accuracy: its data are text")
