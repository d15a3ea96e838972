"""The second paper's claims and the questions of this project, from planted records of the sweep `architectures`."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from analysis.claims import our_questions, paper_fully_looped
from analysis.claims.table import CLAIMS
from analysis.claims.verdict import Finding, Verdict
from analysis.records.result_sets import Records

HOLDS, FAILS, OPEN, NONE = Verdict.HOLDS, Verdict.FAILS, Verdict.INCONCLUSIVE, Verdict.NOT_MEASURED
CLAIM = {claim.id: claim for claim in CLAIMS}
OF_SWEEP = [
    claim.id
    for claim in (*paper_fully_looped.CLAIMS, *our_questions.CLAIMS)
    # The others are from the sweep behind Figure 5, or about tasks: see test_plot_tasks.
    if claim.id != "ours-no-decay" and not claim.id.startswith("tasks-")
]
ENTROPY = 4.26
RATES = tuple(1e-3 * 2.0**i for i in range(7))
BEST = 8e-3
LOOPS = (1, 3, 6, 9, 12)
SEEDS = (0, 1, 2)
FAMILY = ("LT", "LT_i", "LT_ia", "FLT_res", "FLT")  # one run at N = 1
STABILISERS = (*((name, "none") for name in (*FAMILY, "plain", "boundary")), ("plain", "linear"), ("FLT", "linear"))
Losses = Mapping[tuple[str, str], Callable[[int], float]]

# What the claims say: all but FLT collapse at 12, FLT improves with N, 1/N is a little better, the product best.
CLAIMED: Losses = {
    **{(name, "none"): lambda n: 3.0 if n < 9 else ENTROPY for name in FAMILY},
    ("plain", "none"): lambda n: 3.0 + 0.02 * n,
    ("boundary", "none"): lambda n: 3.0 - 0.032 * (n > 1),
    ("FLT", "none"): lambda n: 3.0 - 0.01 * n * (n > 1),
    ("plain", "linear"): lambda n: 3.0 - 0.013 * n * (n > 1),
    ("FLT", "linear"): lambda n: 3.0 - 0.02 * n * (n > 1),
}
BOUNDARY_AS_LINEAR: Losses = {("boundary", "none"): lambda n: 3.0 - 0.0135 * n * (n > 1)}


def cells(
    losses: Losses, seeds: tuple[int, ...] = SEEDS, optimum: Callable[[str, int], float] | None = None
) -> pd.DataFrame:
    """Every stabiliser with its losses at the optimum; a parabola in log2 of the rate around it, noise of 1e-3."""
    rows = []
    for architecture, rule in STABILISERS:
        for n_loops in LOOPS:
            best = losses[architecture, rule](n_loops)
            at = optimum(architecture, n_loops) if optimum else BEST
            for rate in RATES:
                for seed in seeds:
                    loss = best + 0.03 * np.log2(rate / at) ** 2 if best < ENTROPY else best
                    name = "family" if architecture in FAMILY and n_loops == 1 else f"{architecture}-{rule}"
                    rows.append((architecture, rule, n_loops, rate, seed, f"{name}-{n_loops}-{rate:g}-{seed}", loss))
    columns = ["architecture", "rule", "n_loops", "base_lr", "seed", "run_id", "val_loss"]
    table = pd.DataFrame(rows, columns=columns).assign(
        sweep="architectures-quick", experiment="architectures", preset="quick", panel="any", n_layers=1, ref_layers=1,
        depth_multiplier=1.0, d_model=32, state="done", step=400, steps=400, reason="", unigram_entropy=ENTROPY,
    )  # fmt: skip
    runs = sorted(set(table["run_id"]))
    noise = dict(zip(runs, np.random.default_rng(0).normal(0, 1e-3, len(runs)), strict=True))
    return table.assign(val_loss=table["val_loss"] + table["run_id"].map(noise))


def curves(table: pd.DataFrame, explosion: float = 20.0, shaking: float = 3.0, stays: float = 1.2) -> pd.DataFrame:
    """Metrics of LT and FLT at the best rate of FLT, and of LT at all rates: norms and gradient norms as planted.

    The norm of LT grows `explosion` times over loops, and as much over steps, that of FLT `stays` times. The gradient
    norm of LT has `shaking` times the standard deviation of FLT's. Before and after the stable phase both are wild.
    """
    lines = []
    for row in table[table["architecture"].isin(["LT", "FLT"]) & (table["rule"] == "none")].to_dict("records"):
        n_loops = row["n_loops"]
        lt = row["architecture"] == "LT"
        growth, deviation = (explosion, shaking) if lt else (stays, 1.0)
        draws = np.random.default_rng(row["seed"]).normal(0, 0.01 * deviation, 40)
        for number, step in enumerate(range(10, 401, 10)):
            factor = min(1.0, step / 40, (400 - step + 10) / 80)
            line = {"run_id": row["run_id"], "step": step, "loss": 3.0, "base_lr": row["base_lr"] * factor}
            line["grad_norm"] = 1.0 + (draws[number] if factor == 1 else (-10.0) ** (number % 2))
            over_steps = growth ** (step / 400)
            for loop in range(1, n_loops + 1):
                over_loops = growth ** ((loop - 1) / max(n_loops - 1, 1))
                line[f"stream_norm_{loop}"] = 8.0 * over_loops * over_steps * (1 + 0.01 * row["seed"])
            lines.append(line)
    return pd.DataFrame(lines).drop_duplicates(["run_id", "step"])


def readouts(table: pd.DataFrame, kept: float = 0.9) -> pd.DataFrame:
    """Losses at other loop counts, such that a share `kept` of what a run has learned is left, and its own loss."""
    rows = []
    for row in table.drop_duplicates("run_id").to_dict("records"):
        n = row["n_loops"]
        learned = ENTROPY - row["val_loss"]
        for n_test in sorted({1, 3, 6, 9, 12, max(n // 2, 1), n, 2 * n}):
            share = 1.0 if n_test == n else kept + 0.001 * row["seed"]
            rows.append((row["run_id"], "test_loss", n_test, -1, ENTROPY - share * learned))
    return pd.DataFrame(rows, columns=["run_id", "readout", "i", "j", "mean"]).assign(std=0.0)


def records(table: pd.DataFrame, lines: pd.DataFrame | None = None, kept: float = 0.9) -> Records:
    return Records(
        "quick",
        "planted",
        cells={"architectures": table},
        curves={"architectures": curves(table) if lines is None else lines},
        readouts={"architectures": readouts(table, kept)},
    )


def verdict(claim: str, of: Records) -> Finding:
    finding = CLAIM[claim].assess(of)
    assert (finding.why == "") == (finding.verdict in (HOLDS, FAILS)), finding
    return finding


def trains_at_12(name: str) -> Losses:
    return {(name, "none"): lambda n: 3.1}


@pytest.fixture(scope="module")
def claimed() -> Records:
    """Records in which every claim of the paper holds."""
    return records(cells(CLAIMED))


@pytest.mark.parametrize("claim", [claim.id for claim in paper_fully_looped.CLAIMS])
def test_every_claim_holds_where_it_is_planted(claim: str, claimed: Records) -> None:
    finding = verdict(claim, claimed)
    assert finding.verdict is HOLDS, finding
    assert finding.measured


@pytest.mark.parametrize(
    ("claim", "planted"),
    [
        ("flt-collapse-LT", trains_at_12("LT")),
        ("flt-collapse-LT_i", trains_at_12("LT_i")),
        ("flt-collapse-LT_ia", trains_at_12("LT_ia")),
        ("flt-collapse-FLT_res", trains_at_12("FLT_res")),
        ("flt-trains", {("FLT", "none"): lambda n: 3.0 if n < 12 else ENTROPY - 0.02}),
        ("flt-better", {("LT", "none"): lambda n: 2.9 if n < 9 else ENTROPY}),
        ("flt-better", {("FLT", "none"): lambda n: 3.0 if n == 1 else ENTROPY}),
        ("flt-improves", {("FLT", "none"): lambda n: 3.0 + 0.01 * n}),
        ("flt-improves", {("LT_ia", "none"): lambda n: 3.0 - 0.01 * n * (n > 1)}),
    ],
)
def test_losses_to_the_contrary_make_a_claim_fail(claim: str, planted: Losses) -> None:
    assert verdict(claim, records(cells({**CLAIMED, **planted}))).verdict is FAILS


@pytest.mark.parametrize(
    ("claim", "planted"),
    [
        ("flt-norm-loops", {"explosion": 2.0}),
        ("flt-norm-loops", {"stays": 10.0}),
        ("flt-norm-steps", {"explosion": 2.0}),
        ("flt-norm-steps", {"stays": 10.0}),
        ("flt-oscillation", {"shaking": 0.5}),
    ],
)
def test_diagnostics_to_the_contrary_make_a_claim_fail(claim: str, planted: dict[str, float]) -> None:
    table = cells(CLAIMED)
    assert verdict(claim, records(table, curves(table, **planted))).verdict is FAILS


def test_a_loss_lost_at_other_loop_counts_makes_the_claim_fail() -> None:
    table = cells(CLAIMED)
    assert verdict("flt-test-loops", records(table, kept=0.2)).verdict is FAILS
    one = readouts(table)
    one.loc[one["run_id"].str.startswith("FLT-none-12-") & (one["i"] == 24), "mean"] = np.nan  # it left the numbers
    assert verdict("flt-test-loops", replace(records(table), readouts={"architectures": one})).verdict is FAILS


@pytest.mark.parametrize("claim", OF_SWEEP)
def test_one_seed_decides_nothing(claim: str) -> None:
    table = cells({**CLAIMED, **BOUNDARY_AS_LINEAR}, seeds=(0,))
    finding = verdict(claim, records(table))
    assert (finding.verdict, finding.why) == (OPEN, "1 seed, no interval")
    assert finding.measured


@pytest.mark.parametrize("claim", OF_SWEEP)
def test_without_the_sweep_the_command_that_measures_is_told(claim: str) -> None:
    finding = verdict(claim, Records("laptop", "empty"))
    assert finding.verdict is NONE
    assert finding.why.endswith(": make sweep-architectures PRESET=laptop")
    assert finding.short == "open: not measured"


@pytest.mark.parametrize(
    ("claim", "absent"),
    [
        ("flt-collapse-LT", "LT"),
        ("flt-trains", "FLT"),
        ("flt-better", "LT"),
        ("flt-improves", "FLT_res"),
        ("flt-norm-loops", "LT"),
        ("flt-oscillation", "LT"),
        ("flt-test-loops", "FLT"),
        ("ours-flt-rate", "FLT"),
        ("ours-linear-flt", "FLT"),
        ("ours-flt-linear", "FLT"),
        ("ours-boundary", "boundary"),
    ],
)
def test_a_stabiliser_that_is_not_in_the_records_is_named(claim: str, absent: str, claimed: Records) -> None:
    table = claimed.cells["architectures"]
    finding = verdict(claim, replace(claimed, cells={"architectures": table[table["architecture"] != absent]}))
    assert finding.verdict is NONE
    assert finding.why.startswith(f"no run of {absent}, ")


@pytest.mark.parametrize("claim", ["flt-collapse-LT", "flt-trains", "flt-norm-steps", "flt-oscillation"])
def test_without_twelve_loops_nothing_is_measured(claim: str, claimed: Records) -> None:
    table = claimed.cells["architectures"]
    finding = verdict(claim, replace(claimed, cells={"architectures": table[table["n_loops"] < 12]}))
    assert finding.verdict is NONE
    assert "at N = 12" in finding.why


@pytest.mark.parametrize("claim", OF_SWEEP)
def test_a_grid_with_missing_points_decides_nothing(claim: str, claimed: Records) -> None:
    table = claimed.cells["architectures"]
    gone = table["base_lr"] == RATES[0]
    states = table.assign(state=table["state"].mask(gone, "pending"), val_loss=table["val_loss"].mask(gone))
    finding = verdict(claim, replace(claimed, cells={"architectures": states}))
    assert finding.verdict is OPEN
    assert finding.why.startswith("points missing")


def test_a_claim_about_one_loop_count_needs_only_that_one(claimed: Records) -> None:
    table = claimed.cells["architectures"]
    gone = table["n_loops"] == 9
    states = table.assign(state=table["state"].mask(gone, "pending"), val_loss=table["val_loss"].mask(gone))
    some = replace(claimed, cells={"architectures": states})
    for claim in ("flt-collapse-LT", "flt-trains", "flt-norm-loops"):
        assert verdict(claim, some) == verdict(claim, claimed)
    assert (
        verdict("flt-oscillation", some).why
        == "no run of LT, none at N = 9 has finished: make sweep-architectures PRESET=quick"
    )


@pytest.mark.parametrize("claim", ["flt-improves", "ours-flt-rate", "ours-boundary"])
def test_without_one_loop_there_is_nothing_to_start_from(claim: str, claimed: Records) -> None:
    table = claimed.cells["architectures"]
    finding = verdict(claim, replace(claimed, cells={"architectures": table[table["n_loops"] > 1]}))
    assert finding.verdict is NONE
    assert "at N = 1 in" in finding.why


@pytest.mark.parametrize("claim", OF_SWEEP)
def test_without_a_unigram_entropy_nothing_is_measured(claim: str, claimed: Records) -> None:
    table = claimed.cells["architectures"].drop(columns="unigram_entropy")
    finding = verdict(claim, replace(claimed, cells={"architectures": table}))
    assert finding.verdict is NONE
    assert finding.why.startswith("no unigram entropy")


@pytest.mark.parametrize(
    ("claim", "table"),
    [
        ("flt-norm-loops", "curves"),
        ("flt-norm-steps", "curves"),
        ("flt-oscillation", "curves"),
        ("flt-test-loops", "readouts"),
    ],
)
def test_diagnostics_that_were_not_recorded_are_named(claim: str, table: str, claimed: Records) -> None:
    assert verdict(claim, replace(claimed, **{table: {}})).verdict is NONE
    there = getattr(claimed, table)["architectures"]
    bare = there.drop(columns=[name for name in there if name.startswith(("stream_", "grad_"))])
    if table == "readouts":
        bare = there[there["run_id"].str.endswith("-0")]
    finding = verdict(claim, replace(claimed, **{table: {"architectures": bare}}))
    assert finding.verdict is NONE
    assert "at N = " in finding.why


def test_each_stabiliser_is_judged_at_its_own_best_rate() -> None:
    """LT trains at the lowest rate alone: it does not collapse. Diverged rates of FLT do not count against it."""
    table = cells(CLAIMED)
    saved = (table["architecture"] == "LT") & (table["n_loops"] == 12) & (table["base_lr"] == RATES[0])
    lost = (table["architecture"] == "FLT") & (table["n_loops"] == 12) & (table["base_lr"] > BEST)
    table.loc[saved, "val_loss"] = 4.0
    table.loc[lost, ["state", "val_loss"]] = ["diverged", np.nan]
    trains, collapses = (verdict(claim, records(table)) for claim in ("flt-trains", "flt-collapse-LT"))
    assert collapses.verdict is FAILS
    assert collapses.measured == "learns 0.26 nats at its best rate 0.001; 18 of 21 runs collapsed, rates 0.001…0.064"
    assert trains.verdict is HOLDS
    assert "best rate 0.008; 9 of 21 runs collapsed" in trains.measured


def test_a_seed_that_collapses_at_every_rate_leaves_both_verdicts_open() -> None:
    table = cells(CLAIMED)
    unlucky = (table["architecture"] == "FLT") & (table["n_loops"] == 12) & (table["seed"] == 1)
    table.loc[unlucky, "val_loss"] = ENTROPY
    finding = verdict("flt-trains", records(table))
    assert (finding.verdict, finding.why) == (OPEN, "interval spans 0.05")


def test_where_lt_collapses_nothing_is_compared() -> None:
    everywhere = {("LT", "none"): lambda n: 3.0 if n == 1 else ENTROPY}
    finding = verdict("flt-better", records(cells({**CLAIMED, **everywhere})))
    assert (finding.verdict, finding.why) == (NONE, "LT, none collapses at every N > 1")
    assert "learns 0.00 (−0.00…0.00) nats at N = 9" in verdict("flt-better", records(cells(CLAIMED))).measured


def test_runs_that_diverged_collapse_explode_and_lose(claimed: Records) -> None:
    table = claimed.cells["architectures"]
    gone = (table["architecture"] == "LT") & (table["n_loops"] > 6)
    table = table.assign(state=table["state"].mask(gone, "diverged"), val_loss=table["val_loss"].mask(gone))
    for claim in ("flt-collapse-LT", "flt-better", "flt-improves", "flt-norm-loops", "flt-oscillation"):
        assert verdict(claim, replace(claimed, cells={"architectures": table})).verdict is HOLDS, claim
    lines = claimed.curves["architectures"].copy()
    wild = lines["run_id"].str.startswith("LT-none-12") & (lines["step"] > 200)
    lines.loc[wild, [name for name in lines if name.startswith(("stream_", "grad_"))]] = np.inf
    for claim in ("flt-norm-loops", "flt-norm-steps", "flt-oscillation"):
        finding = verdict(claim, replace(claimed, curves={"architectures": lines}))
        assert finding.verdict is HOLDS
        assert "diverged" in finding.measured


@pytest.mark.parametrize(
    ("claim", "planted", "expected"),
    [
        ("ours-linear-flt", {}, HOLDS),
        ("ours-linear-flt", {("plain", "linear"): lambda n: 3.0}, FAILS),
        ("ours-linear-flt", {("plain", "linear"): CLAIMED["FLT", "none"]}, OPEN),
        ("ours-flt-linear", {}, HOLDS),
        ("ours-flt-linear", {("FLT", "linear"): lambda n: 3.0 - 0.0115 * n * (n > 1)}, FAILS),  # between the two
        ("ours-flt-linear", {("FLT", "linear"): CLAIMED["plain", "linear"]}, OPEN),
        ("ours-boundary", BOUNDARY_AS_LINEAR, HOLDS),
        ("ours-boundary", {}, FAILS),
        ("ours-boundary", {("boundary", "none"): lambda n: 3.0 if n < 12 else ENTROPY}, FAILS),
        ("ours-flt-rate", {}, HOLDS),
        ("ours-flt-rate", {("FLT", "none"): lambda n: 3.0 if n < 12 else ENTROPY}, OPEN),
    ],
)
def test_losses_decide_the_questions_of_this_project(claim: str, planted: Losses, expected: Verdict) -> None:
    assert verdict(claim, records(cells({**CLAIMED, **planted}))).verdict is expected


@pytest.mark.parametrize(("claim", "moving"), [("ours-flt-rate", "FLT"), ("ours-boundary", "boundary")])
def test_a_moving_optimum_does_not_keep_its_rate(claim: str, moving: str) -> None:
    def optimum(architecture: str, n_loops: int) -> float:
        return BEST / 2 if architecture == moving and n_loops == 12 else BEST

    finding = verdict(claim, records(cells({**CLAIMED, **BOUNDARY_AS_LINEAR}, optimum=optimum)))
    assert finding.verdict is FAILS
    assert "−1.0" in finding.measured
    assert "N = 12" in finding.measured


def test_nothing_is_decided_against_a_stabiliser_with_its_optimum_at_the_edge() -> None:
    """A wider grid could make it better."""

    def optimum(architecture: str, n_loops: int) -> float:
        return RATES[-1] * 2 if architecture == "FLT" and n_loops == 12 else BEST

    low = {("FLT", "none"): lambda n: 2.95 - 0.01 * n * (n > 1)}  # better than 1/N but for the parabola
    table = cells({**CLAIMED, **low}, optimum=optimum)
    assert verdict("ours-linear-flt", records(table)).verdict is FAILS  # decided at other N
    table = table[table["n_loops"].isin([1, 12])]
    finding = verdict(
        "ours-flt-linear", records(cells(CLAIMED, optimum=optimum)[lambda of: of["n_loops"].isin([1, 12])])
    )
    assert (finding.verdict, finding.why[:32]) == (OPEN, "edge optimum of FLT, none at N =")
    assert finding.short == "open: optimum at the edge"


def test_another_depth_in_the_sweep_does_not_count(claimed: Records) -> None:
    table = claimed.cells["architectures"]
    deep = table.assign(n_layers=2, depth_multiplier=2.0, val_loss=9.0, run_id="deep-" + table["run_id"])
    both = replace(claimed, cells={"architectures": pd.concat([table, deep], ignore_index=True)})
    for claim in OF_SWEEP:
        assert verdict(claim, both) == verdict(claim, claimed)


def test_ids_of_the_claims() -> None:
    assert [claim.id for claim in paper_fully_looped.CLAIMS] == [
        "flt-collapse-LT", "flt-collapse-LT_i", "flt-collapse-LT_ia", "flt-collapse-FLT_res", "flt-trains",
        "flt-better", "flt-improves", "flt-norm-loops", "flt-norm-steps", "flt-oscillation", "flt-test-loops",
    ]  # fmt: skip
    assert [claim.id for claim in our_questions.CLAIMS] == [
        "ours-flt-rate", "ours-linear-flt", "ours-flt-linear", "ours-boundary", "ours-no-decay",
        "tasks-loops", "tasks-scaling", "tasks-test-time",
    ]  # fmt: skip


def test_numbers_of_the_second_paper_are_said_to_be_second_hand() -> None:
    for claim in paper_fully_looped.CLAIMS:
        if any(text in claim.paper for text in ("318M", "127M", "41.3")):
            assert "as reported second-hand" in claim.paper
