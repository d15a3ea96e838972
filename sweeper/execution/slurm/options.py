"""What one asks of a cluster: the options of conf/hydra/launcher/slurm.yaml, checked."""

import math
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sweeper.config.checks import check_values
from sweeper.config.messages import in_one_line
from sweeper.config.rules import NAMED_VALUES, Count, CountOrZero, Line, NotNegative, Rule, at_least, at_most, matching
from sweeper.errors import UserError
from sweeper.execution.slurm.container import Container

PREFIX = "hydra.launcher."
# Minutes, HH:MM:SS, D-HH, D-HH:MM or D-HH:MM:SS. HH:MM is none of them: sbatch reads it as minutes and seconds.
TIME = r"(?!\d+:\d\d\Z)(?:(?P<days>\d+)-)?(?P<hours>\d+)(?::(?P<minutes>\d\d))?(?::(?P<seconds>\d\d))?"
TimeLimit = Annotated[str | int, matching(TIME, "minutes, HH:MM:SS or D-HH:MM:SS")]
Memory = Annotated[str, matching(r"\d+[KMGTkmgt]?", "megabytes, or a size such as 64G")]
OPTIONS_BY_PANEL = Rule(
    lambda panels: all(isinstance(options, dict) for options in panels.values()),
    "must be options of the launcher by panel, such as {d: {gpus_per_node: 8}}",
)
# Options by which each task sees its own GPU alone.
ISOLATING = re.compile(r"--(gpus-per-task|ntasks-per-gpu|gpu-bind=(?!none)|tres-bind=gres/gpu|tres-per-task=.*gpu)")
WarningSeconds = Annotated[int, at_least(1), at_most(65_535)]  # what sbatch takes


@dataclass
class SlurmOptions:
    """Resources of one job, and how many to submit. See conf/hydra/launcher/slurm.yaml for what each means.

    Raises:
        UserError: for a value that makes no sense; the message names the key.
    """

    max_gpu_hours: NotNegative = MISSING
    yes: bool = MISSING
    gpu: Line = "H100"
    check_gpu: bool = False
    time: TimeLimit = MISSING
    nodes: Count = MISSING
    gpus_per_node: CountOrZero = MISSING
    cpus_per_gpu: Count = MISSING
    pack: Count = MISSING
    array_parallelism: Count = MISSING
    jobs: Count | None = None
    follow_up: CountOrZero = 0
    fit: bool = False
    panels: Annotated[dict[str, Any], OPTIONS_BY_PANEL] = field(default_factory=dict)
    warning_seconds: WarningSeconds = MISSING
    attempts: Count = MISSING
    setup: list[Line] = field(default_factory=list)
    srun_args: list[Line] = field(default_factory=list)
    extra: Annotated[dict[str, Any], NAMED_VALUES] = field(default_factory=dict)
    partition: Line | None = None
    account: Line | None = None
    qos: Line | None = None
    constraint: Line | None = None
    mem: Memory | None = None
    stage: Line | None = None
    container: Container = field(default_factory=Container)

    def __post_init__(self) -> None:
        check_values(self, PREFIX)
        if self.pack > 1 and self.nodes > 1:
            raise UserError(
                f"hydra.launcher.pack={self.pack} with nodes={self.nodes}: runs are packed on one node; "
                "set nodes=1, or pack=1 to spread each run over all its nodes"
            )
        if self.container.kind is not None and self.container.image is None:
            raise UserError(f"hydra.launcher.container.kind={self.container.kind} needs hydra.launcher.container.image")
        if self.container.kind is not None and self.stage is not None:
            raise UserError(
                f"hydra.launcher.stage={self.stage} with a container, which has its own environment; leave out stage"
            )
        if self.jobs is not None and (self.fit or self.panels):
            raise UserError(f"hydra.launcher.jobs={self.jobs} with fit or panels: jobs that claim runs are all alike")
        self._check_peer_access()
        if self.warning_seconds >= 60 * self.minutes:
            raise UserError(
                f"hydra.launcher.warning_seconds={self.warning_seconds} is not below the time limit of "
                f"{self.minutes} minutes; raise time or lower it"
            )

    def _check_peer_access(self) -> None:
        """The ranks of a run copy from GPU to GPU, which SLURM prevents if it gives each task a GPU of its own."""
        given = [("srun_args", argument) for argument in self.srun_args]
        given += [("extra", f"--{name.replace('_', '-')}={value}") for name, value in self.extra.items()]
        for key, option in given:
            if self.ranks > 1 and ISOLATING.match(option):
                raise UserError(
                    f"hydra.launcher.{key}: {option.lstrip('-')} hides the GPUs of a run from each other, so that its "
                    f"{self.ranks} ranks cannot copy between them; leave it out, gpus_per_node is enough"
                )

    @classmethod
    def from_dict(cls, values: Mapping[Any, Any]) -> "SlurmOptions":
        """From plain values, as a submission's record has them; checked as Hydra checks those of a command line."""
        launcher = OmegaConf.create({"hydra": {"launcher": OmegaConf.structured(SlurmOptions)}})
        try:
            launcher.merge_with({"hydra": {"launcher": dict(values)}})
            options = OmegaConf.to_object(launcher.hydra.launcher)
        except OmegaConfBaseException as error:
            raise UserError(in_one_line(error)) from error
        assert isinstance(options, SlurmOptions)
        return options

    def to_dict(self) -> dict[str, Any]:
        """Plain values; inverse of `from_dict`."""
        values = {field.name: getattr(self, field.name) for field in fields(SlurmOptions)}
        return values | {"container": asdict(self.container)}

    @property
    def minutes(self) -> int:
        """The time limit. Accepts minutes, HH:MM:SS, D-HH, D-HH:MM and D-HH:MM:SS, as sbatch does."""
        match = re.fullmatch(TIME, str(self.time))
        assert match is not None  # checked when the options were made
        days, hours, minutes, seconds = (int(match[name] or 0) for name in ("days", "hours", "minutes", "seconds"))
        if not match["days"] and not match["minutes"]:
            return hours  # a bare number means minutes
        return math.ceil(((days * 24 + hours) * 60 + minutes) + seconds / 60)

    @property
    def ranks(self) -> int:
        """Processes that train one run together: one a GPU, all GPUs of the job, unless runs are packed."""
        return 1 if self.pack > 1 else self.nodes * max(1, self.gpus_per_node)

    @property
    def cpus_per_task(self) -> int:
        """Cores of each rank, or of all packed runs together."""
        return max(1, self.cpus_per_gpu * max(1, self.gpus_per_node) // (self.ranks // self.nodes))

    def sbatch_parameters(self, job_name: str, code: Path, folders: Sequence[Path] = ()) -> dict[str, Any]:
        """Keywords for submitit.

        Args:
            job_name: name of the job array.
            code: directory of the snapshot to run.
            folders: directories that a container needs.
        """
        here = shlex.quote(str(code.resolve()))
        named = {name: getattr(self, name) for name in ("partition", "account", "qos", "constraint", "mem")}
        # A rank that fails for good takes the others down, who would wait for it.
        # null or false takes out an option. submitit's own workload key is one, which some sites refuse.
        extra = {name: value for name, value in self.extra.items() if value is not None and value is not False}
        srun_args = ["--kill-on-bad-exit=1"] * (self.ranks > 1) + self.srun_args
        srun_args += self.container.srun_args(folders, code.resolve())
        return {
            **{name: value for name, value in named.items() if value is not None},
            "job_name": job_name,
            "time": self.minutes,
            "nodes": self.nodes,
            "ntasks_per_node": self.ranks // self.nodes,
            "cpus_per_task": self.cpus_per_task,
            **({"gpus_per_node": self.gpus_per_node} if self.gpus_per_node else {}),
            "array_parallelism": self.array_parallelism,
            "signal_delay_s": self.warning_seconds,
            # Last, so that nothing the site sets up comes before the snapshot on the import path.
            "setup": [
                *self.container.setup(code.resolve().parent),
                *self.setup,
                f"cd {here}",
                'export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"',
            ],
            "srun_args": srun_args,
            "teardown": self.container.teardown(),
            "stderr_to_stdout": True,
            "wckey": None,
            "additional_parameters": {"requeue": True, **extra},
        }
