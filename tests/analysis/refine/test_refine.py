"""The planner of the next runs: what it chooses, what it leaves alone, and that its verdicts stay honest."""

import importlib.util
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

from analysis.claims.transfer import tuned_rate
from analysis.claims.verdict import Verdict
from analysis.records.result_sets import Records
from analysis.refine.__main__ import main
from analysis.refine.budget import Budget, affordable, unshared
from analysis.refine.grid import Grid, from_cells
from analysis.refine.levers import flanks, rounded
from analysis.refine.plan import Action, Proposal, next_round, propose
from analysis.refine.questions import questions
from analysis.refine.readouts import proposals
from analysis.stats import looks
from sweeper.errors import UserError

CellTable = Callable[..., pd.DataFrame]
WithState = Callable[[pd.DataFrame, str, str], pd.DataFrame]


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    path = Path(__file__).parents[3] / "benchmarks" / "coverage_refined.py"
    specification = importlib.util.spec_from_file_location("coverage_refined_benchmark", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[module.__name__] = module  # its dataclasses look themselves up
    specification.loader.exec_module(module)
    return module


def noisy(cells: pd.DataFrame, sd: float) -> pd.DataFrame:
    return cells.assign(val_loss=cells["val_loss"] + np.random.default_rng(0).normal(0, sd, len(cells)))


def proposal(grid: Grid, claim: str) -> Proposal:
    [question] = [one for one in questions(grid) if one.claim == claim]
    return propose(grid, question)


def test_curves_of_the_same_runs_are_one_to_pay_for(cell_table: CellTable) -> None:
    grid = from_cells(cell_table())
    first = ("a", "sqrt", 2, 1)
    assert grid.twins(first) == [first, ("b", "linear", 2, 1)]
    both = [(key, 1e-3, 7) for key in grid.twins(first)]
    assert len(unshared(grid, both)) == 1


def test_an_optimum_at_the_edge_gets_a_rate_beyond_it_and_no_seeds_yet(cell_table: CellTable) -> None:
    cells = cell_table().query("rule == 'linear' and base_lr <= 1.25e-3")
    found = proposal(from_cells(cells), "fig5-transfer")
    assert found.actions
    assert all(action.structural for action in found.actions)
    assert {rate for _, rate, _ in found.runs} == {rounded(1.25e-3 * 2**0.5)}
    assert {seed for _, _, seed in found.runs} == {0}


def test_missing_runs_come_first(cell_table: CellTable, with_state: WithState) -> None:
    cells = with_state(cell_table().query("rule == 'linear'"), "n_loops == 8 and n_layers == 4", "failed")
    found = proposal(from_cells(cells), "fig5-transfer")
    assert found.actions[0].what == "8 missing runs"
    assert all(math.isnan(action.then) for action in found.actions)


def test_seeds_go_to_the_flanks_and_never_beside_a_diverged_rate(cell_table: CellTable, with_state: WithState) -> None:
    cells = with_state(noisy(cell_table(), 0.002), "n_layers == 8 and n_loops == 8 and base_lr >= 3e-3", "diverged")
    grid = from_cells(cells)
    found = proposal(grid, "fig5-transfer")
    rates = {rate for key, rate, seed in found.runs if key[2:] == (8, 8) and seed > 0}
    assert rates <= {rate for rate in rates if rate < 2e-3}
    key = ("d", "linear", 8, 8)
    lever = flanks(key, grid.fitted([key])[key])
    assert lever is not None
    assert lever.rates[0] < 1e-3 < lever.rates[1] < 2e-3


def test_a_decided_claim_asks_for_nothing(cell_table: CellTable) -> None:
    grid = from_cells(noisy(cell_table(seeds=(0, 1, 2)), 0.0005))
    found = proposal(grid, "fig5-transfer")
    assert found.verdict is Verdict.HOLDS
    assert found.actions == ()


def test_a_gain_is_planned_by_the_noise_of_the_seeds_that_both_points_have() -> None:
    rng = np.random.default_rng(0)
    of_loops = {1: np.array([0.02, -0.02, 0.0]), 8: np.array([-0.02, 0.01, 0.01])}  # what a seed does
    curves = {}
    for panel, rule, n_loops, floor in (("a", "sqrt", 1, 3.1), ("a", "sqrt", 8, 3.01), ("b", "linear", 8, 3.0)):
        runs = np.full((3, 3), math.nan)
        runs[:, 0] = floor + 0.06 * np.array([1.0, 0.0, 1.0])
        runs[1] = floor + of_loops[n_loops] + rng.normal(0, 0.001, 3)
        curves[panel, rule, 2, n_loops] = np.array([5e-4, 1e-3, 2e-3]), runs
    found = proposal(Grid(curves, (0, 1, 2), {2: 1.0}, dict.fromkeys(curves, 1.0)), "fig5-gain")
    assert found.reachable
    seeds = {action.runs[0][0]: sorted(seed for _, _, seed in action.runs) for action in found.actions}
    # Five in all, from which differences tell their own noise. By the noise of the depth it would take dozens.
    assert seeds == {("a", "sqrt", 2, 8): [3, 4], ("b", "linear", 2, 8): [3, 4]}


def test_norms_are_compared_where_a_depth_has_every_loop_count(cell_table: CellTable) -> None:
    cells = cell_table(seeds=(0, 1, 2)).query("not (n_layers == 8 and n_loops == 2)")
    more = cells.query("panel == 'b' and n_loops == 8 and base_lr == 1.25e-3 and seed == 0")
    cells = pd.concat([cells, *(more.assign(seed=seed, run_id=f"more-{seed}") for seed in (3, 4))], ignore_index=True)
    [norms] = [
        one
        for one in proposals(from_cells(cells), Records("quick", "", cells={"lr_transfer": cells}))
        if one.claim == "fig7"
    ]
    assert {key[2] for key, _, _ in norms.runs} == {2, 4}
    shallow = {(key[3], seed) for key, _, seed in norms.runs if key[2] == 2}
    assert shallow == {(2, 3), (2, 4), (4, 3), (4, 4)}  # N = 8 has these seeds


def test_the_tuned_rate_is_not_that_of_one_lucky_run(cell_table: CellTable) -> None:
    cells = noisy(cell_table(seeds=(0, 1, 2, 3)).query("rule == 'linear'"), 0.01)
    first = cells["n_loops"] == 1
    seeded, lucky = first & (cells["base_lr"] == 1.25e-3), first & (cells["base_lr"] == 2e-3) & (cells["seed"] == 0)
    cells.loc[seeded, "val_loss"] = 3.38 + cells["seed"].map({0: 0.0, 1: 0.01, 2: -0.01, 3: 0.0})
    cells.loc[lucky, "val_loss"] = 3.379
    cells = cells[~first | seeded | (cells["seed"] == 0)]
    assert tuned_rate(cells) == 1.25e-3


def test_no_round_follows_the_last(cell_table: CellTable) -> None:
    cells = noisy(cell_table(seeds=(0, 1)), 0.02).assign(round=looks.ROUNDS)
    found = proposal(from_cells(cells), "fig5-transfer")
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.actions == ()


def test_rounds_before_any_interval_share_their_number(cell_table: CellTable) -> None:
    assert next_round(from_cells(cell_table())) == 1
    assert next_round(from_cells(cell_table().assign(round=1))) == 1
    assert next_round(from_cells(cell_table(seeds=(0, 1)).assign(round=1))) == 2


def test_the_cheapest_claims_are_bought_first_and_runs_that_two_need_are_paid_once(cell_table: CellTable) -> None:
    grid = from_cells(cell_table())
    keys = list(grid.curves)

    def of(claim: str, seeds: range) -> Proposal:
        runs = tuple((keys[1], 1e-3, seed) for seed in seeds)
        return Proposal(claim, Verdict.INCONCLUSIVE, (Action(claim, "", runs, 1.0, 0.5, "octaves"),))

    asked = [of("large", range(1, 9)), of("small", range(1, 4)), of("other", range(20, 26))]
    assert [one.claim for one in affordable(grid, asked, Budget(8, "runs"))] == ["small", "large"]


@pytest.mark.parametrize("text", ["2", "h", "two h", "-1h", "2 h"])
def test_a_budget_without_amount_or_unit_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="2h, 500gpuh or 40runs"):
        Budget.parse(text)


def test_the_plan_has_every_panel_of_a_run_and_writes_nothing_else(cell_table: CellTable, tmp_path: Path) -> None:
    noisy(cell_table(), 0.004).to_parquet(tmp_path / "cells.parquet")
    assert main(["--results", str(tmp_path), "--plan", str(tmp_path / "plan.json")]) == 0
    plan = json.loads((tmp_path / "plan.json").read_text())
    places = {(cell["panel"], cell["n_loops"], cell["base_lr"], cell["seed"]) for cell in plan["cells"]}
    assert {("b", *place[1:]) for place in places if place[0] == "a" and place[1] == 1} <= places
    assert plan["round"] == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cells.parquet", "plan.json"]


def test_six_hundred_cells_are_planned_within_five_seconds(cell_table: CellTable, tmp_path: Path) -> None:
    noisy(cell_table(seeds=(0, 1, 2, 3, 4)), 0.02).to_parquet(tmp_path / "cells.parquet")
    began = time.process_time()
    assert main(["--results", str(tmp_path)]) == 0
    assert time.process_time() - began < 5


def test_adaptive_rounds_decide_planted_sweeps_and_are_never_wrong(benchmark: ModuleType) -> None:
    for shift, wrong in ((0.0, "fails"), (0.35, "holds")):
        covered, designs = benchmark.simulate("parabola", 0.005, shift, 6)
        assert designs["refined"][wrong] == 0
        assert designs["refined"]["inconclusive"] <= 0.5
        assert designs["refined"]["runs"] < 0.6 * designs["8 rates × 3 seeds"]["runs"]
        assert covered["shift from N = 1"]["coverage"] > 0.85
