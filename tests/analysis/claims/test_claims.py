"""Every claim from planted records: what is planted decides the verdict, and what is missing is said."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from analysis.claims import our_questions, paper_fully_looped, paper_residual_scaling
from analysis.claims.table import CLAIMS, assess, by_source
from analysis.claims.verdict import Finding, Verdict, every, fold_text, judge, some
from analysis.records.result_sets import NO_DECAY, Records
from analysis.stats.intervals import Estimate

CellTable = Callable[..., pd.DataFrame]
Change = Callable[[pd.DataFrame], pd.DataFrame]
CLAIM = {claim.id: claim for claim in CLAIMS}
SEEDS = (0, 1, 2)
PANEL_RULES = dict(zip([f"fig2{letter}" for letter in "abcdef"], ["none", "sqrt", "linear"] * 2, strict=True))
SCALES = {1: 1.0, 2: 1.0, 4: 1.0, 8: 1.0, 16: 1.0, 32: 1.0, 64: 1.0}


def trainings(cell_table: CellTable, seeds: tuple[int, ...] = SEEDS) -> pd.DataFrame:
    """Sqrt's optimum moves half an octave per doubling, linear's stays; N = 8 diverges at 4 L_ref above 2e-3."""
    cells = cell_table(seeds=seeds)
    runs = sorted(set(cells["run_id"]))
    noise = dict(zip(runs, np.random.default_rng(0).normal(0, 1e-3, len(runs)), strict=True))
    cells["val_loss"] += cells["run_id"].map(noise)
    cells.loc[(cells["rule"] == "sqrt") & (cells["n_loops"] > 1), "val_loss"] += 0.025
    diverged = (cells["panel"] == "d") & (cells["n_loops"] == 8) & (cells["base_lr"] > 2e-3)
    cells.loc[diverged, ["state", "val_loss"]] = ["diverged", np.nan]
    return cells


def readouts(cells: pd.DataFrame, middle: float = 0.45, last: float = 0.05, growth: float = 0.0) -> pd.DataFrame:
    """Cosines `middle` among all steps but the last; `last` with it, less at L_ref; final norms ∝ N^growth."""
    rows = []
    for cell in cells.drop_duplicates("run_id").to_dict("records"):
        n = cell["n_loops"]
        rows += [(cell["run_id"], "residual_norm", i, -1, 10.0 * n**growth) for i in range(n + 1)]
        lowest = last - 0.05 * (cell["n_layers"] == 2) + 0.001 * cell["seed"]
        rows += [
            (cell["run_id"], "increment_cosine", i, j, 1.0 if i == j else lowest if n - 1 in (i, j) else middle)
            for i in range(n)
            for j in range(n)
        ]
    return pd.DataFrame(rows, columns=["run_id", "readout", "i", "j", "mean"]).assign(std=0.1)


def probes(exponents: dict[str, float], depths: tuple[int, ...] = tuple(SCALES)) -> Records:
    """Panels fig2a–f whose R and updates grow like n^exponent; updates of fig2f stop growing at 32."""
    cells, lines = [], []
    for panel in PANEL_RULES:
        deep = panel in ("fig2a", "fig2b", "fig2c")
        for n in depths:
            for seed in SEEDS:
                run_id = f"{panel}-{n}-{seed}"
                layers, loops = (n, 1) if deep else (1, n)
                cells.append((panel, PANEL_RULES[panel], layers, loops, seed, run_id, "done", 10))
                value = n ** exponents.get(panel, 0.0) * (1 + 0.01 * seed)
                update = min(n, 32) ** exponents.get(panel, 0.0) * (1 + 0.01 * seed) if panel == "fig2f" else value
                lines += [(run_id, step, value, update if step else np.nan) for step in range(11)]
    columns = ["panel", "rule", "n_layers", "n_loops", "seed", "run_id", "state", "step"]
    return Records(
        "quick",
        "planted",
        cells={"init_probe": pd.DataFrame(cells, columns=columns)},
        curves={"init_probe": pd.DataFrame(lines, columns=["run_id", "step", "residual_rms", "update_rms"])},
    )


def increments(low: float, high: float) -> Records:
    """Both panels of Figure 3 with off-diagonal cosines between `low` and `high`."""
    cells = pd.DataFrame({"panel": ["fig3a", "fig3b"], "run_id": ["a", "b"], "state": "done", "d_model": 64})
    rows = [
        (run, i, j, 1.0 if i == j else [low, high][(i + j) % 2]) for run in "ab" for i in range(4) for j in range(4)
    ]
    table = pd.DataFrame(rows, columns=["run_id", "i", "j", "mean"]).assign(readout="increment_cosine", std=0.1)
    return Records("quick", "planted", cells={"increments": cells}, readouts={"increments": table})


def trained(cells: pd.DataFrame, **planted: float) -> Records:
    return Records(
        "quick", "planted", cells={"lr_transfer": cells}, readouts={"lr_transfer": readouts(cells, **planted)}
    )


def verdict(claim: str, records: Records) -> Finding:
    finding = CLAIM[claim].assess(records)
    assert (finding.why == "") == (finding.verdict in (Verdict.HOLDS, Verdict.FAILS))
    return finding


PAPER_EXPONENTS = {"fig2a": 0.5, "fig2d": 1.0, "fig2e": 0.5, "fig2f": 0.2}


@pytest.mark.parametrize(
    ("claim", "paper", "contrary"),
    [
        ("fig2-deep", PAPER_EXPONENTS, {"fig2b": 0.5}),
        ("fig2-loop-sqrt", PAPER_EXPONENTS, {"fig2e": 0.1}),
        ("fig2-loop-linear", PAPER_EXPONENTS, {"fig2f": 0.5}),
        ("fig4-none", PAPER_EXPONENTS, {"fig2d": 0.5}),
        ("fig4-sqrt", PAPER_EXPONENTS, {"fig2e": 1.0}),
        ("fig4-linear", PAPER_EXPONENTS, {"fig2f": 0.6}),
    ],
)
def test_growth_decides_what_happens_at_initialisation(
    claim: str, paper: dict[str, float], contrary: dict[str, float]
) -> None:
    assert verdict(claim, probes(paper)).verdict is Verdict.HOLDS
    assert verdict(claim, probes(contrary)).verdict is Verdict.FAILS
    assert verdict(claim, probes(paper, depths=(1, 2))).why.startswith("points missing")
    assert verdict(claim, Records("quick", "empty")).verdict is Verdict.NOT_MEASURED


def test_another_rule_in_the_panel_of_a_claim_does_not_count() -> None:
    records = probes(PAPER_EXPONENTS)
    cells, curves = records.cells["init_probe"], records.curves["init_probe"]
    swept = cells[cells["panel"] == "fig2f"].assign(rule="alpha=0.5", run_id=lambda rows: rows["run_id"] + "-swept")
    lines = curves[curves["run_id"].isin(cells.loc[cells["panel"] == "fig2f", "run_id"])]
    lines = lines.assign(run_id=lines["run_id"] + "-swept", residual_rms=np.inf, update_rms=np.inf)
    both = {"cells": {"init_probe": pd.concat([cells, swept])}, "curves": {"init_probe": pd.concat([curves, lines])}}
    for claim in ("fig2-loop-linear", "fig4-linear"):
        assert verdict(claim, replace(records, **both)) == verdict(claim, records)
    alone = replace(records, cells={"init_probe": swept})
    assert verdict("fig2-loop-linear", alone).verdict is Verdict.NOT_MEASURED


@pytest.mark.parametrize("claim", ["fig2-deep", "fig4-none"])
def test_a_probe_that_diverged_grows_without_bound(claim: str) -> None:
    records = probes(PAPER_EXPONENTS | {"fig2d": 1.0})
    cells, curves = records.cells["init_probe"], records.curves["init_probe"]
    gone = cells["run_id"].isin(["fig2b-64-1", "fig2d-64-1"])
    stopped = replace(
        records,
        cells={"init_probe": cells.assign(state=np.where(gone, "diverged", "done"))},
        curves={"init_probe": curves[~(curves["run_id"].isin(cells.loc[gone, "run_id"]) & (curves["step"] > 0))]},
    )
    assert verdict(claim, stopped).verdict is Verdict.FAILS


def test_one_seed_of_a_probe_decides_nothing() -> None:
    records = probes(PAPER_EXPONENTS)
    cells = records.cells["init_probe"]
    finding = verdict("fig2-loop-sqrt", replace(records, cells={"init_probe": cells[cells["seed"] == 0]}))
    assert (finding.verdict, finding.why) == (Verdict.INCONCLUSIVE, "1 seed, no interval")
    assert "0.50" in finding.measured


@pytest.mark.parametrize(
    ("low", "high", "deep", "loop"),
    [(-0.03, 0.03, Verdict.HOLDS, Verdict.FAILS), (0.03, 0.99, Verdict.FAILS, Verdict.HOLDS)],
)
def test_range_of_cosines_decides_figure_3(low: float, high: float, deep: Verdict, loop: Verdict) -> None:
    assert verdict("fig3-deep", increments(low, high)).verdict is deep
    assert verdict("fig3-loop", increments(low, high)).verdict is loop
    assert f"{high:.3f}]" in verdict("fig3-loop", increments(low, high)).measured


@pytest.mark.parametrize(("d_model", "expected"), [(64, Verdict.HOLDS), (768, Verdict.FAILS)])
def test_cosines_of_chance_shrink_with_the_width(d_model: int, expected: Verdict) -> None:
    records = increments(-0.2, 0.2)
    cells = {"increments": records.cells["increments"].assign(d_model=d_model)}
    assert verdict("fig3-deep", replace(records, cells=cells)).verdict is expected


def moved(rule: str, octaves: float) -> Change:
    """The N = 8 curves of a rule, with their rates that many octaves higher."""

    def change(cells: pd.DataFrame) -> pd.DataFrame:
        chosen = (cells["rule"] == rule) & (cells["n_loops"] == 8) & (cells["n_layers"] == 2)
        return cells.assign(base_lr=cells["base_lr"] * np.where(chosen, 2.0**octaves, 1.0))

    return change


def unchanged(cells: pd.DataFrame) -> pd.DataFrame:
    return cells


def sqrt_like_linear(cells: pd.DataFrame) -> pd.DataFrame:
    """Sqrt's losses replaced by linear's."""
    linear = cells[cells["panel"] == "b"]
    copied = linear.assign(panel="a", rule="sqrt", run_id=linear["run_id"].str.replace("linear", "sqrt"))
    return pd.concat([copied, cells[cells["panel"] != "a"]], ignore_index=True)


def sqrt_better(cells: pd.DataFrame) -> pd.DataFrame:
    return cells.assign(val_loss=cells["val_loss"] - 0.05 * ((cells["rule"] == "sqrt") & (cells["n_loops"] > 1)))


def more_loops_hurt(cells: pd.DataFrame) -> pd.DataFrame:
    """At N = 8 alone: one step of the three is enough."""
    return cells.assign(val_loss=cells["val_loss"] + 0.05 * (cells["n_loops"] == 8))


def last_loops_change_nothing(cells: pd.DataFrame) -> pd.DataFrame:
    """N = 8 as good as N = 4."""
    return cells.assign(val_loss=cells["val_loss"] + 0.02 * (cells["n_loops"] == 8))


def nothing_diverges(cells: pd.DataFrame) -> pd.DataFrame:
    return cells.assign(state="done", val_loss=cells["val_loss"].fillna(3.5))


def cut(cells: pd.DataFrame) -> pd.DataFrame:
    """N = 8 at L_ref only up to 1.25e-3, so that its optima are at the edge."""
    return cells[~((cells["n_loops"] == 8) & (cells["n_layers"] == 2) & (cells["base_lr"] > 1.25e-3))]


@pytest.mark.parametrize(
    ("claim", "change", "expected"),
    [
        ("fig5-shift", unchanged, Verdict.HOLDS),
        ("fig5-shift", sqrt_like_linear, Verdict.FAILS),
        ("fig5-transfer", unchanged, Verdict.HOLDS),
        ("fig5-transfer", moved("linear", 1.0), Verdict.FAILS),
        ("fig5-transfer", cut, Verdict.INCONCLUSIVE),
        ("fig5-gain", unchanged, Verdict.HOLDS),
        ("fig5-gain", sqrt_better, Verdict.FAILS),
        ("fig5-gain", sqrt_like_linear, Verdict.INCONCLUSIVE),
        ("fig5-loops", unchanged, Verdict.HOLDS),
        ("fig5-loops", more_loops_hurt, Verdict.FAILS),
        ("fig5-loops", last_loops_change_nothing, Verdict.INCONCLUSIVE),
        ("fig5-loops", sqrt_better, Verdict.HOLDS),
        ("fig5-diverge", unchanged, Verdict.HOLDS),
        ("fig5-diverge", nothing_diverges, Verdict.FAILS),
    ],
)
def test_trainings_decide_figure_5(claim: str, change: Change, expected: Verdict, cell_table: CellTable) -> None:
    assert verdict(claim, trained(change(trainings(cell_table)))).verdict is expected


def test_reasons_of_undecided_transfer(cell_table: CellTable, with_state: Callable[..., pd.DataFrame]) -> None:
    cells = trainings(cell_table)
    assert verdict("fig5-transfer", trained(cut(cells))).why == "edge optimum at L = 2, N = 8"
    assert verdict("fig5-gain", trained(sqrt_like_linear(cells))).why == "interval spans zero"
    pending = with_state(cells, "panel == 'b' and base_lr == 2e-3", "pending")
    assert verdict("fig5-transfer", trained(pending)).why == "points missing: 12 of 288"
    one_seed = trainings(cell_table, seeds=(0,))
    for claim in ("fig5-shift", "fig5-transfer", "fig5-gain", "fig5-loops", "fig6", "fig7", "fig8"):
        assert verdict(claim, trained(one_seed)).why == "1 seed, no interval"
    low = cells[(cells["n_layers"] < 8) | (cells["base_lr"] < 1.6e-3)]
    assert verdict("fig5-diverge", trained(low)).why == "no rate that high in the grid"


def test_losses_of_more_loops_are_those_at_each_optimum_at_l_ref(cell_table: CellTable) -> None:
    finding = verdict("fig5-loops", trained(trainings(cell_table)))
    assert finding.measured.startswith("3.380, 3.360, 3.341, 3.320 at N = 1, 2, 4, 8; lower by +0.0")
    alone = trainings(cell_table).query("n_loops == 1")
    assert verdict("fig5-loops", trained(alone)) == Finding(Verdict.NOT_MEASURED, why="one N only")


def test_a_curve_without_an_optimum_leaves_transfer_open(
    cell_table: CellTable, with_state: Callable[..., pd.DataFrame]
) -> None:
    cells = with_state(trainings(cell_table), "panel == 'b' and n_loops == 8", "diverged")
    assert verdict("fig5-transfer", trained(cells)).why == "every run diverged at L = 2, N = 8"


def test_transfer_without_weight_decay_is_judged_on_cells_of_its_own(cell_table: CellTable) -> None:
    holds, moves = trainings(cell_table), moved("linear", 1.0)(trainings(cell_table))
    for default, control, expected in ((moves, holds, Verdict.HOLDS), (holds, moves, Verdict.FAILS)):
        records = Records("quick", "planted", cells={"lr_transfer": default, NO_DECAY: control})
        finding = verdict("ours-no-decay", records)
        assert finding.verdict is expected
        assert finding == verdict("fig5-transfer", trained(control))
        assert verdict("fig5-transfer", records).verdict is not expected
    one_seed = Records("quick", "planted", cells={NO_DECAY: trainings(cell_table, seeds=(0,))})
    assert verdict("ours-no-decay", one_seed).why == "1 seed, no interval"


def test_without_the_control_the_command_that_measures_is_told(cell_table: CellTable) -> None:
    finding = verdict("ours-no-decay", trained(trainings(cell_table)))
    assert finding.verdict is Verdict.NOT_MEASURED
    assert finding.why.endswith(": loopsweep submit +sweep=lr_transfer preset=quick optimizer.weight_decay=0")


def test_sqrt_diverging_everywhere_is_a_gain(cell_table: CellTable, with_state: Callable[..., pd.DataFrame]) -> None:
    cells = with_state(trainings(cell_table), "rule == 'sqrt' and n_loops == 8", "diverged")
    finding = verdict("fig5-gain", trained(cells))
    assert finding.verdict is Verdict.HOLDS
    assert finding.measured.startswith("diverged")


@pytest.mark.parametrize(
    ("claim", "planted", "expected"),
    [
        ("fig6", {}, Verdict.HOLDS),
        ("fig6", {"middle": 0.9}, Verdict.FAILS),
        ("fig6", {"last": 0.4}, Verdict.FAILS),
        ("fig7", {}, Verdict.HOLDS),
        ("fig7", {"growth": 0.5}, Verdict.FAILS),
        ("fig8", {}, Verdict.HOLDS),
        ("fig8", {"last": 0.6}, Verdict.FAILS),
    ],
)
def test_read_outs_decide_figures_6_to_8(
    claim: str, planted: dict[str, float], expected: Verdict, cell_table: CellTable
) -> None:
    assert verdict(claim, trained(trainings(cell_table), **planted)).verdict is expected


def test_seeds_at_some_loop_counts_or_depths_alone_do_not_count_in_figures_7_and_8(cell_table: CellTable) -> None:
    cells = trainings(cell_table, seeds=(*SEEDS, 7))
    some = cells[(cells["seed"] != 7) | ((cells["n_layers"] == 2) & (cells["n_loops"] == 4))]
    for claim, planted in (("fig7", {"growth": 0.5}), ("fig8", {"last": 0.6})):
        with_it, without = (verdict(claim, trained(of, **planted)) for of in (some, some[some["seed"] != 7]))
        assert with_it == without


@pytest.mark.parametrize("claim", ["fig6", "fig7", "fig8"])
def test_read_outs_that_are_not_there_are_named(claim: str, cell_table: CellTable) -> None:
    cells = trainings(cell_table)
    records = trained(cells)
    without = replace(records, readouts={})
    assert verdict(claim, without).why == "no read-outs in the records"
    table = records.readouts["lr_transfer"]
    partial = replace(records, readouts={"lr_transfer": table[table["run_id"].str.endswith(("-0", "-1"))]})
    assert verdict(claim, partial).why.startswith("points missing")
    small = cell_table(seeds=SEEDS, loop_counts=(1, 2))
    assert verdict(claim, trained(small)).verdict is Verdict.NOT_MEASURED


def test_parameter_counts_need_no_records() -> None:
    finding = verdict("params", Records("quick", "empty"))
    assert finding == Finding(Verdict.HOLDS, "183.5M, 268.4M, 438.3M")


def test_without_records_every_other_claim_is_not_measured() -> None:
    found = {claim.id: finding.verdict for claim, finding in assess(Records("quick", "empty"))}
    assert found.pop("params") is Verdict.HOLDS
    assert set(found.values()) == {Verdict.NOT_MEASURED}


def test_claims_are_those_of_the_paper() -> None:
    assert [claim.id for claim in paper_residual_scaling.CLAIMS] == [
        "params", "fig2-deep", "fig2-loop-sqrt", "fig2-loop-linear", "fig3-deep", "fig3-loop", "fig4-none",
        "fig4-sqrt", "fig4-linear", "fig5-shift", "fig5-transfer", "fig5-gain", "fig5-loops", "fig5-diverge", "fig6",
        "fig7", "fig8",
    ]  # fmt: skip


def test_claims_are_grouped_by_their_source() -> None:
    assert len(CLAIM) == len(CLAIMS)
    sources = (paper_residual_scaling, paper_fully_looped, our_questions)
    assert by_source() == [(module.SOURCE, list(module.CLAIMS)) for module in sources]


def test_a_growth_is_told_as_a_factor() -> None:
    assert fold_text(Estimate(2.0, 1.0, 3.0), 2, ".2f") == "4.00× (2.00…8.00)"
    assert fold_text(Estimate(1.0), 10, ".3g") == "10×"
    assert fold_text(Estimate(np.inf), 10, ".3g") == "diverged"
    assert fold_text(Estimate(1.0, -400.0, 400.0), 10, ".3g") == "10× (0…∞)"


def test_an_interval_across_the_bound_decides_nothing() -> None:
    assert judge(Estimate(1.0, 0.5, 1.5), low=0.0).verdict is Verdict.HOLDS
    assert judge(Estimate(-1.0, -1.5, -0.5), low=0.0).verdict is Verdict.FAILS
    assert judge(Estimate(1.0, -0.5, 1.5), low=0.0) == Finding(Verdict.INCONCLUSIVE, why="interval spans zero")
    assert judge(Estimate(1.0), low=0.0) == Finding(Verdict.INCONCLUSIVE, why="1 seed, no interval")
    assert judge(Estimate(float("inf")), low=0.0).verdict is Verdict.HOLDS
    assert judge(Estimate(float("nan"), 0.7, float("inf")), high=0.5).verdict is Verdict.FAILS


@pytest.mark.parametrize(
    ("finding", "short"),
    [
        (Finding(Verdict.HOLDS, "1.2"), "holds"),
        (Finding(Verdict.FAILS, "1.2"), "fails"),
        (Finding(Verdict.NOT_MEASURED, why="no probe fig2b in the records"), "open: not measured"),
        (Finding(Verdict.INCONCLUSIVE, why="1 seed, no interval"), "open: 1 seed"),
        (Finding(Verdict.INCONCLUSIVE, why="interval spans zero"), "open: interval too wide"),
        (
            Finding(Verdict.INCONCLUSIVE, why="edge optimum at L = 2, N = 8; interval spans 0.5"),
            "open: optimum at the edge",
        ),
        (Finding(Verdict.INCONCLUSIVE, why="points missing: 12 of 288"), "open: points missing"),
        (Finding(Verdict.INCONCLUSIVE, why="something new"), "open"),
    ],
)
def test_short_verdict_is_holds_fails_or_open_with_a_class_of_reasons(finding: Finding, short: str) -> None:
    assert finding.short == short


def test_one_failure_outweighs_and_one_doubt_suspends() -> None:
    holds, fails = Finding(Verdict.HOLDS), Finding(Verdict.FAILS)
    doubt = Finding(Verdict.INCONCLUSIVE, why="edge")
    assert every([holds, doubt, fails]).verdict is Verdict.FAILS
    assert every([holds, doubt, doubt]) == doubt
    assert some([fails, doubt, holds]).verdict is Verdict.HOLDS
    assert some([fails, doubt]) == doubt
