"""What one asks of a cluster: the options of conf/hydra/launcher/slurm.yaml, checked."""

import math
import re
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from sweeper.errors import UserError

TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<hours>\d+)(?::(?P<minutes>\d\d))?(?::(?P<seconds>\d\d))?")


@dataclass(frozen=True)
class SlurmOptions:
    """Resources of one job, and how many to submit. See conf/hydra/launcher/slurm.yaml for what each means.

    Raises:
        UserError: for a value that makes no sense; the message names the key.
    """

    max_gpu_hours: float
    yes: bool
    time: str | int
    nodes: int
    gpus_per_node: int
    cpus_per_gpu: int
    pack: int
    array_parallelism: int
    warning_seconds: int
    attempts: int
    setup: tuple[str, ...] = ()
    srun_args: tuple[str, ...] = ()
    extra: tuple[tuple[str, Any], ...] = ()
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    mem: str | None = None

    def __post_init__(self) -> None:
        least = {"nodes": 1, "gpus_per_node": 0, "cpus_per_gpu": 1, "pack": 1, "array_parallelism": 1, "attempts": 1}
        for name, minimum in {**least, "warning_seconds": 1}.items():
            value = getattr(self, name)
            if not isinstance(value, int) or value < minimum:
                raise UserError(f"hydra.launcher.{name}={value!r} must be a whole number of at least {minimum}")
        if self.pack > 1 and self.nodes > 1:
            raise UserError(
                f"hydra.launcher.pack={self.pack} with nodes={self.nodes}: runs are packed on one node; "
                "set nodes=1, or pack=1 to spread each run over all its nodes"
            )
        if self.warning_seconds >= 60 * self.minutes:
            raise UserError(
                f"hydra.launcher.warning_seconds={self.warning_seconds} is not below the time limit of "
                f"{self.minutes} minutes; raise time or lower it"
            )

    @classmethod
    def from_dict(cls, values: Mapping[Any, Any]) -> "SlurmOptions":
        """From plain values, as Hydra or a submission's record has them."""
        values = dict(values)
        unknown = sorted(set(values) - {field.name for field in fields(cls)})
        if unknown:
            known = ", ".join(field.name for field in fields(cls))
            raise UserError(f"hydra.launcher.{unknown[0]} is unknown; allowed: {known}; sbatch's own go into extra")
        for name in ("setup", "srun_args"):
            values[name] = tuple(str(line) for line in values.get(name) or ())
        extra = values.get("extra") or {}
        values["extra"] = tuple(sorted(dict(extra).items()))
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Plain values; inverse of `from_dict`."""
        lists = {"setup": list(self.setup), "srun_args": list(self.srun_args)}
        return {**asdict(self), **lists, "extra": dict(self.extra)}

    @property
    def minutes(self) -> int:
        """The time limit. Accepts minutes, HH:MM:SS, D-HH, D-HH:MM and D-HH:MM:SS, as sbatch does."""
        text = str(self.time)
        match = TIME.fullmatch(text)
        if match is None or (not match["days"] and match["minutes"] and not match["seconds"]):
            raise UserError(f"hydra.launcher.time={text}: give minutes, HH:MM:SS or D-HH:MM:SS")
        days, hours, minutes, seconds = (int(match[name] or 0) for name in ("days", "hours", "minutes", "seconds"))
        if not match["days"] and not match["minutes"]:
            return hours  # a bare number means minutes
        return math.ceil(((days * 24 + hours) * 60 + minutes) + seconds / 60)

    @property
    def ranks(self) -> int:
        """Processes that train one run together: one a GPU, all GPUs of the job, unless runs are packed."""
        return 1 if self.pack > 1 else self.nodes * max(1, self.gpus_per_node)

    def sbatch_parameters(self, job_name: str, code: str) -> dict[str, Any]:
        """Keywords for submitit.

        Args:
            job_name: name of the job array.
            code: directory of the snapshot to run.
        """
        tasks_per_node = self.ranks // self.nodes
        cpus_per_node = self.cpus_per_gpu * max(1, self.gpus_per_node)
        named = {name: getattr(self, name) for name in ("partition", "account", "qos", "constraint", "mem")}
        # A rank that fails for good takes the others down, who would wait for it.
        srun_args = (["--kill-on-bad-exit=1"] if self.ranks > 1 else []) + list(self.srun_args)
        return {
            **{name: value for name, value in named.items() if value is not None},
            "job_name": job_name,
            "time": self.minutes,
            "nodes": self.nodes,
            "ntasks_per_node": tasks_per_node,
            "cpus_per_task": max(1, cpus_per_node // tasks_per_node),
            **({"gpus_per_node": self.gpus_per_node} if self.gpus_per_node else {}),
            "array_parallelism": self.array_parallelism,
            "signal_delay_s": self.warning_seconds,
            # Last, so that nothing the site sets up comes before the snapshot on the import path.
            "setup": [*self.setup, f"cd {shlex.quote(code)}", 'export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"'],
            "srun_args": srun_args,
            "stderr_to_stdout": True,
            "additional_parameters": {"requeue": True, **dict(self.extra)},
        }
