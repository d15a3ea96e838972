"""`loopsweep`: plan and submit sweeps, and look after them, from one command."""

import argparse
import sys
from pathlib import Path

from sweeper.cli.options import count, positive
from sweeper.errors import UserError
from sweeper.files import check_writable, check_writable_file

DATA_COMMAND = "prepare a preset's data, here or on a cluster; what is prepared is not prepared again"
GRID_COMMANDS = {
    "plan": "show a grid, what of it is done and what the rest will cost; writes nothing",
    "submit": "carry out a grid, here or on a cluster; finished runs are not run again",
}
SWEEP_COMMANDS = {
    "status": "one row per cell of a sweep's grid",
    "watch": "status, again and again, until nothing moves",
    "retry": "submit failed, lost and timed-out runs again",
    "cancel": "cancel a sweep's SLURM jobs; results and checkpoints stay",
    "logs": "the last lines of what runs and their jobs printed",
    "export": "write a sweep's cells, curves and read-outs as parquet",
}


def main(argv: list[str] | None = None) -> None:
    """Entry point of `loopsweep` and `python -m sweeper`."""
    arguments = _parser().parse_args(argv)
    try:
        if arguments.command in GRID_COMMANDS:
            _multirun(arguments.command, arguments.overrides)
        elif arguments.command == "data":
            from sweeper.cli.data_command import prepare

            prepare(arguments.overrides)
        else:
            _on_sweep(arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
    except KeyboardInterrupt:
        sys.exit(130)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="loopsweep", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in GRID_COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("overrides", nargs="+", help="Hydra overrides, such as +sweep=lr_transfer preset=quick")
    command = commands.add_parser("data", help=DATA_COMMAND, description=DATA_COMMAND)
    command.add_argument("overrides", nargs="*", help="Hydra overrides, such as preset=gpu data.path=/data/fineweb-edu")
    for name, text in SWEEP_COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("sweep", nargs="?", help="name of the sweep (default: the newest)")
        command.add_argument("--runs", type=Path, default=Path("runs"), help="directory of runs")
        command.add_argument("--sweeps", type=Path, default=Path("sweeps"), help="directory of sweep manifests")
        match name:
            case "watch":
                command.add_argument("--seconds", type=positive, default=10.0, help="between refreshes")
            case "retry":
                command.add_argument(
                    "--set", nargs="+", default=[], metavar="OPTION", help="SLURM options to change: mem=128G"
                )
                command.add_argument("--data", type=Path, default=Path("data"), help="directory of prepared data")
            case "logs":
                command.add_argument("--run", help="part of a run's name (default: all that need a look)")
                command.add_argument("--lines", type=count, default=20, help="of each log")
            case "export":
                command.add_argument(
                    "--out", type=Path, required=True, help="directory for all tables, or a .parquet file for the cells"
                )
                command.add_argument("--command", dest="made_by", help="that made the sweep, for provenance.json")
                mirror = command.add_mutually_exclusive_group()
                mirror.add_argument("--wandb", metavar="ENTITY/PROJECT[:GROUP]", help="from a wandb server, not runs")
                mirror.add_argument("--wandb-dir", type=Path, metavar="DIR", help="from wandb's offline files")
    return parser


def _multirun(command: str, overrides: list[str]) -> None:
    from sweeper import train

    plan_only = ["hydra.launcher.plan_only=true"] if command == "plan" else []
    sys.argv = ["loopsweep", "--multirun", *overrides, *plan_only]
    train.main()


def _on_sweep(arguments: argparse.Namespace) -> None:
    from sweeper.cli.commands import SweepCommands, export_mirrored

    if arguments.command == "export":
        check = check_writable_file if arguments.out.suffix == ".parquet" else check_writable
        check(f"--out {arguments.out}", arguments.out)
    if arguments.command == "export" and (arguments.wandb or arguments.wandb_dir):
        command = arguments.made_by or "unknown: read from wandb"
        export_mirrored(arguments.wandb, arguments.wandb_dir, arguments.sweep, arguments.out, command)
        return
    sweep = SweepCommands(arguments.sweeps, arguments.runs, arguments.sweep)
    match arguments.command:
        case "status":
            sweep.status()
        case "watch":
            sweep.watch(arguments.seconds)
        case "retry":
            sweep.retry(arguments.data, arguments.set)
        case "cancel":
            sweep.cancel()
        case "logs":
            sweep.logs(arguments.run, arguments.lines)
        case "export":
            sweep.export(arguments.out, arguments.made_by)


if __name__ == "__main__":
    main()
