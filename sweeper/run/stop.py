"""How a run is asked to end early."""


class StopFlag:
    """Set once, by a signal handler, another thread or the run itself; runs look at it after each step.

    A plain attribute on purpose: a second signal may interrupt the handler of the first, and `threading.Event.set`
    would then wait for a lock that its own thread holds. SLURM and our pool do send signals in pairs.
    """

    def __init__(self) -> None:
        self._set = False

    def set(self) -> None:
        """Ask."""
        self._set = True

    def is_set(self) -> bool:
        """Whether somebody asked."""
        return self._set
