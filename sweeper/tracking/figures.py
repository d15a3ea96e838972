"""Log figures as media of their sweep."""

from collections.abc import Callable, Mapping
from pathlib import Path

from sweeper.errors import UserError
from sweeper.run.execution import Tracking
from sweeper.tracking.tables import default_base_url


def log_figures(sweep: str, target: str, images: Mapping[str, Path], root: Path, warn: Callable[[str], None]) -> None:
    """Log images to the wandb entry of `sweep`, which has its manifest.

    Args:
        sweep: name of the sweep.
        target: "entity/project" on the server; "" for offline files.
        images: PNG files by their name in wandb.
        root: directory in which wandb makes its directory.
        warn: called with one line if the images go to files because the server does not accept them.

    Raises:
        UserError: if the target is malformed, or nothing can be written.
    """
    from sweeper.tracking.wandb_run import Entry, WandbRun, wandb_id

    entity, slash, project = target.partition("/")
    if target and not (entity and slash and project):
        raise UserError(f"--log-wandb {target}: give entity/project, or nothing for offline files")
    tracking = Tracking("offline")
    if target:
        tracking = Tracking("online", project, entity, default_base_url())
    name = wandb_id(sweep)
    entry = Entry(name, f"sweep {sweep}", "sweep", name)
    try:
        wandb_run = WandbRun(tracking, root.resolve(), entry, warn)
        for key, file in images.items():
            wandb_run.log_image(key, file)
        wandb_run.close(finished=True)
    except Exception as error:  # the client raises many kinds
        raise UserError(f"--log-wandb: the figure is drawn but not logged ({error})") from error
