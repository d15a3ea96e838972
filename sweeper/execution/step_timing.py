"""Measure step times on this machine, for plans of sweeps that have no finished run to learn from yet.

As a script (`python -m sweeper.execution.step_timing`, a frozen configuration on standard input) it times optimizer
steps at a few loop counts on random tokens and prints JSON. As many copies as the sweep has workers run side by side,
because that is how the sweep will run.
"""

import contextlib
import hashlib
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

from sweeper.errors import UserError
from sweeper.execution.worker_pool import worker_environment
from sweeper.files import read_json, write_json
from sweeper.grid.plan import StepTimes
from sweeper.records.provenance import provenance
from sweeper.run.execution import Execution
from sweeper.run.spec import RunConfig

LOOPS = (1, 2, 8)  # of the timed models, which have one layer
MIN_STEPS, SECONDS_EACH = 5, 3.0


def cache_file() -> Path:
    """Where measured times are kept: in the user's cache, because a plan writes nothing beside runs and sweeps."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "loopsweep" / "step-times.json"


def measured_step_times(run: RunConfig, execution: Execution, workers: int, cache: Path) -> StepTimes:
    """Step times of the run's shape with `workers` processes side by side; measured once per machine and shape.

    Args:
        run: any run of the sweep; its depth, loops, ε, rate and seed do not matter.
        execution: of the sweep.
        workers: processes to time together.
        cache: JSON file of earlier measurements. If it cannot be read or written, nothing is kept.

    Raises:
        UserError: if a timing process fails.
    """
    config = replace(run, model=replace(run.model, n_layers=1, n_loops=1, residual_scale=1.0))
    request = json.dumps({"run": config.to_dict(), "execution": asdict(execution)})
    shape = [
        asdict(config.model),
        config.batch_sequences,
        config.seq_len,
        config.precision,
        asdict(execution),
        workers,
        provenance()["processor"],
    ]
    key = hashlib.sha256(json.dumps(shape).encode()).hexdigest()[:16]
    known = _cached(cache)
    if key not in known:
        environment = worker_environment(execution.threads)
        command = [sys.executable, "-m", "sweeper.execution.step_timing"]
        children = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
            for _ in range(workers)
        ]
        for child in children:
            assert child.stdin is not None
            child.stdin.write(request)
            child.stdin.close()
        outputs = [child.stdout.read() for child in children if child.stdout is not None]
        if failed := [child.returncode for child in children if child.wait()]:
            raise UserError(
                f"timing a few steps failed: a process ended with status {failed[0]}; "
                "try fewer processes, hydra.launcher.workers=1"
            )
        known[key] = [pair for output in outputs for pair in json.loads(output)]
        with contextlib.suppress(OSError, UserError):
            cache.parent.mkdir(parents=True, exist_ok=True)
            write_json(cache, known)
    return StepTimes([(applications, seconds) for applications, seconds in known[key]])


def _cached(cache: Path) -> dict[str, Any]:
    try:
        known = read_json(cache)
    except (OSError, UserError):
        known = None
    return known if isinstance(known, dict) else {}


def main() -> None:
    """Time the configuration on standard input; print [[loops, median seconds of a step], …]."""
    from types import SimpleNamespace

    import torch

    from sweeper.records.run_dir import RunDir
    from sweeper.training.trainer import Trainer

    request: dict[str, Any] = json.load(sys.stdin)
    config, execution = RunConfig.from_dict(request["run"]), Execution.from_dict(request["execution"])
    generator = torch.Generator().manual_seed(0)
    shape = (config.batch_sequences, config.seq_len + 1)
    rows = torch.randint(config.model.vocab_size, shape, generator=generator).numpy()
    tokens = SimpleNamespace(manifest=SimpleNamespace(vocab_size=config.model.vocab_size), sequences=lambda *_: rows)
    measured = []
    for loops in LOOPS:
        timed = replace(config, model=replace(config.model, n_loops=loops))
        trainer = Trainer(RunDir(Path()), timed, execution, cast(Any, tokens))
        trainer.warm_up()
        trainer.train_step()
        seconds: list[float] = []
        while len(seconds) < MIN_STEPS or sum(seconds) < SECONDS_EACH:
            began = time.perf_counter()
            trainer.train_step()
            seconds.append(time.perf_counter() - began)
        measured.append((loops, statistics.median(seconds)))
    print(json.dumps(measured))


if __name__ == "__main__":
    main()
