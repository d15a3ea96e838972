"""Whatever keys are swept: a figure shows exactly the points of its sweep, told apart, or refuses by name.

And the commands that a sweep keeps compose to its runs again. Nothing is trained: losses are planted.
"""

import argparse
import importlib
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hydra.core.global_hydra import GlobalHydra
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from rich.console import Console

import sweeper.train
from analysis import plot_fig5
from analysis.plotting import style
from analysis.records import sources
from sweeper.grid.build import Grid, compose_grid
from sweeper.records.status import RunStatus, State, sweep_rows
from sweeper.records.sweep_manifest import Sweep, add

TRAINED = ("fig6", "fig7", "fig8", "exponent")  # beside Figure 5, which lays out every axis
AXES = ["panel", "rule", "n_layers", "ref_layers", "d_model", "n_loops", "base_lr"]
# Keys that determine a result, and two values of each. Axes of their own are among them, and keys that are none.
KEYS = {
    "optimizer.weight_decay": ("0", "0.1"),
    "optimizer.grad_clip": ("null", "0.5"),
    "optimizer.beta2": ("0.9", "0.99"),
    "scaling.multiplier": ("1", "2"),
    "scaling.alpha": ("0.75", "1"),
    "scaling.beta": ("0.25", "0.5"),
    "scaling.ref_layers": ("1", "2"),
    "schedule.steps": ("12", "14"),
    "validation.tokens": ("1024", "2048"),
    "precision": ("fp32", "bf16"),
    "diagnostics": ("false", "true"),
    "stop_lost": ("false", "true"),
    "model.n_layers": ("1", "3"),
    "model.d_model": ("16", "32"),
    "model.mlp_dim": ("40", "48"),
    "model.block": ("pre_norm", "post_norm"),
    "model.loop": ("plain", "add"),
    "data.val_fraction": ("0.1", "0.2"),
    "seed": ("0", "1"),
    "panel": ("a", "b"),
}
GRID = ["preset=smoke", "model.n_loops=2,4", "optimizer.base_lr=4e-3,8e-3"]


def composed(typed: Sequence[str], root: Path) -> Grid:
    """The grid of a command line, on data that is not prepared."""
    seen: list[Grid] = []

    def launch(context, config, jobs, **_):
        seen.append(compose_grid(context, config, jobs, Console(quiet=True), prepare=False))

    GlobalHydra.instance().clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sweeper.execution.local.launch_local", launch)
        places = [f"paths.{name}={root / name}" for name in ("runs", "data")]
        patch.setattr(sys, "argv", ["sweeper.train", "--multirun", *typed, *places])
        sweeper.train.main()
    return seen[0]


@dataclass(frozen=True)
class Planted:
    """A sweep, and its cells with a loss for every run, no two alike."""

    sweep: Sweep
    cells: pd.DataFrame


def planted(submissions: Sequence[Sequence[str]], root: Path) -> Planted:
    """What submissions under one title add up to."""
    for typed in submissions:
        sweep, _ = add(root / "sweeps", composed(["title=any", *GRID, *typed], root).plan.sweep)
    statuses = {
        run_id: RunStatus(State.DONE, step=12, val_loss=3 + number / 1000)
        for number, run_id in enumerate(sweep.run_ids)
    }
    return Planted(sweep, pd.DataFrame(sweep_rows(sweep, statuses)))


@st.composite
def submissions(draw: st.DrawFn) -> list[list[str]]:
    """One or two submissions: some keys at both values, others at one; the second may have another."""
    keys = draw(st.lists(st.sampled_from(sorted(KEYS)), min_size=1, max_size=3, unique=True))
    found = []
    for _ in range(draw(st.integers(1, 2))):
        chosen = {key: draw(st.lists(st.sampled_from(KEYS[key]), min_size=1, max_size=2, unique=True)) for key in keys}
        found.append([f"{key}={','.join(values)}" for key, values in chosen.items()])
    return found


@settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    database=None,
    phases=(Phase.generate,),  # an example takes a second, too long to look for a smaller one
    suppress_health_check=list(HealthCheck),
)
@given(submissions=submissions())
def test_any_sweep_is_drawn_as_it_is_or_refused_by_name(
    submissions: list[list[str]], tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path_factory.mktemp("sweep")
    made = planted(submissions, root)

    again = [run_id for text in made.sweep.commands for run_id in composed(shlex.split(text)[2:], root).plan.runs]
    assert set(again) == set(made.sweep.run_ids)

    made.cells.to_parquet(root / "cells.parquet")
    options = ["--results", str(root), "--sweep", "any", "--out", str(root / "figures")]
    points = drawn_points(options)
    means = made.cells.groupby(AXES + made.sweep.columns, dropna=False)["val_loss"].agg(["mean", "size"]).reset_index()
    assert len(points) == len(means)
    if (means["size"] == made.cells["seed"].nunique()).all():  # else a seed's common offset is taken off first
        assert points == sorted(zip(means["base_lr"], means["mean"].round(9), strict=True))

    varied = {name for name in ("seed", *AXES, *made.sweep.columns) if made.cells[name].nunique(dropna=False) > 1}
    for name in TRAINED:
        module = importlib.import_module(f"analysis.plot_{name}")
        status, refusal = module.main(options), capsys.readouterr().err
        if status == 0:
            assert varied.isdisjoint(made.sweep.columns)
            assert not made.cells.duplicated(module.SCRIPT.lays_out).any()
        else:
            assert (status, refusal.count("\n")) == (2, 1)
            named = re.search(r" varies (\S+) \(", refusal)
            assert varied.isdisjoint(made.sweep.columns) or (named is not None and named[1] in varied), refusal


def drawn_points(options: list[str]) -> list[tuple[float, float]]:
    """(rate, loss) of every marker on a curve of Figure 5. No curve goes back, and no title stands twice."""
    parser = argparse.ArgumentParser()
    sources.add_arguments(parser)
    plot_fig5.add_options(parser)
    args = parser.parse_args(options)
    cells = sources.load_cells(args, "lr_transfer", "")
    with style.context():
        figure = plot_fig5.make(args, cells).figure
    panels = [axes for axes in figure.axes if axes.axison]
    titles = [axes.get_title(loc="left") for axes in panels]
    assert len(set(titles)) == len(titles)
    markers = {style.loop_marker(n) for n in set(cells["n_loops"])}
    points = []
    for line in (line for axes in panels for line in axes.lines if line.get_marker() in markers):
        rates, losses = (np.asarray(data, dtype=float) for data in line.get_data())
        assert (np.diff(rates) > 0).all(), titles
        points += list(zip(rates.tolist(), losses.round(9).tolist(), strict=True))
    return sorted(points)
