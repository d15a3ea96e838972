"""Where runs are mirrored to; no part of what a run is."""

from dataclasses import dataclass

MODES = ("offline", "online", "off")


@dataclass(frozen=True)
class Tracking:
    """How a run is mirrored to wandb.

    Attributes:
        mode: "offline" (files, for `wandb sync`), "online" (a server; files where it does not answer) or "off".
        project: on the server.
        entity: its owner; None for the account's default.
        base_url: of the server.
        init_timeout: seconds for the server to answer when a run is opened.
        finish_timeout: seconds for the last uploads when it is closed.
    """

    mode: str = "off"
    project: str = "loopsweep"
    entity: str | None = None
    base_url: str = "https://api.wandb.ai"
    init_timeout: float = 10.0
    finish_timeout: float = 10.0
