"""Stopping a run by signals."""

import subprocess
import sys


def test_a_signal_may_interrupt_the_handler_of_another(repository) -> None:
    """As SLURM's USR2 and the pool's SIGTERM do; `threading.Event` hangs here."""
    code = """
import random, signal
from sweeper.run.stop import StopFlag
stop = StopFlag()
signal.signal(signal.SIGALRM, lambda *_: stop.set())
delay = random.Random(0)
for _ in range(10_000):
    # One alarm at a time, some of which arrive in the middle of what follows: handlers never pile up.
    signal.setitimer(signal.ITIMER_REAL, delay.uniform(1e-6, 1e-4))
    while signal.getitimer(signal.ITIMER_REAL)[0]:
        stop.set()
assert stop.is_set()
"""
    subprocess.run([sys.executable, "-c", code], cwd=repository, check=True, timeout=60)
