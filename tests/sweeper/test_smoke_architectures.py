"""The sweep of architectures end to end at smoke: trained, exported, and its figures drawn again from the records."""

import subprocess
import sys

import pandas as pd
import pytest

from analysis.figures import FIGURES
from model import BLOCKS, LOOPS

NAMES = [figure.name for figure in FIGURES if figure.experiment == "architectures"]


@pytest.fixture(scope="module")
def finished(make_sweep_dir):
    """One rate, and N = 1 and 3."""
    sweep = make_sweep_dir("architectures")
    done = sweep.run("architectures.n_loops=[1,3]", "architectures.kin_loops=[1,3]", "optimizer.base_lr=8e-3")
    assert done.returncode == 0, done.stderr
    return sweep


def test_every_row_of_the_registries_is_in_it_and_ends(finished) -> None:
    """16 stabilisers at N = 3. At N = 1 they are plain, the second paper's, parcae, boundary and five blocks."""
    results = finished.results()
    assert len(results) == 16 + 9
    assert {result["state"] for result in results.values()} <= {"done", "diverged"}


def test_its_figures_redraw_from_exported_records(finished, repository, tmp_path) -> None:
    def call(*arguments: str) -> None:
        subprocess.run([sys.executable, *arguments], check=True, cwd=repository, capture_output=True)

    places = [f"--{name}={finished.path / name}" for name in ("runs", "sweeps")]
    call("-m", "sweeper", "export", "architectures-smoke", *places, "--out", str(tmp_path / "records"))
    cells = pd.read_parquet(tmp_path / "records" / "cells.parquet")
    assert set(cells["architecture"]) == {*LOOPS, *(block for block in BLOCKS if block != "pre_norm")}
    assert cells["unigram_entropy"].notna().all()
    for kind, source in (("live", places), ("stored", [f"--results={tmp_path / 'records'}"])):
        call("-m", "analysis.figures", "--only", "architectures", *source, "--out", str(tmp_path / kind))
    for name in NAMES:
        live, stored = ((tmp_path / kind / f"{name}.csv").read_text() for kind in ("live", "stored"))
        assert live == stored
