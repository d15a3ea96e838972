"""Sweeps on a cluster: submitted, packed, submitted twice, edited after submission, failed and retried."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sweeper.execution.slurm.submission import submissions
from sweeper.records.run_dir import RunDir
from sweeper.records.status import State

from .lab import CHECKOUT, GRID, MIDWAY, ONE_RUN, Lab, assert_same_losses, finished

pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("interrupted")]
SMOKE = (*GRID, "panel=a,b", "optimizer.base_lr=4e-3,8e-3")


def test_job_array_on_two_nodes_trains_and_draws_figure_5(lab: Lab, undisturbed: Callable[..., Any]) -> None:
    printed = lab.submit(*SMOKE)
    assert "submitted 6 runs" in printed
    lab.until_finished()
    lab.until(lambda: set(lab.cluster.squeue("%T", "-t", "all", "-j", lab.job())) == {"COMPLETED"}, "completed jobs")
    assert len(set(lab.cluster.squeue("%N", "-t", "all", "-j", lab.job()))) > 1, "all on one node"
    assert lab.curves() == undisturbed(*SMOKE)
    assert "nothing to submit" in lab.submit(*SMOKE)
    finished(
        subprocess.Popen(
            [sys.executable, "analysis/plot_fig5.py", f"--runs={lab.runs}", f"--out={lab.root}", "--format=png"],
            cwd=CHECKOUT,
            env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    )
    assert (lab.root / "fig5.png").stat().st_size > 0


def test_two_submissions_at_once_queue_every_run_once(lab: Lab, undisturbed: Callable[..., Any]) -> None:
    printed = [finished(process) for process in (lab.start(*ONE_RUN), lab.start(*ONE_RUN))]
    assert sorted("submitted 1 runs" in text for text in printed) == [False, True]
    lab.until_finished()
    assert lab.curves() == undisturbed()


@pytest.mark.parametrize("gpus", [1, 2])
def test_last_element_of_an_array_is_requeued_alone(gpus: int, lab: Lab, undisturbed: Callable[..., Any]) -> None:
    """The id of the last element is that of the array. Its siblings have ended: one is done, one was cancelled."""
    grid = (*GRID, "panel=b", "model.n_loops=1", "optimizer.base_lr=4e-3,6e-3,8e-3", *ONE_RUN[-3:])
    lab.submit(*grid, f"hydra.launcher.gpus_per_node={gpus}")
    [array] = submissions(lab.sweeps)[-1].arrays
    done, cancelled, last = (RunDir(lab.runs / run_id) for [run_id] in array.elements)

    def state(element: int) -> list[str]:
        return lab.cluster.squeue("%T", "-t", "all", "-j", f"{lab.job()}_{element}")

    lab.until(lambda: last.last_metrics().get("step", 0) >= MIDWAY, "the last element's middle")
    with lab.held(last):
        lab.slurm("scancel", f"{lab.job()}_1")
        lab.until(lambda: (state(0), state(1)) == (["COMPLETED"], ["CANCELLED"]), "the siblings' ends")
        lab.slurm("scancel", "--signal=USR2", f"{lab.job()}_2")
    lab.until(lambda: last.result() is not None, "the last run's result")
    assert [lab.restarts(f"{lab.job()}_{element}") for element in range(3)] == [0, 0, 1]
    assert (state(0), state(1)) == (["COMPLETED"], ["CANCELLED"])
    names = [rundir.path.name for rundir in (done, last)]
    found, expected = ({name: curves[name] for name in names} for curves in (lab.curves(), undisturbed(*grid)))
    if gpus == 1:
        assert found == expected
    assert_same_losses(found, expected)
    assert cancelled.result() is None


def test_a_node_with_an_old_env_trains(lab: Lab, undisturbed: Callable[..., Any]) -> None:
    env = lab.root / "old" / "env"
    env.parent.mkdir()
    env.write_text('#!/bin/sh\ncase "$1" in --*-signal*) echo "unrecognized option" >&2; exit 125;; esac\n')
    env.write_text(env.read_text() + 'exec /usr/bin/env "$@"\n')
    env.chmod(0o755)
    lab.submit(*ONE_RUN, f"hydra.launcher.setup=['export PATH={env.parent}:$PATH']")
    lab.until_midway()
    lab.slurm("scancel", "--signal=USR2", lab.job())  # and the warning still reaches the pool
    lab.until_finished()
    assert lab.restarts() == 1
    assert lab.curves() == undisturbed()


def test_a_job_that_slurm_holds_is_named_and_released(lab: Lab, undisturbed: Callable[..., Any]) -> None:
    lab.submit(*ONE_RUN)
    lab.until_midway()
    lab.slurm("scontrol", "requeuehold", lab.job())
    lab.until(lambda: [status.state for status in lab.statuses()] == [State.HELD], "a held job")
    assert "job requeued in held state; `loopsweep retry` releases it" in lab.type("status")
    assert lab.type("watch").splitlines()[-1].strip() == "1 held"
    assert "released 1 held jobs" in lab.type("retry", f"--data={lab.data}")
    lab.until_finished()
    assert lab.curves() == undisturbed()


def test_queued_jobs_are_seen_by_whoever_shares_the_directory(lab: Lab) -> None:
    lab.submit(*ONE_RUN, "+hydra.launcher.extra={hold: true}")
    first, colleague = lab.job(), replace(lab, variables=(("LOGNAME", "nobody"), ("USER", "nobody")))
    assert "nothing to submit" in colleague.submit(*ONE_RUN)
    assert f"{first}  " in colleague.type("status")
    assert "cancelled 1 jobs" in colleague.type("cancel")
    assert lab.job() == first


def test_second_job_of_a_run_leaves_it_to_the_first(lab: Lab, undisturbed: Callable[..., Any]) -> None:
    lab.submit(*ONE_RUN)
    [script] = lab.sweeps.glob("*/slurm/*/jobs/*_submission.sh")
    first = lab.job()
    lab.until_midway()
    pickled = next(script.parent.glob("*_submitted.pkl"))
    with lab.held() as trainer:
        # As after a crash between sbatch and its recording: a job that the sweep does not know of.
        second = lab.cluster.query("sbatch", "--parsable", "--hold", str(script)).strip()
        shutil.copy(pickled, pickled.with_name(f"{second}_submitted.pkl"))
        lab.slurm("scontrol", "release", second)
        lab.until(lambda: lab.cluster.squeue("%T", "-t", "all", "-j", second) == ["COMPLETED"], "clean exit")
        assert lab.trainer() == trainer
    lab.until_finished()
    assert lab.job() == first
    assert lab.curves() == undisturbed()


def test_costly_sweep_is_not_submitted_without_confirmation(lab: Lab) -> None:
    costly = ("schedule.steps=1000000000000", "execution.device=cuda", "hydra.launcher.max_gpu_hours=1")
    printed = finished(lab.start(*SMOKE, *costly), statuses=(2,))
    assert "GPU-hours are above hydra.launcher.max_gpu_hours=1" in printed
    assert not lab.runs.exists()


def test_edits_after_submission_do_not_affect_queued_jobs_and_results_record_the_code(
    lab: Lab, tmp_path: Path, undisturbed: Callable[..., Any]
) -> None:
    checkout = tmp_path / "checkout"
    for name in ("model", "sweeper", "conf"):
        shutil.copytree(CHECKOUT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(CHECKOUT / "pyproject.toml", checkout)
    git = ("git", "-C", str(checkout), "-c", "user.name=test", "-c", "user.email=test@localhost")
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *arguments], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    (checkout / "sweeper/run/flops.py").open("a").write("# not committed\n")
    lab = replace(lab, checkout=checkout)
    lab.submit(*ONE_RUN, "+hydra.launcher.extra={hold: true}")
    (checkout / "sweeper/training/trainer.py").write_text("raise RuntimeError('edited')\n")
    (checkout / "conf/preset/smoke.yaml").write_text("steps: nonsense\n")
    lab.slurm("scontrol", "release", lab.job())
    lab.until_finished()
    assert lab.curves() == undisturbed()
    result = lab.run().result()
    assert result is not None
    assert result["provenance"]["commit"] == f"{head}+dirty"
    assert len(result["provenance"]["diff"]) == 64
    assert "torch" in result["provenance"]["packages"]
    assert str(lab.root) not in json.dumps(result)


def test_poisoned_run_fails_and_its_siblings_do_not(lab: Lab, undisturbed: Callable[..., Any]) -> None:
    lab.submit(*SMOKE, "panel=b", "hydra.launcher.pack=4", "+hydra.launcher.extra={hold: true}")
    poisoned, *healthy = lab.sweep.run_ids
    (lab.runs / poisoned / "metrics.jsonl").mkdir()  # fails at its first step, every time
    lab.slurm("scontrol", "release", lab.job())
    lab.until_job("FAILED")
    by_run = dict(zip(lab.sweep.run_ids, lab.statuses(), strict=True))
    assert by_run[poisoned].state is State.FAILED
    assert "failed 3 times from step 0: IsADirectoryError" in by_run[poisoned].reason
    expected = {run_id: curve for run_id, curve in undisturbed(*SMOKE).items() if run_id in lab.sweep.run_ids}
    (lab.runs / poisoned / "metrics.jsonl").rmdir()
    assert {run_id: lab.curves()[run_id] for run_id in healthy} == {run_id: expected[run_id] for run_id in healthy}
    lab.commands.retry(lab.data, ["pack=1", "extra={}"])
    lab.until_finished()
    assert lab.curves() == expected
