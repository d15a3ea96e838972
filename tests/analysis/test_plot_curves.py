"""The course of runs: every run's lines over steps, tokens and FLOPs, those of unfinished runs too."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from analysis import plot_curves

CellTable = Callable[..., pd.DataFrame]


@pytest.fixture
def stored(cell_table: CellTable, store: Callable[..., Path], tmp_path: Path) -> Path:
    """Two runs a panel, with a line every ten steps; the larger rate has reached half of them."""
    cells = cell_table(loop_counts=(2,)).query("base_lr in (5e-4, 4e-3)").assign(flops=6e12)
    cells.loc[cells["base_lr"] == 4e-3, ["state", "val_loss"]] = ["running", float("nan")]
    lines = [
        {"run_id": row["run_id"], "step": step, "loss": 5 - step / 600, "grad_norm": 1.0, "base_lr": row["base_lr"] / 2}
        for row in cells.to_dict("records")
        for step in range(0, 601 if row["state"] == "done" else 301, 10)
    ]
    return store(tmp_path / "stored", cells, pd.DataFrame(lines))


def draw(stored: Path, *options: str) -> pd.DataFrame:
    out = stored.parent / "out"
    assert plot_curves.main(["--results", str(stored), "--out", str(out), "--format", "png", *options]) == 0
    assert (out / "curves.png").is_file()
    return pd.read_csv(out / "curves.csv")


def test_every_run_is_there_as_far_as_it_is(stored: Path) -> None:
    lines = draw(stored)
    last = lines.groupby(["panel", "peak_lr"])["step"].max()
    assert last.xs(5e-4, level="peak_lr").to_dict() == dict.fromkeys("abcd", 600)
    assert last.xs(4e-3, level="peak_lr").to_dict() == dict.fromkeys("abcd", 300)


def test_tokens_and_flops_grow_with_the_steps(stored: Path) -> None:
    lines = draw(stored, "--x", "tokens", "--panels", "b")
    assert set(lines["panel"]) == {"b"}
    assert (lines["tokens"] == lines["step"] * 16 * 64).all()  # of the preset, quick
    assert lines["flops"].to_list() == pytest.approx((lines["step"] * 1e10).to_list())


@pytest.mark.parametrize(
    ("option", "named"),
    [
        (("--y", "norm"), "--y norm: these runs have not recorded it; they have loss, grad_norm, base_lr"),
        (("--run", "nobody"), "--run nobody"),
        (("--color", "width"), "--color width"),
    ],
)
def test_what_cannot_be_drawn_is_one_line_and_status_2(
    stored: Path, option: tuple[str, str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plot_curves.main(["--results", str(stored), "--out", str(stored.parent / "out"), *option]) == 2
    error = capsys.readouterr().err
    assert named in error
    assert error.count("\n") == 1
