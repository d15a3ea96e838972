"""A warm worker process: reads one task per line from standard input, writes one event per line.

    task    {"run": path of the run directory, "rank_info": fields of a `sweeper.training.distributed.RankInfo`}
    events  {"event": "ready"}
            {"event": "progress", "step": …, "steps": …, "loss": …, "tokens_per_second": …}
            {"event": "ended", "outcome": …, "reason": …}

It exits at the end of its input. SIGINT, SIGTERM, SIGUSR2 and the death of the parent stop the current run at its next
step, with a checkpoint.
"""

import gc
import json
import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from sweeper.run.spec import KINDS
from sweeper.run.stop import StopFlag
from sweeper.training.distributed import RankInfo


def main() -> None:
    """Run tasks until standard input ends. The first argument is the data directory."""
    data_root = Path(sys.argv[1])
    # Runs redirect standard output into their logs, and other prints must not look like events.
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    stop = StopFlag()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, lambda *_: stop.set())

    def send(event: str, **fields: Any) -> None:
        try:
            channel.write(json.dumps({"event": event, **fields}) + "\n")
        except BrokenPipeError:  # the pool is gone
            stop.set()

    from sweeper.execution.execute_run import execute_run

    for kind in KINDS.values():
        resolve_name(kind.runner)  # imports torch, which a warm worker does only once
    send("ready")
    for line in sys.stdin:
        task = json.loads(line)
        outcome, reason = execute_run(
            Path(task["run"]), data_root, stop, lambda p: send("progress", **asdict(p)), RankInfo(**task["rank_info"])
        )
        send("ended", outcome=outcome, reason=reason)
    gc.freeze()  # otherwise the interpreter's exit scans every object, which takes more than a second


if __name__ == "__main__":
    main()
