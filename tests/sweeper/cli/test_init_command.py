"""`loopsweep init`: a site file that Hydra finds in the working directory."""

from pathlib import Path

import pytest

from sweeper.__main__ import main
from sweeper.config.compose import compose_config


def test_the_written_file_changes_nothing_until_an_option_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plain = compose_config(["hydra/launcher=slurm"]).hydra.launcher
    main(["init", "--site", "ours"])
    file = tmp_path / "conf" / "site" / "ours.yaml"
    chosen = ["hydra/launcher=slurm", "site@hydra.launcher=ours"]
    assert compose_config(chosen).hydra.launcher == plain
    text = file.read_text()
    assert all(f"\n# {key}: " in text for key in ("partition", "account", "time", "gpus_per_node", "setup"))
    file.write_text(text.replace("# partition: null", "partition: gpu"))
    assert compose_config(chosen).hydra.launcher.partition == "gpu"


@pytest.mark.parametrize(("name", "reason"), [("default", "exists already"), ("../x", "must have letters")])
def test_no_file_is_overwritten_and_no_other_folder_is_written(
    name: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main(["init", "--site", name])
    assert end.value.code == 2
    assert reason in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_the_working_directory_never_replaces_a_shipped_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf" / "preset").mkdir(parents=True)
    (tmp_path / "conf" / "preset" / "quick.yaml").write_text("# @package _global_\nseed: 7\n")
    (tmp_path / "conf" / "preset" / "own.yaml").write_text("# @package _global_\ndefaults: [quick]\nseed: 8\n")
    assert compose_config(["preset=quick"]).seed == 0
    assert compose_config(["preset=own"]).seed == 8
