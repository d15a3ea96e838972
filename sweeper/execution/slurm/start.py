"""Start a job's Python: with SLURM's warning blocked, and from a copy of the environment on the node, if asked for.

    python -IS start.py [--stage DIRECTORY PREFIX NAME] PYTHON ARGUMENT…

Runs before anything of the environment is imported, so it needs the standard library alone.

USR2 would kill a Python that starts. Here it is blocked until the job's supervisor has a handler for it: then it is
pending, not lost. `env --block-signal` does the same, but only since coreutils 8.31.
"""

import fcntl
import os
import shutil
import signal
import sys
from pathlib import Path


def main(arguments: list[str]) -> None:
    """Replace this process by PYTHON."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    signal.signal(signal.SIGUSR2, signal.SIG_DFL)
    if arguments[0] == "--stage":
        directory, prefix, name, python, *rest = arguments[1:]
        python = staged_python(Path(os.path.expandvars(directory)), Path(prefix), name, python)
    else:
        python, *rest = arguments
    os.execv(python, [python, *rest])


def staged_python(directory: Path, prefix: Path, name: str, python: str) -> str:
    """The Python of a copy of the environment, which the first task on a node makes.

    Args:
        directory: on a disk of the node.
        prefix: of the environment.
        name: of the copy, other for another content.
        python: the environment's own, which is used if there can be no copy.
    """
    copy = directory / name
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with (directory / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not copy.exists():
                half = directory / f"{name}.half"  # of a task that was killed
                shutil.rmtree(half, ignore_errors=True)
                shutil.copytree(prefix, half, symlinks=True)
                half.rename(copy)
    except (OSError, shutil.Error) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "files could not be copied"
        print(f"no copy of {prefix} in {directory} ({reason}); using it where it is", file=sys.stderr, flush=True)
        return python
    return str(copy / Path(python).relative_to(prefix))


if __name__ == "__main__":
    main(sys.argv[1:])
