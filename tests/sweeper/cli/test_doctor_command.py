"""`loopsweep doctor` as it is typed, without its job."""

from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

from sweeper.__main__ import main

from .conftest import FakeSlurm


def doctor(capfd: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    GlobalHydra.instance().clear()
    try:
        main(["doctor", "--no-job", "preset=smoke", "tracking=off", *words])
    except SystemExit as end:
        return int(end.code or 0), *capfd.readouterr()
    return 0, *capfd.readouterr()


def test_without_slurm_it_is_one_line(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    status, _, err = doctor(capfd)
    assert (status, err.count("\n")) == (2, 1)
    assert "there is no sbatch on this machine" in err


@pytest.mark.parametrize(("limit", "status", "last"), [("01:00:00", 1, "time: 60\n"), ("UNLIMITED", 0, "0 problems\n")])
def test_the_exit_status_says_whether_there_is_a_problem_and_the_site_file_follows(
    limit: str, status: int, last: str, slurm: FakeSlurm, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    partition = f"PartitionName=work Default=YES State=UP MaxTime={limit} PreemptMode=OFF TotalNodes=1"
    (slurm.bin / "scontrol").write_text(f"#!/bin/sh\necho MaxArraySize = 1001\necho '{partition}'\n")
    places = [f"paths.{name}={tmp_path / 'new' / name}" for name in ("runs", "data")]
    seen, out, _ = doctor(capfd, "hydra.launcher.gpus_per_node=0", *places)
    assert seen == status, out
    assert out.rstrip("\n").endswith(last.rstrip("\n"))
    assert "note     data" in out
    assert slurm.calls("sbatch") == []
    assert not (tmp_path / "new").exists()
