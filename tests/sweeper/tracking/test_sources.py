"""A sweep reads the same from its runs, from the server it was logged to and from the files that wandb wrote."""

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis import plot_fig5
from sweeper.__main__ import main
from sweeper.errors import UserError
from sweeper.records.sweep_manifest import Sweep
from sweeper.tracking.tables import from_files, from_server

from .conftest import account
from .wandb_server import ENTITY, WandbServer

GRID = ("grid.base_lr=[4e-3,8e-3]", "panel=a,b", "diagnostics=true")  # 8 cells, 6 runs


@pytest.fixture(scope="module")
def module_server() -> Iterator[WandbServer]:
    with WandbServer().serving() as serving:
        yield serving


@pytest.fixture(scope="module")
def logged_sweep(make_sweep_dir: Callable[[], Any], module_server: WandbServer, tmp_path_factory: Any) -> Any:
    """Half the smoke sweep, carried out with tracking=online."""
    sweep = make_sweep_dir()
    sweep.environment = account(tmp_path_factory.mktemp("account")) | {"WANDB_BASE_URL": module_server.url}
    done: subprocess.CompletedProcess[str] = sweep.run(*GRID, "tracking=online", "tracking.project=p")
    assert done.returncode == 0, done.stderr
    return sweep


@pytest.fixture
def places(logged_sweep: Any, module_server: WandbServer, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Options that read the sweep."""
    monkeypatch.setenv("WANDB_BASE_URL", module_server.url)
    return {
        "runs": ["--runs", str(logged_sweep.runs)],
        "server": ["--wandb", f"{ENTITY}/p"],
        "files": ["--wandb-dir", str(logged_sweep.path / "wandb")],
    }


def test_the_figures_numbers_are_the_same(places: dict[str, list[str]], tmp_path: Path) -> None:
    for name, options in places.items():
        assert plot_fig5.main([*options, "--out", str(tmp_path / name), "--format", "png"]) == 0
    numbers = {name: (tmp_path / name / "fig5.csv").read_bytes() for name in places}
    assert numbers["runs"].count(b"done") == 8
    assert numbers["server"] == numbers["runs"]
    assert numbers["files"] == numbers["runs"]


@pytest.mark.parametrize("place", ["server", "files"])
def test_export_writes_what_it_writes_of_the_runs(place: str, places, logged_sweep, tmp_path) -> None:
    main(["export", *places[place], "--out", str(tmp_path / "mirrored")])
    sweeps = ["--sweeps", str(logged_sweep.path / "sweeps")]
    main(["export", *places["runs"], *sweeps, "--out", str(tmp_path / "runs")])
    for name in ("cells", "curves", "readouts"):
        mirrored, recorded = (pd.read_parquet(tmp_path / source / f"{name}.parquet") for source in ("mirrored", "runs"))
        key = [column for column in ("run_id", "step", "panel", "readout", "i", "j") if column in recorded]
        tables = (table.sort_values(key, ignore_index=True) for table in (mirrored, recorded))
        pd.testing.assert_frame_equal(*tables, check_like=True, check_exact=True)
        assert len(recorded) > 0
        of_diagnostics = {"cells": "unigram_entropy", "curves": "stream_norm_1", "readouts": "mean"}
        assert recorded[of_diagnostics[name]].notna().all()
    assert "test_loss" in set(recorded["readout"])
    described = [json.loads((tmp_path / source / "provenance.json").read_text()) for source in ("mirrored", "runs")]
    of_mirrored, of_runs = ({**next(iter(d.values())), "command": ""} for d in described)
    assert of_mirrored == of_runs


def test_a_group_chooses_the_sweep_and_another_is_unknown(places: dict[str, list[str]], logged_sweep: Any) -> None:
    [manifest] = (logged_sweep.path / "sweeps").glob("*.json")
    assert from_server(f"{ENTITY}/p:{manifest.stem}").sweep == Sweep.load(manifest)
    assert from_files(logged_sweep.path / "wandb", sweep=manifest.stem[:10]).sweep == Sweep.load(manifest)
    with pytest.raises(UserError, match=r"--wandb somebody/p:other: no sweep in it; known sweeps: none"):
        from_server(f"{ENTITY}/p:other")
    with pytest.raises(UserError, match="give entity/project"):
        from_server("p")
    with pytest.raises(UserError, match=f"no sweep 'other' in --wandb-dir .*; known: {re.escape(manifest.stem)}"):
        from_files(logged_sweep.path / "wandb", sweep="other")


def test_figures_are_logged_to_their_sweep(
    places: dict[str, list[str]], logged_sweep: Any, module_server: WandbServer, tmp_path: Path
) -> None:
    options = [*places["runs"], "--out", str(tmp_path), "--log-wandb", f"{ENTITY}/p"]
    assert plot_fig5.main(options) == 0
    [manifest] = (logged_sweep.path / "sweeps").glob("*.json")
    entry = module_server.runs["p", manifest.stem]
    assert [name for name in entry.files if name.startswith("media/images/fig5")]
    assert entry.summary["fig5"]["_type"] == "image-file"
    assert entry.config["sweep"]["value"]["name"] == manifest.stem  # still there
