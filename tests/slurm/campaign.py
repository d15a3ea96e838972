"""Larger campaigns on the test cluster than CI has time for. Each prints what it saw against what must hold.

python -m tests.slurm.campaign interruptions    # 30 of them, over an array of 12 elements, 4 at once
python -m tests.slurm.campaign claims           # 60 runs through 4 jobs, of which two are killed; needs accounting
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sweeper.execution.slurm.submission import submissions
from sweeper.records.lock import is_alive
from sweeper.records.run_dir import RunDir

from . import lab as lab_module
from .cluster import Cluster
from .lab import GRID, Lab, kill_a_claiming_job, write_corpus

INTERRUPTIONS, JOBS = 30, 4
RATES = tuple(f"{0.002 + 0.0005 * number:.4g}" for number in range(15))
SHORT = ("schedule.steps=100", "execution.checkpoint_every=25", "validation.every=50")
SIXTY = (*GRID, "panel=b,c", f"optimizer.base_lr={','.join(RATES)}", *SHORT)
TWELVE = (
    *GRID,
    "panel=b",
    f"optimizer.base_lr={','.join(RATES[:6])}",
    "schedule.steps=400",
    "execution.checkpoint_every=25",
    "validation.every=200",
)


def interruptions(lab: Lab, draw: random.Random) -> dict[str, object]:
    """Interrupt random running elements of an array, the last one too, each alone."""
    lab.submit(*TWELVE, f"hydra.launcher.array_parallelism={JOBS}")
    [array] = submissions(lab.sweeps)[-1].arrays
    runs = [RunDir(lab.runs / run_id) for [run_id] in array.elements]
    last, expected, completed, queued_again = len(runs) - 1, Counter[int](), set[int](), 0

    def states() -> dict[int, str]:
        nonlocal queued_again
        lines = (line.split() for line in lab.cluster.squeue("%K %T", "-t", "all", "-j", lab.job()))
        seen = {int(index): state for index, state in lines}
        queued_again += sum(seen[element] != "COMPLETED" for element in completed)
        completed.update(element for element, state in seen.items() if state == "COMPLETED")
        return seen

    def restarts(element: int) -> int:
        return lab.restarts(f"{lab.job()}_{element}")

    while expected.total() < INTERRUPTIONS:
        time.sleep(draw.uniform(0, 2))
        running = [i for i, state in states().items() if state == "RUNNING" and is_at_work(runs[i])]
        if not running:
            continue
        element = last if last in running and not expected[last] else draw.choice(running)
        before, how = expected[element], draw.choice(["USR2", "scontrol requeue"])
        with lab.held(runs[element]):
            if runs[element].result() is not None:
                continue
            if how == "USR2":
                lab.slurm("scancel", "--signal=USR2", f"{lab.job()}_{element}")
            else:
                lab.slurm("scontrol", "requeue", f"{lab.job()}_{element}")
        expected[element] += 1
        lab.until(lambda element=element, before=before: restarts(element) > before, f"{how} of element {element}")
        print(f"{expected.total():2} {how} of element {element}", flush=True)
    lab.until(lambda: states() == dict.fromkeys(range(len(runs)), "COMPLETED"), "the end of all jobs")
    return {
        "interruptions of the last element": expected[last],
        "elements that started more or less often than they were interrupted": [
            i for i in range(len(runs)) if restarts(i) != expected[i]
        ],
        "completed elements that were queued again": queued_again,
    }


def claims(lab: Lab, draw: random.Random) -> dict[str, object]:
    """Kill two of four jobs that claim runs."""
    printed = lab.submit(*SIXTY, f"hydra.launcher.jobs={JOBS}")
    print(printed.strip().splitlines()[-3], flush=True)
    killed = []
    for _ in range(2):
        time.sleep(draw.uniform(2, 10))
        killed.append(kill_a_claiming_job(lab))
    lab.until_finished()
    log, ids = lab.job_log(), lab.sweep.run_ids
    done = {run_id: log.count(f"{run_id}: done") for run_id in ids}
    return {
        "runs": len(ids),
        "runs of killed jobs": killed,
        "starts of these": [log.count(f"{run_id}: started") for run_id in killed],
        "runs that ended more or less than once": [run_id for run_id, times in done.items() if times != 1],
    }


def is_at_work(rundir: RunDir) -> bool:
    return is_alive(rundir.lock) and rundir.result() is None and rundir.last_metrics().get("step", 0) > 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    campaigns: dict[str, tuple[Callable[..., dict[str, object]], tuple[str, ...]]] = {
        "interruptions": (interruptions, TWELVE),
        "claims": (claims, SIXTY),
    }
    parser.add_argument("campaign", choices=campaigns)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    campaign, grid = campaigns[arguments.campaign]
    claiming = arguments.campaign == "claims"
    lab_module.TIMEOUT = 3600.0
    with tempfile.TemporaryDirectory(prefix="campaign-") as name:
        root = Path(name)
        texts, data = write_corpus(root / "texts"), root / "data"
        here = Lab(Cluster(root), root / "here", texts, data)
        here.submit(*grid, launcher="local")
        cluster = Cluster(root / "c", accounting=claiming, max_submit=JOBS if claiming else None)
        os.environ.update({key: cluster.environment[key] for key in ("PATH", "SLURM_CONF")})
        try:
            cluster.start()
            lab = Lab(cluster, root / "there", texts, data)
            seen: dict[str, Any] = campaign(lab, random.Random(arguments.seed))
            seen["losses as without a cluster"] = lab.curves() == here.curves()
        finally:
            cluster.stop()
    for what, value in seen.items():
        print(f"{what}: {value}")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    main()
