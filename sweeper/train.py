"""Train one run or a grid: `python -m sweeper.train [--multirun] [+sweep=NAME] [preset=NAME] [key=value …]`."""

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import hydra
from omegaconf import DictConfig

from sweeper.config.messages import composing
from sweeper.config.register import CONFIG_DIR, register
from sweeper.errors import UserError
from sweeper.files import not_permitted

register()


@hydra.main(version_base="1.3", config_path=str(CONFIG_DIR), config_name="config")
def train(config: DictConfig) -> None:
    """Train the one run that `config` describes, in this process."""
    try:
        with composing():
            _train_one(config)
    except UserError as error:
        sys.exit(_exit_with(error))  # from here, because Hydra prints a line of its own about errors of a task


def _train_one(config: DictConfig) -> None:
    from sweeper.config.checks import check_data, check_machine, check_paths, fitted
    from sweeper.config.resolve import data_spec, depth_warning, resolve
    from sweeper.data import find_data, prepare_data
    from sweeper.execution.execute_run import execute_run
    from sweeper.records.run_dir import RunDir
    from sweeper.run.outcome import Outcome
    from sweeper.run.stop import StopFlag

    roots = {name: Path(str(config.paths[name])) for name in ("runs", "data")}
    run = resolve(config, "unprepared")
    if warning := depth_warning(run.axes):
        print(f"warning: {warning}", file=sys.stderr)
    check_machine(run.config, run.execution)
    check_paths(config, "runs")
    if find_data(data_spec(config), roots["data"]) is None:
        check_paths(config, "data")
    manifest = prepare_data(data_spec(config), roots["data"], print)
    run = replace(run, config=fitted(run.config, manifest)).on_data(manifest.hash)
    check_data(run.config, manifest)
    rundir = RunDir(roots["runs"] / run.config.run_id)
    labels = {"rule": run.axes["rule"], "preset": str(config.preset), "panels": [run.axes["panel"]]}
    rundir.write_config(run.config, run.execution, labels)
    stop = StopFlag()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, lambda *_: stop.set())
    terminal = os.fdopen(os.dup(1), "w", buffering=1)  # standard output goes to the run's log meanwhile
    outcome, reason = execute_run(
        rundir.path,
        roots["data"],
        stop,
        lambda p: print(
            f"step {p.step}/{p.steps}  loss {p.loss:.4f}  {p.tokens_per_second:,.0f} tokens/s", file=terminal
        ),
    )
    if outcome in (Outcome.ERROR, Outcome.INVALID, Outcome.LOCKED, Outcome.STOPPED):
        raise UserError(f"{rundir.path}: {outcome}: {reason}")
    result = rundir.result()
    assert result is not None
    print(f"{rundir.path}: {outcome} {reason} val_loss {result['val_loss']}")


def main() -> None:
    """Entry point. An error that the user can fix is one line and exit status 2."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # let errors through to us instead of Hydra's own report
    try:
        with composing():
            train()
    except UserError as error:
        sys.exit(_exit_with(error))
    except PermissionError as error:
        sys.exit(_exit_with(not_permitted(error)))


def _exit_with(error: UserError) -> int:
    print(f"error: {error}", file=sys.stderr)
    return error.exit_status


if __name__ == "__main__":
    main()
