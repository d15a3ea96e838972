"""The smoke grid end to end, from the command line: trained, trained again, interrupted, killed, drawn."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest


def test_every_point_of_the_grid_is_done(finished_sweep) -> None:
    results = finished_sweep.results()
    assert len(results) == 21  # 24 points; at N = 1 panels a and b share their three
    assert {result["state"] for result in results.values()} == {"done"}
    assert {name: result["run_id"] for name, result in results.items()} == {name: name for name in results}
    [manifest] = (finished_sweep.path / "sweeps").glob("*.json")
    sweep = json.loads(manifest.read_text())
    assert (sweep["experiment"], sweep["preset"], len(sweep["cells"])) == ("lr_transfer", "smoke", 24)
    assert {cell["run_id"] for cell in sweep["cells"]} == set(results)


def test_a_second_time_nothing_is_trained(finished_sweep) -> None:
    files = [path for path in finished_sweep.runs.rglob("*") if path.is_file()]
    before = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in files}
    again = finished_sweep.run()
    assert again.returncode == 0, again.stderr
    assert "nothing to train" in again.stdout
    assert {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in files} == before


def test_a_wider_grid_trains_only_what_is_new(finished_sweep) -> None:
    wider = finished_sweep.run("grid.base_lr=[4e-3,8e-3,1.6e-2,3.2e-2]", "hydra.launcher.plan_only=true")
    assert wider.returncode == 0, wider.stderr
    assert "32 points, 28 distinct runs: 21 done" in " ".join(wider.stdout.split())


def test_no_record_or_log_tells_of_the_machine_or_its_user(finished_sweep, repository, text_dir) -> None:
    private = [
        finished_sweep.environment["HOME"],
        "planted-secret-0451",
        "planted-value-0452",
        str(finished_sweep.path),
        str(text_dir),
        str(repository),
        str(Path(sys.prefix)),
        str(Path.home()),
        os.uname().nodename,
    ]
    seen = 0
    for directory in ("runs", "sweeps"):
        for path in (finished_sweep.path / directory).rglob("*"):
            if path.is_file():
                seen += 1
                # The user's own words for the text are part of the command that a sweep's manifest keeps.
                typed = (f"data.path={text_dir}", f'"data.path": "{text_dir}"') if directory == "sweeps" else ()
                content = path.read_bytes()
                for words in typed:
                    content = content.replace(words.encode(), b"")
                # A name such as "/" or "vm" says nothing.
                found = [value for value in private if len(value) > 4 and value.encode() in content]
                assert not found, f"{path.name} holds {found}"
    assert seen > 21 * 5


def test_figure_5_is_drawn_from_it(finished_sweep, repository, tmp_path) -> None:
    command = [sys.executable, "analysis/plot_fig5.py", "--runs", str(finished_sweep.runs), "--out", str(tmp_path)]
    subprocess.run(command, check=True, cwd=repository, capture_output=True)
    tables = {f"fig5{part}.csv" for part in ("", "-transfer", "-gain")}
    assert {path.name for path in tmp_path.iterdir()} == {"fig5.pdf", "fig5.png", *tables}
    cells = pd.read_csv(tmp_path / "fig5.csv")
    assert len(cells) == 24
    assert set(cells["state"]) == {"done"}
    results = finished_sweep.results()
    assert cells["val_loss"].tolist() == pytest.approx([results[i]["val_loss"] for i in cells["run_id"]], rel=1e-12)


def test_the_status_command_counts_it(finished_sweep, repository) -> None:
    places = [f"--{name}={finished_sweep.path / name}" for name in ("runs", "sweeps")]
    done = subprocess.run(
        [sys.executable, "-m", "sweeper", "status", *places], cwd=repository, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "24 done"


def test_interrupted_and_killed_at_random_moments_it_ends_as_one_left_alone(
    finished_sweep, sweep_dir, wait_until
) -> None:
    """Ctrl-C first, then kill −9 of the whole process tree, then to the end: the same losses, bit for bit."""
    moments = sorted(random.Random(0).sample(range(10, 240), k=2))
    interrupted, killed = moments

    process = sweep_dir.start()
    wait_until(lambda: sweep_dir.logged_lines() >= interrupted, f"{interrupted} lines of metrics")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 3, (moments, out, err)  # stopped, which is not an error of the user
    assert err.startswith("error: stopped with ")
    assert err.endswith("the same command resumes them\n")
    assert err.count("\n") == 1
    assert not list(sweep_dir.runs.glob("*/lock"))

    process = sweep_dir.start()
    wait_until(lambda: sweep_dir.logged_lines() >= killed or process.poll() is not None, f"{killed} lines")
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()

    done = sweep_dir.run()
    assert done.returncode == 0, (moments, done.stderr)
    assert sweep_dir.metrics() == finished_sweep.metrics(), moments
    losses = {name: result["val_loss"] for name, result in finished_sweep.results().items()}
    assert {name: result["val_loss"] for name, result in sweep_dir.results().items()} == losses, moments
