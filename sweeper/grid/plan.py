"""What a sweep would do and cost, before it does anything."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from sweeper.config.resolve import ResolvedRun
from sweeper.grid.gpu_times import GpuTimes
from sweeper.records.axes import as_text
from sweeper.records.status import FINISHED, RunStatus, State
from sweeper.records.sweep_manifest import Sweep
from sweeper.run.base import Run

# Runs of a curve until the claim on its optimum is decided, with little and with much noise between seeds
# (benchmarks/coverage_refined.md).
RUNS_TO_VERDICT = (9, 22)


@dataclass(frozen=True)
class Plan:
    """The cells that were asked for, and the runs that are left to do.

    Attributes:
        sweep: the cells that were asked for.
        runs: their distinct runs, in order of execution.
        status: where each run stands.
        queued: runs that wait in a cluster's queue.
        whole: the sweep with the cells of earlier submissions. None if there are no others.
        designs: rates in each design of this sweep, see `sweeper.config.design`. Empty for other kinds of sweep.
        warning: what is known to go wrong in it, or empty.
    """

    sweep: Sweep
    runs: dict[str, ResolvedRun]
    status: Mapping[str, RunStatus]
    queued: frozenset[str] = frozenset()
    whole: Sweep | None = None
    designs: Mapping[str, int] = field(default_factory=dict)
    warning: str = ""

    @property
    def to_run(self) -> list[str]:
        """Runs to execute, the costliest first, so that the last workers end close together."""
        taken = (*FINISHED, State.RUNNING, State.PREEMPTED, State.HELD)
        open_runs = [i for i in self.runs if self.status[i].state not in taken and i not in self.queued]
        return sorted(open_runs, key=lambda run_id: -self.runs[run_id].config.flops)

    def count(self, *states: State) -> int:
        """Distinct runs in any of `states`."""
        return sum(status.state in states for status in self.status.values())

    @property
    def part_of(self) -> Sweep | None:
        """The whole sweep, if it has more cells than were asked for."""
        return self.whole if self.whole is not None and len(self.whole.cells) > len(self.sweep.cells) else None


class StepTimes:
    """Seconds of one step as a + b · L · N, which holds within one shape of block, head and batch."""

    def __init__(self, observations: Sequence[tuple[int, float]]) -> None:
        """Fit observations of (block applications L · N, seconds of a step); relative errors count the same.

        Raises:
            ValueError: with fewer than two different L · N.
        """
        applications, seconds = (np.array(column, dtype=float) for column in zip(*observations, strict=True))
        if len(set(applications)) < 2:
            raise ValueError("step times need two different depths")
        design = np.stack((np.ones_like(applications), applications), axis=1) / seconds[:, None]
        (self.base, self.per_block), *_ = np.linalg.lstsq(design, np.ones_like(seconds), rcond=None)

    def run_seconds(self, config: Run) -> float:
        """Expected time of all steps of a run."""
        return float((self.base + self.per_block * config.applications) * config.steps)


def learned_step_times(plan: Plan) -> StepTimes | None:
    """Step times on a CPU from the sweep's own finished runs, or None while they do not tell enough."""
    seen = [
        (run.config.applications, status.step_seconds / status.step)
        for run_id, run in plan.runs.items()
        if (status := plan.status[run_id]).state in FINISHED
        and status.step_seconds > 0
        and status.step
        and not status.gpu
    ]
    return StepTimes(seen) if len({applications for applications, _ in seen}) >= 2 else None


def gpu_times(plan: Plan, gpu: str) -> GpuTimes | None:
    """Times of the plan's runs on a kind of GPU; None if no run is meant for a GPU."""
    if all(run.execution.device != "cuda" for run in plan.runs.values()):
        return None
    return GpuTimes.learned(gpu, plan.runs, plan.status)


def print_plan(plan: Plan, times: StepTimes | GpuTimes | None, workers: int, console: Console) -> None:
    """The grid as a table, then totals and the expected time.

    Args:
        plan: what to show.
        times: step times of this machine, or of the GPUs that the runs are meant for; None where nothing is measured.
        workers: runs at once, for the expected wall time of this machine.
        console: where to print.
    """
    console.print(_grid_table(plan, times))
    say = partial(console.print, highlight=False, soft_wrap=True)
    configs = [run.config for run in plan.runs.values()]
    todo = [plan.runs[run_id] for run_id in plan.to_run]
    flops, attention = sum(config.flops for config in configs), sum(config.attention_flops for config in configs)
    say(
        f"{plan.sweep.name}: {len(plan.sweep.cells)} points, {len(configs)} distinct runs: "
        f"{plan.count(State.DONE)} done, {plan.count(State.DIVERGED)} diverged, "
        f"{plan.count(State.RUNNING)} running elsewhere, "
        + (f"{len(plan.queued)} queued, " if plan.queued else "")
        + f"{len(todo)} to run",
    )
    if whole := plan.part_of:
        say(f"the whole of {whole.name}: {len(whole.cells)} points, {len(whole.run_ids)} distinct runs")
    say(f"FLOPs of all {len(configs)}: {flops:.2e}, and {attention:.2e} of attention")
    for line in _design_lines(plan, times):
        say(line)
    if plan.warning:
        say(f"warning: {plan.warning}", style="yellow")
    if not todo:
        return
    if isinstance(times, GpuTimes):
        for line in _gpu_lines(times, todo):
            say(line)
    elif times is not None:
        seconds = [times.run_seconds(run.config) for run in todo]
        wall = max(max(seconds), sum(seconds) / workers)
        say(
            f"time on this machine: {wall / 3600:.2f} hours ({wall / 60:.1f} minutes) for {len(todo)} runs, "
            f"{workers} at once; longest run {max(seconds) / 60:.1f} minutes",
        )


def _gpu_lines(times: GpuTimes, todo: Sequence[ResolvedRun]) -> list[str]:
    """What the runs take on one GPU each, where that comes from, and the utilisation that it means."""
    if times.kind is None:
        return [f"GPU time: unknown; {times.origin}"]
    longest = max(map(times.run_hours, todo))
    shares = ", ".join(f"{share:.0%} ({name})" for name, share in times.utilisation(todo).items())
    return [
        f"GPU time: {_amount(times.hours(todo))} {times.name}-hours (longest run {_amount(longest)}), {times.origin}",
        f"utilisation of {times.name}: {shares}",
    ]


def _amount(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.3g}"


def _design_lines(plan: Plan, times: StepTimes | GpuTimes | None) -> list[str]:
    """What the designs of a sweep cost with one seed, what its verdicts may cost, and what its grid cannot decide."""
    if not plan.designs:
        return []
    curves = {(run.axes["rule"], run.config.applications, run.config.residual_scale): run for run in plan.runs.values()}
    configs = [run.config for run in curves.values()]
    if isinstance(times, GpuTimes) and times.kind is not None:
        unit, each = f"{times.name}-hours", times.hours(curves.values())
    elif isinstance(times, StepTimes):
        unit, each = "hours of runs", sum(times.run_seconds(config) for config in configs) / 3600
    else:
        unit, each = "FLOPs", float(sum(config.flops for config in configs))
    of = "{:.3g}".format if unit == "FLOPs" else _amount
    designs = ", ".join(f"{name} ({rates} rates) {of(rates * each)}" for name, rates in plan.designs.items())
    low, high = RUNS_TO_VERDICT
    lines = [
        f"cost in {unit} with one seed: {designs}; until the claims are decided some {of(low * each)} to "
        f"{of(high * each)} ({low} to {high} runs a curve)"
    ]
    if len({run.axes["seed"] for run in plan.runs.values()}) == 1:
        why = "one seed has no interval, so no claim is decided on this grid"
        lines.append(f"{why}; `loopsweep refine` adds the seeds and rates that the claims need")
    return lines


def _grid_table(plan: Plan, times: StepTimes | GpuTimes | None) -> Table:
    shown = (plan.whole or plan.sweep).columns
    table = Table(box=None, pad_edge=False)
    for name in ("panel", "rule", *shown, "L", "N", "m_L", "ε", "rates", "done", "FLOPs/run", "time/run"):
        table.add_column(name, justify="left" if name in ("panel", "rule", *shown) else "right")
    lines: dict[tuple[Any, ...], list[str]] = {}
    for row in plan.sweep.rows(shown):
        axes = [row[key] for key in ("panel", "rule", *shown, "n_layers", "n_loops", "depth_multiplier")]
        lines.setdefault(tuple(map(as_text, axes)), []).append(row["run_id"])
    for texts, run_ids in lines.items():
        config = plan.runs[run_ids[0]].config
        taken = _time(plan.runs[run_ids[0]], times)
        done = sum(plan.status[run_id].state in FINISHED for run_id in run_ids)
        table.add_row(
            *texts,
            f"{config.residual_scale:.4g}",
            str(len(run_ids)),
            str(done),
            f"{config.flops:.2e}",
            taken,
        )
    return table


def _time(run: ResolvedRun, times: StepTimes | GpuTimes | None) -> str:
    """Of one run, in seconds on a CPU and in hours on a GPU."""
    if isinstance(times, GpuTimes):
        return f"{times.run_hours(run):,.3g} h" if times.kind is not None else ""
    return f"{times.run_seconds(run.config):,.1f} s" if times else ""
