"""`loopsweep export --model RUN`: the weights of a run as a folder, see `sweeper.model_export.folder`."""

from pathlib import Path

from rich.console import Console

from sweeper.errors import UserError
from sweeper.model_export.folder import Format, export_model
from sweeper.records.run_dir import RunDir


def export_model_command(name: str, kind: str, out: Path, runs: Path, data: Path) -> None:
    """Write the weights of a run.

    Args:
        name: the run's id, or a beginning that only this run has.
        kind: a value of `Format`.
        out: the folder to write.
        runs: directory of run directories.
        data: directory of prepared data, for the tokenizer.

    Raises:
        UserError: if there is no such run or several, or as `export_model` does.
    """
    found = sorted(path.name for path in runs.glob(f"{name}*") if (path / "config.yaml").is_file())
    if name in found:
        found = [name]
    if len(found) != 1:
        known = f"several runs begin so: {', '.join(found[:4])}" if found else f"no run in {runs} begins so"
        raise UserError(f"--model {name}: {known}; give the id of one, such as `loopsweep status` shows it")
    files = export_model(RunDir(runs / found[0]), out, Format(kind), data)
    size = sum(file.stat().st_size for file in files)
    console = Console(highlight=False, soft_wrap=True, markup=False)
    if kind == Format.HF and not (out / "tokenizer.json").is_file():
        console.print(f"no tokenizer: the run's data are not in {data}, or have no tokenizer.json; give --data DIR")
    console.print(f"wrote {found[0]} into {out}: {size / 1024:.0f} KiB in {', '.join(file.name for file in files)}")
