"""Stopping a run by signals."""

import subprocess
import sys


def test_a_signal_may_interrupt_the_handler_of_another(repository) -> None:
    """As SLURM's USR2 and the pool's SIGTERM do; `threading.Event` hangs here."""
    code = """
import signal, time
from sweeper.stop import Stop
stop = Stop()
signal.signal(signal.SIGALRM, lambda *_: stop.set())
signal.setitimer(signal.ITIMER_REAL, 1e-5, 1e-5)
end = time.monotonic() + 1
while time.monotonic() < end:
    stop.set()
signal.setitimer(signal.ITIMER_REAL, 0)
assert stop.is_set()
"""
    subprocess.run([sys.executable, "-c", code], cwd=repository, check=True, timeout=60)
