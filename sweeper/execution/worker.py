"""A warm worker process: reads one task a line from standard input, reports one event a line.

    task    {"run": path of the run directory, "rank_info": fields of a `sweeper.training.distributed.RankInfo`}
    events  {"event": "ready"}
            {"event": "progress", "step": …, "steps": …, "loss": …, "tokens_per_second": …}
            {"event": "ended", "outcome": …, "reason": …}

It ends at the end of its input. SIGINT, SIGTERM and SIGUSR2 stop the run under way at its next step, with a
checkpoint; so does the death of the parent.
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
    """Serve tasks until standard input ends. First argument: the data directory."""
    data_root = Path(sys.argv[1])
    # Runs redirect standard output into their logs, and stray prints must not look like events.
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    stop = StopFlag()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, lambda *_: stop.set())

    def send(event: str, **fields: Any) -> None:
        try:
            channel.write(json.dumps({"event": event, **fields}) + "\n")
        except BrokenPipeError:  # nobody listens any more
            stop.set()

    from sweeper.execution.execute_run import execute_run

    for kind in KINDS.values():
        resolve_name(kind.runner)  # imports torch: this is what keeping workers warm saves
    send("ready")
    for line in sys.stdin:
        task = json.loads(line)
        outcome, reason = execute_run(
            Path(task["run"]), data_root, stop, lambda p: send("progress", **asdict(p)), RankInfo(**task["rank_info"])
        )
        send("ended", outcome=outcome, reason=reason)
    gc.freeze()  # else the interpreter looks at every object once more before it ends, for more than a second


if __name__ == "__main__":
    main()
