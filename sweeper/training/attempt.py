"""What a runner gets: one run to execute in this process (`sweeper.run.spec.RunKind.runner`)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from sweeper.records.run_dir import RunDir
from sweeper.run.base import Run
from sweeper.run.execution import Execution
from sweeper.run.progress import Reporter
from sweeper.run.stop import StopFlag
from sweeper.training.distributed import RankInfo

R = TypeVar("R", bound=Run)


@dataclass(frozen=True)
class Attempt(Generic[R]):
    """One attempt at a run.

    Attributes:
        rundir: the run's directory; metrics, checkpoints and read-outs are written here.
        config: what to compute.
        execution: how.
        stop: once set, the runner finishes the step under way, leaves what it needs to resume, and returns None.
        report: to be called with progress.
        data_root: directory of prepared data.
        rank_info: of this process among those that share the run.
    """

    rundir: RunDir
    config: R
    execution: Execution
    stop: StopFlag
    report: Reporter
    data_root: Path
    rank_info: RankInfo
