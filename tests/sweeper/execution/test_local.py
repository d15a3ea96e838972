"""What a finished local sweep says about the space of its checkpoints."""

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from rich.console import Console

from sweeper.execution import local


@pytest.mark.parametrize(("mebibytes", "said"), [(11, True), (9, False)])
def test_prune_is_offered_where_it_frees_something(mebibytes: int, said: bool, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "run-1" / "checkpoint"
    folder.mkdir(parents=True)
    (folder / "step-1.pt").write_bytes(bytes(mebibytes << 20))
    plan = SimpleNamespace(runs={"run-1": None}, sweep=SimpleNamespace(name="mine"))
    printed = io.StringIO()
    local._offer_prune(cast(Any, plan), cast(Any, SimpleNamespace(runs=tmp_path / "runs")), Console(file=printed))
    assert ("11 MiB; `loopsweep prune mine --keep weights`" in " ".join(printed.getvalue().split())) is said
