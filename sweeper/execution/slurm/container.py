"""Jobs in containers: the command lines of Apptainer, pyxis (enroot) and Charliecloud.

Only the tasks of a job are in the container. The batch script is on the host. There is no scontrol in a container, so a
job that is to be requeued writes a file, and the batch script requeues it.
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from sweeper.config.rules import Line, one_of

KINDS = ("apptainer", "pyxis", "charliecloud")
REQUEUE_FILE = "LOOPSWEEP_REQUEUE_FILE"  # variable of the environment; set in the jobs of containers
SHARED = Path("/tmp")  # which Charliecloud shares with the host, and in which it mounts nothing


@dataclass
class Container:
    """The container of a job's tasks. See conf/hydra/launcher/slurm.yaml."""

    kind: Annotated[str | None, one_of(KINDS)] = None
    image: Line | None = None
    mounts: list[Line] = field(default_factory=list)
    python: Line = "python3"

    def command(self, folders: Sequence[Path], workdir: Path, *, gpus: bool) -> list[str]:
        """The words before the command that runs inside. Empty for pyxis, which is a plugin of srun.

        Args:
            folders: directories that the command needs, mounted where they are on the host.
            workdir: where it starts, in one of these.
            gpus: whether it needs the host's driver.
        """
        mounts, image = self._mounts(folders), str(self.image)
        match self.kind:
            case "apptainer":
                binds = ["--bind", ",".join(mounts)]
                return ["apptainer", "exec", *["--nv"] * gpus, "--pwd", str(workdir), *binds, image]
            case "charliecloud":
                # Binds below /tmp are not possible, and not needed.
                mounts = [mount for mount in mounts if not Path(mount.partition(":")[2]).is_relative_to(SHARED)]
                return ["ch-run", f"--cd={workdir}", *(f"--bind={mount}" for mount in mounts), image, "--"]
        return []

    def srun_args(self, folders: Sequence[Path], workdir: Path) -> list[str]:
        """Options of srun; none but for pyxis."""
        if self.kind != "pyxis":
            return []
        mounts = ",".join(self._mounts(folders))
        return [f"--container-image={self.image}", f"--container-mounts={mounts}", f"--container-workdir={workdir}"]

    def setup(self, folder: Path) -> list[str]:
        """Lines of the batch script before srun.

        Args:
            folder: shared directory for the files by which jobs ask to be requeued.
        """
        name = f"{shlex.quote(str(folder))}/requeue-$SLURM_JOB_ID-${{SLURM_RESTART_COUNT:-0}}"
        # Charliecloud does not start without $USER, which a job may lack.
        return [f"export {REQUEUE_FILE}={name}", 'export USER="${USER:-$(id -un)}"'] if self.kind else []

    def teardown(self) -> list[str]:
        """Lines of the batch script after srun. Its exit status stays that of srun."""
        if self.kind is None:
            return []
        # The number in SLURM_JOB_ID is that of the whole array in its last element.
        job = '"${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}"'
        return ["status=$?", f'[ ! -e "${REQUEUE_FILE}" ] || scontrol requeue {job}', "exit $status"]

    def _mounts(self, folders: Sequence[Path]) -> list[str]:
        here = [f"{path}:{path}" for path in dict.fromkeys(map(str, folders))]
        return [*here, *(mount if ":" in mount else f"{mount}:{mount}" for mount in self.mounts)]
