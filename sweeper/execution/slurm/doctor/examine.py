"""The doctor's visit: checks here, one short job, and a table of what was found."""

import json
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from sweeper.errors import UserError
from sweeper.execution.slurm.doctor import login, shared
from sweeper.execution.slurm.doctor.finding import Finding, Verdict, note, ok, print_findings, problem, site_lines
from sweeper.execution.slurm.doctor.node import RESUMED, NodeCheck
from sweeper.execution.slurm.options import SlurmOptions
from sweeper.execution.slurm.queue import last_words
from sweeper.execution.slurm.snapshot import take_snapshot
from sweeper.execution.slurm.submission import python_command, refusals_in_one_line, require_slurm

JOB_MINUTES = 10
WARNING_SECONDS = 60
POLL_SECONDS = 0.5
SQUEUE_SECONDS = 5.0  # between questions to the controller


@dataclass(frozen=True)
class Intent:
    """What the user means to run.

    Attributes:
        options: of the jobs.
        runs: directory of run directories.
        sweeps: directory of sweep manifests.
        data: the prepared data, in words; None if it is not prepared.
        checkpoint_bytes: size of a checkpoint.
        urls: servers that runs or data need, by name: wandb, hub.
    """

    options: SlurmOptions
    runs: Path
    sweeps: Path
    data: str | None
    checkpoint_bytes: float
    urls: Mapping[str, str]


def examine(intent: Intent, console: Console, *, job: bool, wait_minutes: float) -> bool:
    """Check, and print what was found. Blocks until the job has ended.

    Args:
        intent: what to check for.
        console: where to print.
        job: whether to submit a job that checks a node.
        wait_minutes: to wait for the job to start, before it is cancelled.

    Returns:
        Whether no problem was found.

    Raises:
        UserError: if this machine has no SLURM or the controller does not answer.
    """
    require_slurm()
    findings = [*_on_the_login_node(intent)]
    print_findings(findings, console)
    if job:
        console.print()
        of_the_node = [*_on_a_node(intent, console, wait_minutes)]
        print_findings(of_the_node, console)
        findings += of_the_node
    problems = sum(finding.verdict is Verdict.PROBLEM for finding in findings)
    console.print(f"\n{problems} problems" if problems != 1 else "\n1 problem")
    if lines := site_lines(findings):
        console.print("\nfor conf/site/NAME.yaml, beside what is there (site@hydra.launcher=NAME):\n")
        console.print(lines, markup=False, highlight=False, soft_wrap=True)
    return not problems


def _on_the_login_node(intent: Intent) -> Iterator[Finding]:
    config = login.slurm_config()
    yield from login.check_slurm(config, intent.options)
    yield login.check_wckey(config, intent.options)
    yield from login.check_partition(intent.options)
    yield login.check_limits(intent.options)
    yield shared.check_flock(intent.runs)
    yield shared.check_clock(intent.runs)
    yield shared.check_space(intent.runs, intent.checkpoint_bytes)
    if intent.data is not None:
        yield ok("data", intent.data)
    else:
        yield note(
            "data", "not prepared", "`loopsweep data` with the same options and hydra/launcher=slurm prepares it"
        )
    yield from shared.check_network(intent.urls, "login node")


def _on_a_node(intent: Intent, console: Console, wait_minutes: float) -> Iterator[Finding]:
    folder = intent.sweeps.resolve() / ".doctor" / uuid.uuid4().hex[:8]
    folder.mkdir(parents=True)
    try:
        job_id = _submit(intent, folder)
    except UserError as error:
        yield problem("job", str(error), "see above")
        return
    console.print(f"job {job_id} checks a node", highlight=False)
    try:
        trouble = _wait(job_id, folder, intent.options.ranks, wait_minutes, console)
    finally:
        subprocess.run(["scancel", job_id], capture_output=True)
    for rank, findings in enumerate(_reports(folder, intent.options.ranks)):
        # Ranks check the same things. Of the others, only what differs from the first is shown.
        yield from (one for one in findings if rank == 0 or one.verdict is Verdict.PROBLEM)
    if (folder / RESUMED).exists():
        yield ok("requeue", "the job requeued itself after a warning and started again")
    elif trouble:
        yield problem("job", trouble, f"its log: {folder / 'jobs'}")
        return
    shutil.rmtree(folder)


def _submit(intent: Intent, folder: Path) -> str:
    import submitit

    options = replace(intent.options, time=JOB_MINUTES, warning_seconds=WARNING_SECONDS)
    check = NodeCheck(
        folder=str(folder),
        runs=str(intent.runs.resolve()),
        ranks=options.ranks,
        cpus=options.cpus_per_task,
        gpus=options.gpus_per_node,
        checkpoint_bytes=intent.checkpoint_bytes,
        warning_seconds=intent.options.warning_seconds,
        urls=dict(intent.urls),
    )
    code = take_snapshot(folder.parent / "code")
    folders = [path.resolve() for path in (intent.runs, intent.sweeps)]
    executor = submitit.SlurmExecutor(folder=folder / "jobs", python=python_command(code, options, folders))
    executor.update_parameters(**options.sbatch_parameters("loopsweep-doctor", code, folders))
    with refusals_in_one_line():
        return str(executor.submit(check.run).job_id)


def _wait(job_id: str, folder: Path, ranks: int, wait_minutes: float, console: Console) -> str:
    """Wait until the job has been restarted. Returns why it was not, or the empty string."""
    state, asked, end = "", -SQUEUE_SECONDS, time.monotonic() + 60 * wait_minutes
    while not (folder / RESUMED).exists():
        if time.monotonic() - asked >= SQUEUE_SECONDS:
            asked, before = time.monotonic(), state
            state = _state(job_id)
            if state != before:
                console.print(f"job {job_id}: {state or 'ended'}", highlight=False)
            if not state.startswith(("PENDING", "RUNNING", "CONFIGURING", "COMPLETING", "REQUEUED")):
                said = last_words(folder / "jobs" / f"{job_id}_0_log.out")
                return "" if _stopped_by_itself(folder, ranks) else f"ended {state} before it had checked all: {said}"
        if time.monotonic() > end:
            return f"was still {state or 'unknown'} after {wait_minutes:g} minutes, and was cancelled"
        time.sleep(POLL_SECONDS)
    return ""


def _stopped_by_itself(folder: Path, ranks: int) -> bool:
    """Whether the job found a problem that kept it from requeueing itself; it is among the findings."""
    found = [one for findings in _reports(folder, ranks) for one in findings]
    return any(one.check in ("requeue", "warning") and one.verdict is Verdict.PROBLEM for one in found)


def _state(job_id: str) -> str:
    done = subprocess.run(["squeue", "-h", "-j", job_id, "-t", "all", "-o", "%T %r"], capture_output=True, text=True)
    return done.stdout.strip().removesuffix(" None")


def _reports(folder: Path, ranks: int) -> list[list[Finding]]:
    """The findings of every rank that has written some."""
    paths = [folder / f"node-{rank}.json" for rank in range(ranks)]
    return [
        [Finding.from_dict(values) for values in json.loads(path.read_text())["findings"]]
        for path in paths
        if path.exists()
    ]
