"""Figures as media of the sweep they show."""

from collections.abc import Callable, Mapping
from pathlib import Path

from sweeper.errors import UserError
from sweeper.run.execution import Tracking
from sweeper.tracking.tables import default_base_url


def log_figures(sweep: str, target: str, images: Mapping[str, Path], root: Path, warn: Callable[[str], None]) -> None:
    """Log images to the entry of `sweep`, where its manifest is.

    Args:
        sweep: its name.
        target: "entity/project" on the server; "" for offline files.
        images: PNG files by the name they get.
        root: directory in which wandb makes its own.
        warn: told where they went instead, if the server does not take them.

    Raises:
        UserError: if the target is not one, or nothing can be written.
    """
    from sweeper.tracking.wandb_run import Entry, Session, wandb_id

    entity, slash, project = target.partition("/")
    if target and not (entity and slash and project):
        raise UserError(f"--log-wandb {target}: give entity/project, or nothing for offline files")
    tracking = Tracking("offline")
    if target:
        tracking = Tracking("online", project, entity, default_base_url())
    name = wandb_id(sweep)
    entry = Entry(name, f"sweep {sweep}", "sweep", name)
    try:
        session = Session(tracking, root.resolve(), entry, warn)
        for key, file in images.items():
            session.log_image(key, file)
        session.close(finished=True)
    except Exception as error:  # the client raises many kinds
        raise UserError(f"--log-wandb: the figure is drawn but not logged ({error})") from error
