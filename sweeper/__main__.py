"""`loopsweep`: plan, submit and look at sweeps from one command."""

import argparse
import sys
from pathlib import Path

from sweeper.errors import UserError


def main(argv: list[str] | None = None) -> None:
    """Entry point of `loopsweep` and `python -m sweeper`."""
    parser = argparse.ArgumentParser(prog="loopsweep", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("plan", "show a grid, what of it is done and what the rest will cost; writes nothing"),
        ("submit", "carry out a grid; finished runs are not run again"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("overrides", nargs="+", help="Hydra overrides, such as +sweep=lr_transfer preset=quick")
    status = commands.add_parser("status", help="one row per cell of a sweep's grid")
    export = commands.add_parser("export", help="write a sweep's cells as parquet")
    for command in (status, export):
        command.add_argument("sweep", nargs="?", help="name of the sweep (default: the newest)")
        command.add_argument("--runs", type=Path, default=Path("runs"), help="directory of runs")
        command.add_argument("--sweeps", type=Path, default=Path("sweeps"), help="directory of sweep manifests")
    export.add_argument("--out", type=Path, required=True, help="parquet file to write")
    arguments = parser.parse_args(argv)
    try:
        if arguments.command in ("plan", "submit"):
            _multirun(arguments.command, arguments.overrides)
        else:
            _table(arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_status)


def _multirun(command: str, overrides: list[str]) -> None:
    from sweeper import train

    plan_only = ["hydra.launcher.plan_only=true"] if command == "plan" else []
    sys.argv = ["loopsweep", "--multirun", *overrides, *plan_only]
    train.main()


def _table(arguments: argparse.Namespace) -> None:
    from sweeper.records import sweep_table

    table = sweep_table(_manifest(arguments.sweeps, arguments.sweep), arguments.runs)
    if arguments.command == "export":
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        table.to_parquet(arguments.out, index=False)
        print(f"wrote {len(table)} cells to {arguments.out}")
        return
    shown = table[["panel", "n_layers", "n_loops", "base_lr", "seed", "state", "step", "steps", "val_loss", "reason"]]
    print(shown.to_string(index=False, na_rep="-"))
    print(" · ".join(f"{count} {state}" for state, count in table["state"].value_counts().items()))


def _manifest(sweeps: Path, name: str | None) -> Path:
    if name is not None:
        return sweeps / f"{name}.json"
    manifests = sorted(sweeps.glob("*.json"), key=lambda path: path.stat().st_mtime)
    if not manifests:
        raise UserError(f"no sweep in {sweeps}; submit one: make sweep-lr-transfer")
    return manifests[-1]


if __name__ == "__main__":
    main()
