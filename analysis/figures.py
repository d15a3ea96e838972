"""Every figure in one table, and the command that redraws those that have records.

    python -m analysis.figures [--only NAME,…] [options of the figures' scripts, such as --results DIR]

A new figure is its script `analysis/plot_<name>.py`, with `main(argv) -> exit status`, and a row of `FIGURES`. The
Makefile, the report, the tests and the scripts themselves read this table. It imports neither pandas nor matplotlib.
"""

import argparse
import importlib
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import ModuleType

from sweeper.errors import UserError


@dataclass(frozen=True)
class Experiment:
    """What trains or probes the runs of some figures.

    Attributes:
        group: `init`, at initialisation; `trained`, the paper's trainings; `beyond` the paper; `stabilisers`, the
            architectures of the second paper and others.
        command: starts and continues it.
    """

    group: str
    command: str


@dataclass(frozen=True)
class FigureRow:
    """One figure.

    Attributes:
        name: of its files and of its script, `plot_<name>.py`.
        title: in the report.
        experiment: a key of `EXPERIMENTS`, whose newest sweep is drawn.
        tables: what it reads beside the sweep's cells, `curves` or `readouts`.
        at_tuned_rate: whether the report draws it with `--rate`, at the rate that the claims are judged at.
        clips: whether its script has `--whole`, to draw an axis to scale that it clips.
        on_tasks: whether it draws only sweeps whose data are a task. It is then in a group of its own.
    """

    name: str
    title: str
    experiment: str
    tables: tuple[str, ...] = ()
    at_tuned_rate: bool = False
    clips: bool = False
    on_tasks: bool = False

    @property
    def group(self) -> str:
        """That of its experiment, or `tasks`."""
        return "tasks" if self.on_tasks else EXPERIMENTS[self.experiment].group

    @property
    def names(self) -> tuple[str, ...]:
        """What chooses it: its name, its experiment unless that trains text as a rule, and its group."""
        return (self.name, self.group) if self.on_tasks else (self.name, self.experiment, self.group)

    @property
    def command(self) -> str:
        """That of its experiment."""
        return EXPERIMENTS[self.experiment].command

    def module(self) -> ModuleType:
        """Its script, imported."""
        return importlib.import_module(f"analysis.plot_{self.name}")


EXPERIMENTS = {
    "init_probe": Experiment("init", "make figures-init"),
    "increments": Experiment("init", "make figures-init"),
    "theory": Experiment("init", "make figures-init"),
    "lr_transfer": Experiment("trained", "make sweep-lr-transfer"),
    "exponent": Experiment("beyond", "make figures-exponent"),
    "architectures": Experiment("stabilisers", "make sweep-architectures"),
}
FIGURES = (  # the first paper's in its order, then the others
    FigureRow("fig2", "Figure 2 · Residual norm in the first ten steps", "init_probe", ("curves",)),
    FigureRow("fig3", "Figure 3 · Increments at initialisation", "increments", ("readouts",)),
    FigureRow("fig4", "Figure 4 · What one optimizer step changes", "init_probe", ("curves",)),
    FigureRow("fig5", "Figure 5 · Learning-rate transfer", "lr_transfer", clips=True),
    FigureRow("fig6", "Figure 6 · Increments after training, N = 8", "lr_transfer", ("readouts",), at_tuned_rate=True),
    FigureRow("fig7", "Figure 7 · Residual norm along the loop", "lr_transfer", ("readouts",), at_tuned_rate=True),
    FigureRow("fig8", "Figure 8 · Increments after training, N = 4", "lr_transfer", ("readouts",), at_tuned_rate=True),
    FigureRow("fig9", "Figure 9 · What each of ten optimizer steps changes", "init_probe", ("curves",)),
    FigureRow("exponent", "Beyond the paper · The exponent of N", "exponent"),
    FigureRow("theory", "Theory · The toy model", "theory", ("curves",)),
    FigureRow("stability", "Stabilisers · Collapse and calm in the first steps", "architectures", ("curves",)),
    FigureRow("architectures", "Stabilisers · Lowest loss, and shift of the optimum", "architectures"),
    FigureRow("test_time", "Stabilisers · Loss at other loop counts than trained with", "architectures", ("readouts",)),
    FigureRow("tasks", "Tasks · What more loops buy", "lr_transfer", ("readouts",), on_tasks=True),
)


def row(name: str) -> FigureRow:
    """The row of figure `name`."""
    [found] = [figure for figure in FIGURES if figure.name == name]
    return found


def experiments(figures: Iterable[FigureRow]) -> tuple[str, ...]:
    """The experiments that `figures` draw, in order."""
    return tuple(dict.fromkeys(figure.experiment for figure in figures))


def experiments_with(table: str) -> tuple[str, ...]:
    """The experiments of which some figure reads `table`."""
    return experiments(figure for figure in FIGURES if table in figure.tables)


def main(argv: Sequence[str] | None = None) -> int:
    """Redraw figures, one after the other.

    Returns the exit status: 2 if none could be drawn, or not all that `--only` names, else 0.
    """
    parser = argparse.ArgumentParser(
        prog="python -m analysis.figures",
        description="Redraw every figure that has records.",
        epilog="Other options are passed on to the figures' scripts, such as --results DIR or --out DIR.",
        allow_abbrev=False,
    )
    only_help = "these figures, those of an experiment, or of a group (init, trained, beyond, stabilisers, tasks)"
    parser.add_argument("--only", metavar="NAME,…", help=only_help)
    parser.add_argument("--experiments", action="store_true", help="print the experiments that are drawn, no more")
    args, options = parser.parse_known_args(argv)
    try:
        chosen = FIGURES if args.only is None else select(args.only.split(","))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if args.experiments:
        print("\n".join(experiments(chosen)))
        return 0
    left = [
        figure for number, figure in enumerate(chosen, 1) if not _redraw(figure, options, f"{number}/{len(chosen)}")
    ]
    print(f"drew {len(chosen) - len(left)} of {len(chosen)} figures")
    return 2 if len(left) == len(chosen) or (left and args.only is not None) else 0


def select(names: Iterable[str]) -> tuple[FigureRow, ...]:
    """The figures of which the name, the experiment or the group is in `names`.

    Raises:
        UserError: for a name that is none of them.
    """
    wanted = set(names)
    columns = ([of.name for of in FIGURES], experiments(FIGURES), [of.group for of in FIGURES])
    known = dict.fromkeys(key for column in columns for key in column)
    if unknown := sorted(wanted - set(known)):
        raise UserError(f"--only: {unknown[0]!r} is not one of {', '.join(known)}")
    return tuple(figure for figure in FIGURES if wanted & set(figure.names))


def _redraw(figure: FigureRow, options: Sequence[str], progress: str) -> bool:
    """Run a figure's script; whether it drew. If it did not, it has printed why."""
    print(f"[{progress}] {figure.title}", flush=True)
    return bool(figure.module().main(list(options)) == 0)


if __name__ == "__main__":
    sys.exit(main())
