"""`loopsweep`: plan and submit sweeps, and look after them, from one command."""

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

from sweeper.cli.options import count, port, positive, seconds
from sweeper.errors import SweepIncomplete, UserError
from sweeper.files import check_writable, check_writable_file, not_permitted
from sweeper.records.sweep_manifest import sweeps_beside

NEEDED_TO_TRAIN = (
    "datasets",
    "hydra",
    "huggingface_hub",
    "omegaconf",
    "submitit",
    "tiktoken",
    "tokenizers",
    "torch",
    "wandb",
)
THEN = (
    "command to run when the sweep has ended or is queued, such as 'python analysis/plot_fig5.py'. It gets --runs, "
    "--sweeps and --sweep of this sweep. May be given several times"
)
OUT = "a directory for all tables, a .parquet file for the cells, or a .tar file for the finished runs themselves"
RETRY = "submit runs again whose jobs were cancelled, preempted or out of time; not those that fail by themselves"
NOTIFY = 'gets one line at the first trouble and one at the end: a shell command in $LINE, a URL as {"text": line}'
MODEL = "write the weights of this run (its id or the beginning of it) instead of tables; --out is then the folder"
KEEP = "what stays: the final weights without the optimizer's state, or nothing; results and metrics always stay"
DATA_COMMAND = "prepare a preset's data, here or on a cluster; what is prepared is not prepared again"
DOCTOR_COMMAND = (
    "check a SLURM cluster for what a sweep needs, here and in one short job, and print what to write into conf/site; "
    "exit status 1 if there is a problem"
)
IMPORT_COMMAND = (
    "take finished runs from another machine, a colleague or shipped records; a run that is finished here too stays, "
    "and the difference of the two is reported"
)
WEB = "as a page with its figures and curves, on this machine alone; prints its address and how to reach it by ssh"
REFINE_COMMAND = (
    "the next runs of a learning-rate sweep that are worth their cost: shows which runs are expected to decide which "
    "open claim, and submits them to the same sweep"
)
BUDGET = "of all rounds: 2h (hours of runs, summed), 500gpuh (H100-hours by FLOPs) or 40runs (default: no limit)"
ARTIFACT = {
    "verify": "check shipped records against themselves, train some of their cells again here, and say pass or FAIL "
    "for each; exit status 1 if one fails",
    "checklist": "print what conferences ask about a search (runs, bounds, method of choosing, compute) as Markdown",
    "init": "write conf/site/NAME.yaml here, with every option of a SLURM cluster to take or leave",
}
GRID_COMMANDS = {
    "plan": "show a grid, what of it is done and what the rest will cost; writes nothing",
    "submit": "execute a grid, here or on a cluster; finished runs are not run again",
}
HOUSEKEEPING = {
    "list": "every sweep: its id, runs and states, the newest last",
    "du": "what the runs of sweeps take on the disk",
    "rename": "give a sweep another name",
    "rm": "delete a sweep and the runs that no other sweep uses, after asking",
}
SWEEP_COMMANDS = {
    "status": "one row per cell of a sweep's grid",
    "watch": "status, again and again, until nothing moves",
    "retry": "submit failed, lost and timed-out runs again, and release held jobs",
    "cancel": "cancel a sweep's SLURM jobs; results and checkpoints stay",
    "logs": "the last lines of what runs and their jobs printed",
    "export": "write a sweep's cells, curves and read-outs as parquet, or its finished runs as a tar for `import`",
    "prune": "delete checkpoints of a sweep's finished runs, after asking; says how much space that frees",
    "remove": "take cells out of a sweep; their runs stay on disk",
}


def main(argv: list[str] | None = None) -> None:
    """Entry point of `loopsweep` and `python -m sweeper`."""
    arguments = _parser().parse_args(argv)
    try:
        if arguments.command in GRID_COMMANDS:
            if status := _multirun(arguments):
                sys.exit(status)
        elif arguments.command == "doctor":
            from sweeper.cli.doctor_command import doctor

            if not doctor(arguments.overrides, job=not arguments.no_job, wait_minutes=arguments.wait):
                sys.exit(1)
        elif arguments.command == "data":
            from sweeper.cli.data_command import prepare

            prepare(arguments.overrides)
        elif arguments.command == "refine":
            _refine(arguments)
        elif arguments.command == "import":
            from sweeper.cli.import_command import import_command

            check_writable(f"--runs {arguments.runs}", arguments.runs)
            import_command(arguments.source, arguments.runs, arguments.sweeps or sweeps_beside(arguments.runs))
        elif arguments.command in HOUSEKEEPING:
            _keep_house(arguments)
        elif arguments.command in ARTIFACT:
            _check_artifact(arguments)
        else:
            _on_sweep(arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
    except PermissionError as error:
        print(f"error: {not_permitted(error)}", file=sys.stderr)
        sys.exit(UserError.exit_status)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in NEEDED_TO_TRAIN:
            raise
        print(f"error: this needs {error.name}: pip install 'loopsweep[train]'", file=sys.stderr)
        sys.exit(UserError.exit_status)
    except KeyboardInterrupt:
        sys.exit(130)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="loopsweep", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in GRID_COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("overrides", nargs="+", help="Hydra overrides, such as +sweep=lr_transfer preset=quick")
        if name == "submit":
            command.add_argument("--then", action="append", default=[], metavar="COMMAND", help=THEN)
    command = commands.add_parser("data", help=DATA_COMMAND, description=DATA_COMMAND)
    command.add_argument("overrides", nargs="*", help="Hydra overrides, such as preset=gpu data.path=/data/fineweb-edu")
    command = commands.add_parser("doctor", help=DOCTOR_COMMAND, description=DOCTOR_COMMAND)
    command.add_argument("overrides", nargs="*", help="Hydra overrides, such as preset=paper site@hydra.launcher=other")
    command.add_argument("--no-job", action="store_true", help="check only this machine; submit nothing")
    command.add_argument("--wait", type=positive, default=30.0, metavar="MINUTES", help="for the job (default: 30)")
    command = commands.add_parser("import", help=IMPORT_COMMAND, description=IMPORT_COMMAND)
    command.add_argument(
        "source", type=Path, help="a tar of `loopsweep export`, a directory of runs, or records such as results/quick"
    )
    _add_places(command)
    named = "name of the sweep, the beginning of it, or its id"
    for name, text in HOUSEKEEPING.items():
        command = commands.add_parser(name, help=text, description=text)
        if name in ("rename", "rm"):
            command.add_argument("sweep", help=named)
        if name == "du":
            command.add_argument("sweep", nargs="?", help=f"{named} (default: all)")
        if name == "rename":
            command.add_argument("to", metavar="NAME", help="the new name")
        if name == "rm":
            command.add_argument("--yes", action="store_true", help="do not ask")
        _add_places(command)
    command = commands.add_parser("refine", help=REFINE_COMMAND, description=REFINE_COMMAND)
    command.add_argument("sweep", nargs="?", help="name of the sweep, the beginning of it, or its id (default: newest)")
    command.add_argument("--sweep", dest="named", metavar="NAME", help="the same, as `submit --then` gives it")
    command.add_argument(
        "--set", nargs="+", default=[], metavar="OPTION", help="Hydra overrides to submit with: hydra/launcher=slurm"
    )
    command.add_argument("--budget", metavar="AMOUNT", help=BUDGET)
    command.add_argument("--until", choices=["verdicts"], help="round after round, until no claim needs another run")
    command.add_argument("--dry-run", action="store_true", help="show the round and submit nothing")
    _add_places(command)
    _add_artifact_commands(commands)
    for name, text in SWEEP_COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text)
        if name == "remove":
            command.add_argument("sweep", help=named)
            command.add_argument("conditions", nargs="+", metavar="KEY=VALUE", help="which cells, such as n_loops=16")
        elif name == "prune":
            command.add_argument("sweep", help=named)
        else:
            command.add_argument("sweep", nargs="?", help=f"{named} (default: the newest)")
        _add_places(command)
        match name:
            case "remove":
                command.add_argument("--yes", action="store_true", help="do not ask")
            case "prune":
                command.add_argument("--keep", choices=["weights", "nothing"], required=True, help=KEEP)
                command.add_argument("--yes", action="store_true", help="do not ask")
            case "watch":
                command.add_argument("--seconds", type=seconds, default=10.0, help="between refreshes")
                command.add_argument("--web", action="store_true", help=WEB)
                command.add_argument("--port", type=port, default=0, help="of --web (default: a free one)")
                command.add_argument("--retry", action="store_true", help=RETRY)
                command.add_argument("--notify", metavar="COMMAND|URL", help=NOTIFY)
                command.add_argument("--data", type=Path, default=Path("data"), help="directory of prepared data")
            case "retry":
                command.add_argument(
                    "--set", nargs="+", default=[], metavar="OPTION", help="SLURM options to change: mem=128G"
                )
                command.add_argument("--data", type=Path, default=Path("data"), help="directory of prepared data")
            case "logs":
                command.add_argument("--run", help="part of a run's name (default: all that need a look)")
                command.add_argument("--lines", type=count, default=20, help="of each log")
            case "export":
                command.add_argument("--out", type=Path, required=True, help=OUT)
                command.add_argument("--model", metavar="RUN", help=MODEL)
                command.add_argument(
                    "--format", choices=["safetensors", "hf"], default="hf", help="of --model's folder"
                )
                command.add_argument("--data", type=Path, default=Path("data"), help="of --model's tokenizer")
                command.add_argument("--command", dest="made_by", help="that made the sweep, for provenance.json")
                mirror = command.add_mutually_exclusive_group()
                mirror.add_argument("--wandb", metavar="ENTITY/PROJECT[:GROUP]", help="from a wandb server, not runs")
                mirror.add_argument("--wandb-dir", type=Path, metavar="DIR", help="from wandb's offline files")
    return parser


def _add_artifact_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parsers = {name: commands.add_parser(name, help=text, description=text) for name, text in ARTIFACT.items()}
    add = parsers["verify"].add_argument
    add("records", nargs="?", type=Path, default=Path("results/quick"), help="default: results/quick")
    add("--cells", type=count, default=8, metavar="K", help="to train again (default: 8)")
    add("--draw", type=int, default=0, metavar="SEED", help="of the choice of cells (default: 0)")
    add("--data", type=Path, default=Path("data"), help="directory of prepared data")
    add("--runs", type=Path, help="keep the runs in this directory, and resume from it")
    add = parsers["checklist"].add_argument
    add("sweep", nargs="?", help="name of a sweep, the beginning of it, or its id (default: all)")
    add("--results", type=Path, metavar="DIR", help="the sweeps of these records instead: results/quick")
    _add_places(parsers["checklist"])
    parsers["init"].add_argument("--site", default="mine", metavar="NAME", help="of the cluster (default: mine)")


def _add_places(command: argparse.ArgumentParser) -> None:
    command.add_argument("--runs", type=Path, default=Path("runs"), help="directory of runs")
    command.add_argument("--sweeps", type=Path, help="directory of sweep manifests (default: sweeps/ beside --runs)")


def _multirun(arguments: argparse.Namespace) -> int:
    """Plan or execute a grid, then run the commands of `--then`. Returns the exit status."""
    from sweeper import train

    plan_only = ["hydra.launcher.plan_only=true"] if arguments.command == "plan" else []
    sys.argv = ["loopsweep", "--multirun", *arguments.overrides, *plan_only]
    status = 0
    try:
        train.main()
    except SystemExit as end:  # it has said why
        status = end.code if isinstance(end.code, int) else 1
    if arguments.command == "submit" and status in (0, SweepIncomplete.exit_status):
        status = _follow_up(arguments.then) or status
    return status


def _refine(arguments: argparse.Namespace) -> None:
    from sweeper.cli.commands import SweepCommands
    from sweeper.cli.refine_command import refine

    sweeps = arguments.sweeps or sweeps_beside(arguments.runs)
    path = SweepCommands(sweeps, arguments.runs, arguments.named or arguments.sweep).path
    until, dry = arguments.until is not None, arguments.dry_run
    refine(path, arguments.runs, arguments.set, budget=arguments.budget, until_verdicts=until, dry_run=dry)


def _follow_up(commands: list[str]) -> int:
    """Run commands on the sweep that was submitted. Returns the first exit status that is not 0."""
    from sweeper.grid.build import submitted

    for command in commands:
        for one in submitted:
            places = ["--runs", str(one.roots.runs), "--sweeps", str(one.roots.sweeps), "--sweep", one.sweep.name]
            try:
                status = subprocess.run([*shlex.split(command), *places]).returncode
            except OSError as error:
                raise UserError(f"--then {command}: {error.strerror}") from error
            if status:
                return status
    return 0


def _keep_house(arguments: argparse.Namespace) -> None:
    from sweeper.cli import housekeeping_command

    places = (arguments.sweeps or sweeps_beside(arguments.runs), arguments.runs)
    match arguments.command:
        case "list":
            housekeeping_command.list_sweeps(*places)
        case "du":
            housekeeping_command.show_space(*places, arguments.sweep)
        case "rename":
            housekeeping_command.rename_sweep(*places, arguments.sweep, arguments.to)
        case "rm":
            housekeeping_command.remove(*places, arguments.sweep, sure=arguments.yes)


def _check_artifact(arguments: argparse.Namespace) -> None:
    match arguments.command:
        case "verify":
            from sweeper.cli.verify_command import verify

            if not verify(arguments.records, arguments.cells, arguments.draw, arguments.data, arguments.runs):
                sys.exit(1)
        case "checklist":
            from sweeper.cli.checklist_command import checklist_command

            sweeps = arguments.sweeps or sweeps_beside(arguments.runs)
            checklist_command(arguments.sweep, arguments.results, arguments.runs, sweeps)
        case "init":
            from sweeper.cli.init_command import init

            init(arguments.site, Path())


def _on_sweep(arguments: argparse.Namespace) -> None:
    from sweeper.cli.commands import SweepCommands, export_mirrored

    if arguments.command == "export":
        check = check_writable_file if arguments.out.suffix in (".parquet", ".tar") else check_writable
        check(f"--out {arguments.out}", arguments.out)
    if arguments.command == "export" and arguments.model:
        from sweeper.cli.model_command import export_model_command

        export_model_command(arguments.model, arguments.format, arguments.out, arguments.runs, arguments.data)
        return
    if arguments.command == "export" and (arguments.wandb or arguments.wandb_dir):
        export_mirrored(arguments.wandb, arguments.wandb_dir, arguments.sweep, arguments.out, arguments.made_by)
        return
    sweep = SweepCommands(arguments.sweeps or sweeps_beside(arguments.runs), arguments.runs, arguments.sweep)
    match arguments.command:
        case "status":
            sweep.status()
        case "watch":
            if arguments.web and (arguments.retry or arguments.notify):
                raise UserError("--web with --retry or --notify: a page only shows; give these to a second `watch`")
            if arguments.web:
                sys.exit(sweep.watch_in_browser(arguments.seconds, arguments.port))
            sweep.watch(arguments.seconds, retry=arguments.data if arguments.retry else None, notify=arguments.notify)
        case "retry":
            sweep.retry(arguments.data, arguments.set)
        case "cancel":
            sweep.cancel()
        case "logs":
            sweep.logs(arguments.run, arguments.lines)
        case "export":
            sweep.export(arguments.out, arguments.made_by)
        case "prune":
            sweep.prune(arguments.keep, sure=arguments.yes)
        case "remove":
            sweep.remove(arguments.conditions, sure=arguments.yes)


if __name__ == "__main__":
    main()
