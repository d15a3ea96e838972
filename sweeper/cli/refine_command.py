"""`loopsweep refine`: the next runs of a sweep that are worth their cost, planned by `analysis.refine`."""

import json
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sweeper.errors import SweepIncomplete, UserError
from sweeper.execution.slurm.status import sweep_status
from sweeper.records.status import State
from sweeper.records.sweep_manifest import Sweep

DECIDED = ("holds", "fails")
# What a round says itself: its cells and its number. All else is as in the command that made the sweep.
_OWN = ("panel", "model.n_loops", "optimizer.base_lr", "seed", "design", "hydra.sweeper.grids", "experiment")
_OWN_SECTIONS = ("grid", "refine", "paths")
_AT_WORK = (State.RUNNING, State.PREEMPTED, State.HELD)


def refine(
    path: Path, runs: Path, overrides: Sequence[str], *, budget: str | None, until_verdicts: bool, dry_run: bool
) -> None:
    """Plan the next round and submit it to the same sweep, or only show it.

    Args:
        path: of the sweep's manifest.
        runs: directory of run directories.
        overrides: Hydra overrides for the submission, such as hydra/launcher=slurm.
        budget: of all rounds together, such as 2h; None for no limit.
        until_verdicts: plan and execute rounds until none has runs.
        dry_run: submit nothing.

    Raises:
        UserError: if the sweep cannot be refined, or runs of it are still at work.
        SweepIncomplete: if runs of a round failed or are left.
    """
    left = budget
    while True:
        sweep = Sweep.load(path)
        statuses = sweep_status(sweep, runs, path.parent).values()
        busy = sum(one.state in _AT_WORK or (one.state is State.PENDING and bool(one.job)) for one in statuses)
        if busy and not dry_run:
            raise UserError(f"{busy} runs of {sweep.name} run or wait in a queue; wait for them: loopsweep watch")
        plan = _plan(path, runs, sweep.name, left)
        if dry_run or not plan["cells"]:
            return
        typed = submission(sweep, plan, overrides, runs, path.parent)
        if status := subprocess.run([sys.executable, "-m", "sweeper", "submit", *typed]).returncode:
            kind = SweepIncomplete if status == SweepIncomplete.exit_status else UserError
            raise kind(f"round {plan['round']} of {sweep.name} ended with runs left; the same command resumes them")
        if not until_verdicts:
            return
        if "hydra/launcher=slurm" in typed:
            print(f"round {plan['round']} is queued; the same command plans the next when `loopsweep watch` ends")
            return
        left = plan["left"]


def _plan(path: Path, runs: Path, name: str, budget: str | None) -> dict[str, Any]:
    """The plan of `python -m analysis.refine`, which prints it: figures and planning need no PyTorch."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "plan.json"
        places = ["--runs", str(runs), "--sweeps", str(path.parent), "--sweep", name, "--plan", str(file)]
        command = [sys.executable, "-m", "analysis.refine", *places, *(["--budget", budget] if budget else [])]
        if subprocess.run(command).returncode:
            raise UserError(f"{name} was not refined; the reason is in the line above")
        plan: dict[str, Any] = json.loads(file.read_text())
    return plan


def submission(sweep: Sweep, plan: Mapping[str, Any], overrides: Sequence[str], runs: Path, sweeps: Path) -> list[str]:
    """The overrides that submit a plan's cells to the sweep: those that made it, with the cells as the grid."""
    given = {_key(text) for text in overrides}
    kept = [text for text in _first_command(sweep) if _key(text) not in given and not _is_own(_key(text))]
    own = [f"refine.round={plan['round']}", f"refine.reason='{plan['reason']}'", f"hydra.sweeper.grids={_grids(plan)}"]
    return [*kept, *overrides, f"paths.runs={runs}", f"paths.sweeps={sweeps}", *own]


def _first_command(sweep: Sweep) -> list[str]:
    """The overrides of the command that made the sweep. Of records, several commands are one text."""
    for text in sweep.commands:
        words = shlex.split(text.split("; ")[0], comments=True)
        if words[:2] == ["loopsweep", "submit"]:
            return words[2:]
    return [f"+sweep={sweep.experiment}", f"preset={sweep.preset}", *([f"title={sweep.title}"] if sweep.title else [])]


def _is_own(key: str) -> bool:
    return key in _OWN or key.split(".")[0] in _OWN_SECTIONS


def _key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]


def _grids(plan: Mapping[str, Any]) -> str:
    """The cells as a list of small grids, each of one rate of one curve. Rates of a submission have to ascend."""
    seeds: dict[tuple[float, str, int], list[int]] = {}
    for cell in plan["cells"]:
        seeds.setdefault((cell["base_lr"], cell["panel"], cell["n_loops"]), []).append(cell["seed"])
    grids = [
        f"{{panel:'{panel}',model.n_loops:'{n_loops}',optimizer.base_lr:'{rate!r}',seed:'{_comma(of_point)}'}}"
        for (rate, panel, n_loops), of_point in sorted(seeds.items())
    ]
    return f"[{','.join(grids)}]"


def _comma(seeds: Sequence[int]) -> str:
    return ",".join(map(str, sorted(seeds)))
