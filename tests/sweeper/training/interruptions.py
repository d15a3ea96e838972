"""Ways to end a training before its last step."""

from sweeper.run.stop import StopFlag


class StopAfter(StopFlag):
    """Set after `steps` checks. The training loop checks it before every step."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.left = steps

    def is_set(self) -> bool:
        self.left -= 1
        return self.left < 0


class DiesAt:
    """Data that raises where step `step` begins, as if the process had been killed there."""

    def __init__(self, data, step: int) -> None:
        self._data, self._step, self.manifest = data, step, data.manifest

    def sequences(self, first: int, count: int, seq_len: int, seed: int):
        if first >= self._step * count:
            raise KeyboardInterrupt
        return self._data.sequences(first, count, seq_len, seed)

    def validation(self, *args: int):
        return self._data.validation(*args)
