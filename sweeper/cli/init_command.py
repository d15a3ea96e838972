"""`loopsweep init`: a file for the options of your cluster, in the working directory."""

import re
from pathlib import Path

from sweeper.config.register import CONFIG_DIR
from sweeper.errors import UserError
from sweeper.files import write_text

LAUNCHER = CONFIG_DIR / "hydra" / "launcher" / "slurm.yaml"
HEAD = """\
# Your cluster: take the # from what is different there. `loopsweep doctor {choice}` checks it.
# Used by: loopsweep submit +sweep=lr_transfer preset=paper hydra/launcher=slurm {choice}
"""


def init(name: str, folder: Path) -> None:
    """Write conf/site/NAME.yaml with every option of the SLURM launcher and its default, all commented out.

    Args:
        name: of the site.
        folder: where `loopsweep` is going to be called. It reads conf/ there beside its own.

    Raises:
        UserError: for a name that cannot be typed as an override, or if the file exists.
    """
    if not re.fullmatch(r"[A-Za-z][\w-]*", name, re.ASCII):
        raise UserError(f"--site {name}: a name must have letters, digits, - and _, and begin with a letter")
    file = folder / "conf" / "site" / f"{name}.yaml"
    if file.exists() or (CONFIG_DIR / "site" / file.name).exists():
        raise UserError(f"--site {name}: {file} exists already; edit it, or give another name")
    options = LAUNCHER.read_text(encoding="utf-8").partition("\n\n")[2].partition("\n")[2]
    lines = [f"# {line}" if line and not line.startswith("#") else line for line in options.splitlines()]
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, HEAD.format(choice=f"site@hydra.launcher={name}") + "\n" + "\n".join(lines) + "\n")
    print(f"wrote {file}; edit it, then: loopsweep doctor site@hydra.launcher={name}")
