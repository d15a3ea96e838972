"""The commands of `loopsweep` on a sweep that was submitted before, here or to a cluster."""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.text import Text

from sweeper.cli.import_command import progress
from sweeper.cli.status_table import MOVING, status_table, watch
from sweeper.cli.unattended import RETRIED, AutomaticRetry, Notifier
from sweeper.errors import UserError
from sweeper.execution.slurm.status import SweepView, sweep_status
from sweeper.execution.slurm.submission import newest_log, submissions
from sweeper.records.archive import write_archive
from sweeper.records.run_dir import RunDir
from sweeper.records.status import RunStatus, State, sweep_rows
from sweeper.records.sweep_manifest import Sweep, find, manifests, remove

LOGGED_STATES = (*RETRIED, State.RUNNING)  # whose logs are shown unless a run is named


class SweepCommands:
    """What can be done with one sweep.

    Args:
        sweeps: directory of sweep manifests.
        runs: directory of run directories.
        name: name of the sweep, the beginning of the name, or its id; None for the newest.

    Raises:
        UserError: if there is no such sweep, or several.
    """

    def __init__(self, sweeps: Path, runs: Path, name: str | None) -> None:
        self.sweeps, self.runs = sweeps, runs
        self.path = find(sweeps, name) if name is not None else _newest(sweeps)
        self.sweep = Sweep.load(self.path)
        self.console = Console(highlight=False, soft_wrap=True)

    def status(self) -> None:
        """Print where every cell stands."""
        self.console.print(status_table(self.sweep, self._statuses()))

    def watch(self, seconds: float, *, retry: Path | None = None, notify: str | None = None) -> None:
        """Show `status` again and again until nothing moves.

        Args:
            seconds: between two looks.
            retry: submit runs again that may be tried again; the directory of prepared data.
            notify: who is told of the first trouble and the end, see `sweeper.cli.unattended.Notifier`.

        Raises:
            UserError: if runs are to be submitted again, but were never submitted to SLURM.
        """
        if retry is not None and not any(one.queued for one in submissions(self.sweeps, self.sweep.name)):
            raise UserError(f"--retry: {self.sweep.name} has no SLURM jobs; submit it again to resume it here")
        view = SweepView(self.sweep, self.runs, self.sweeps)
        again = AutomaticRetry(self.runs, lambda run_ids: self._submit_again(run_ids, retry or Path(), ()))
        notifier = Notifier(self.sweep.name, notify, self.console)

        def show() -> tuple[Text, bool]:
            statuses, due = again.look(view) if retry is not None else (view.statuses(), [])
            moving = bool(due) or any(status.state in MOVING for status in statuses.values())
            shown = status_table(self.sweep, statuses)
            notifier.see(statuses, shown.plain.splitlines()[-1], due=due, ended=not moving)
            return shown.append("".join(f" · {said}" for said in (view.trouble, again.trouble) if said)), moving

        watch(show, seconds, self.console)

    def watch_in_browser(self, seconds: float, port: int) -> int:
        """Serve the sweep's page on this machine until Ctrl-C. Returns the exit status of the server."""
        places = ["--runs", str(self.runs), "--sweeps", str(self.sweeps), "--sweep", self.sweep.name]
        options = ["--seconds", str(seconds), "--port", str(port)]
        try:
            # A process of its own, because the sweeper imports nothing of what reads its records.
            return subprocess.run([sys.executable, "-m", "analysis.report.live", *places, *options]).returncode
        except KeyboardInterrupt:
            return 0

    def retry(self, data: Path, changes: Sequence[str]) -> None:
        """Submit failed, lost and timed-out runs again, where they were submitted before. Release held jobs.

        Args:
            data: directory of prepared data.
            changes: `key=value` options of hydra.launcher to change.

        Raises:
            UserError: if an option is not allowed, the runs fail again here, or SLURM does not release a job.
        """
        statuses = self._statuses()
        again = [run_id for run_id, status in statuses.items() if status.state in RETRIED]
        held = {status.job: status.reason for status in statuses.values() if status.state is State.HELD}
        if not again and not held:
            states = ", ".join((*RETRIED, State.HELD))
            self.console.print(f"nothing to retry: no run of {self.sweep.name} is {states}")
        if again:
            self._submit_again(again, data, changes)
        if held:
            self._release(held)

    def _submit_again(self, again: Sequence[str], data: Path, changes: Sequence[str]) -> None:
        from sweeper.execution.local import default_workers, execute_plan
        from sweeper.grid.build import Roots, saved_plan

        roots = Roots(self.runs, self.sweeps, data)
        if submitted := [one for one in submissions(self.sweeps, self.sweep.name) if one.queued]:
            from sweeper.execution.slurm.launch import retry_on_slurm

            retry_on_slurm(self.sweep, again, submitted[-1], _options(changes), roots, self.console)
            return
        plan = saved_plan(self.sweep, again, self.runs)
        execute_plan(plan, default_workers(plan.runs[again[0]]), roots, self.console)

    def _release(self, held: Mapping[str, str]) -> None:
        """Jobs by id, with the reason why they are held."""
        from sweeper.execution.slurm.gpu_check import HELD_BY_CHECK, start_anyway

        depend = sorted(job for job, reason in held.items() if reason.startswith(HELD_BY_CHECK))
        jobs, refusals = sorted(held.keys() - set(depend)), [start_anyway(depend)]
        if jobs:
            done = subprocess.run(["scontrol", "release", *jobs], capture_output=True, text=True)
            refusals.append(" ".join(done.stderr.split()) if done.returncode else "")
        if said := "; ".join(filter(None, refusals)):
            names = " ".join(sorted(held))
            raise UserError(f"jobs {names} are not released: {said}; ask the administrators of the cluster")
        self.console.print(f"released {len(held)} held jobs of {self.sweep.name}")

    def cancel(self) -> None:
        """Cancel all jobs of the sweep; what they have trained stays, and `retry` resumes from there.

        Raises:
            UserError: if the sweep never went to SLURM, or scancel fails.
        """
        from sweeper.execution.slurm.queue import live_checks, live_jobs

        submitted = submissions(self.sweeps, self.sweep.name)
        if not submitted:
            raise UserError(f"{self.sweep.name} has no SLURM jobs; a local sweep stops with Ctrl-C where it runs")
        ids = [*live_jobs(submitted, self.sweep.run_ids), *live_checks(submitted)]
        if not ids:
            self.console.print(f"no job of {self.sweep.name} waits or runs")
            return
        done = subprocess.run(["scancel", *ids], capture_output=True, text=True)
        if done.returncode:
            raise UserError(f"scancel failed: {done.stderr.strip()}")
        self.console.print(f"cancelled {len(ids)} jobs of {self.sweep.name}; results and checkpoints stay")

    def remove(self, conditions: Sequence[str], *, sure: bool) -> None:
        """Remove cells from the sweep. Their runs stay on disk.

        Args:
            conditions: `key=value` each. Cells that meet all of them are removed.
            sure: do not ask.

        Raises:
            UserError: if no cell or every cell meets the conditions, or the user does not agree.
        """
        statuses = self._statuses()
        chosen = remove(self.path, conditions, check=True)
        self.console.print(status_table(replace(self.sweep, cells=tuple(chosen)), statuses, self.sweep))
        if not sure:
            if not sys.stdin.isatty():
                raise UserError(f"{len(chosen)} cells would be removed from {self.sweep.name}; --yes removes them")
            if self.console.input(f"Remove these {len(chosen)} cells? \\[y/N] ").strip().lower() not in ("y", "yes"):
                raise UserError("nothing was removed")
        remove(self.path, conditions)
        self.console.print(f"removed {len(chosen)} cells from {self.sweep.name}; their runs and jobs are not changed")

    def prune(self, keep: str, *, sure: bool) -> None:
        """Delete checkpoints of finished runs, see `sweeper.cli.prune_command`."""
        from sweeper.cli.prune_command import prune_command
        from sweeper.records.prune import Keep

        prune_command(self.sweep, self.runs, Keep(keep), sure=sure)

    def logs(self, run: str | None, lines: int) -> None:
        """Print the last lines of what runs and their jobs printed.

        Args:
            run: part of a run's name; None for all runs that failed, are lost, timed out or are running.
            lines: of each log.

        Raises:
            UserError: if no run has that name.
        """
        if run is None:
            chosen = [run_id for run_id, status in self._statuses().items() if status.state in LOGGED_STATES]
        else:
            chosen = [run_id for run_id in self.sweep.run_ids if run in run_id]
            if not chosen:
                raise UserError(f"no run of {self.sweep.name} is named like {run!r}; `loopsweep status` lists them")
        known = submissions(self.sweeps)
        for run_id in chosen:
            rundir, job_log = RunDir(self.runs / run_id), newest_log(known, run_id)
            self._tail(rundir.log, rundir.log_tail(lines))
            if job_log is not None:
                self._tail(job_log, job_log.read_text(errors="replace").splitlines()[-lines:])

    def export(self, out: Path, command: str | None) -> None:
        """Write the sweep's tables; states are those that `status` shows.

        Args:
            out: a directory for all tables, see `sweeper.records.export`; a .parquet file for the cells alone; or a
                .tar file for the finished runs, see `sweeper.records.archive`.
            command: the command that made the sweep; None for the commands in its manifest.
        """
        if out.suffix == ".tar":
            self._export_runs(out)
            return
        import pandas as pd

        cells = pd.DataFrame(sweep_rows(self.sweep, self._statuses()))
        if out.suffix == ".parquet":
            out.parent.mkdir(parents=True, exist_ok=True)
            cells.to_parquet(out, index=False)
        else:
            from sweeper.records.export import export_sweep

            export_sweep(self.sweep, cells, self.runs, out, command)
        self.console.print(f"wrote {len(cells)} cells to {out}")

    def _export_runs(self, out: Path) -> None:
        out.parent.mkdir(parents=True, exist_ok=True)
        written, left_out = write_archive(self.sweep, self.runs, out, progress(self.console, "read"))
        size = out.stat().st_size / 2**20
        of_all = f"{written} of {len(self.sweep.run_ids)} runs"
        self.console.print(f"wrote {of_all}, those that are finished, to {out}: {size:.1f} MiB without checkpoints")
        for run_id, reason in left_out.items():
            self.console.print(f"  {run_id} left out: {reason}", markup=False)

    def _statuses(self) -> dict[str, RunStatus]:
        return sweep_status(self.sweep, self.runs, self.sweeps)

    def _tail(self, path: Path, lines: Sequence[str]) -> None:
        self.console.print(f"==> {path}", style="bold")
        for line in lines:
            self.console.print(line, markup=False)


def export_mirrored(
    server: str | None, directory: Path | None, name: str | None, out: Path, command: str | None
) -> None:
    """Write the tables of a sweep as wandb holds it, as `SweepCommands.export` does those of its runs.

    Raises:
        UserError: if there is no such sweep, or it cannot be read.
    """
    from sweeper.tracking.tables import from_place

    mirrored = from_place(server, directory, name)
    assert mirrored is not None
    mirrored.export(out, command)
    print(f"wrote {len(mirrored.sweep.cells)} cells to {out}")


def _newest(sweeps: Path) -> Path:
    known = manifests(sweeps)
    if not known:
        raise UserError(f"no sweep in {sweeps}; submit one: make sweep-lr-transfer")
    return known[-1]


def _options(changes: Sequence[str]) -> dict[str, object]:
    """Options by name, read as Hydra reads those of a command line: YAML takes 24:00:00 for a number."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    from sweeper.config.messages import composing

    for change in changes:
        if "=" not in change:
            raise UserError(f"--set {change}: give key=value, such as time=2-00:00:00")
    with composing():
        return {option.key_or_group: option.value() for option in OverridesParser.create().parse_overrides([*changes])}
