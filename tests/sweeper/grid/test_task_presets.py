"""Presets of tasks: they fit their task, and what does not fit is named."""

import sys
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, open_dict

import sweeper.train
from sweeper.config.checks import check_data
from sweeper.config.compose import compose_config
from sweeper.config.resolve import data_spec, resolve
from sweeper.data import TASKS, find_data, prepare_data
from sweeper.errors import UserError

PRESETS = {
    "phop_quick": "phop",
    "phop_laptop": "phop",
    "addition_quick": "addition",
    "addition_laptop": "addition",
}


def composed(overrides: list[str]) -> DictConfig:
    """What a run is resolved from: without Hydra's own section."""
    config = compose_config(overrides)
    with open_dict(config):
        del config["hydra"]
    return config


@pytest.mark.parametrize(("preset", "name"), PRESETS.items())
def test_a_preset_fits_its_task(preset: str, name: str, tmp_path: Path) -> None:
    config = composed([f"preset={preset}"])
    spec = data_spec(config)
    assert isinstance(spec.task, TASKS[name])
    assert find_data(spec, tmp_path) is None
    manifest = prepare_data(spec, tmp_path, print)
    assert find_data(spec, tmp_path) == manifest
    run = resolve(config, manifest.hash)
    check_data(run.config, manifest)
    assert run.config.model.vocab_size == spec.task.vocab_size
    assert run.config.validation_tokens == 768 * spec.task.row_tokens


def test_an_example_of_another_length_is_refused_with_the_length_to_set(tmp_path: Path) -> None:
    config = composed(["preset=phop_quick", "data.task.length=48"])
    manifest = prepare_data(data_spec(config), tmp_path, print)
    with pytest.raises(UserError, match=r"batch.seq_len=29 must be 53, .* set batch.seq_len=53"):
        check_data(resolve(config, manifest.hash).config, manifest)


def test_a_vocabulary_without_all_symbols_is_refused(tmp_path: Path) -> None:
    config = composed(["preset=phop_quick", "data.task.alphabet=8"])
    manifest = prepare_data(data_spec(config), tmp_path, print)
    with pytest.raises(UserError, match=r"model\.vocab_size=6 is smaller than the data.s vocabulary of 10"):
        check_data(resolve(config, manifest.hash).config, manifest)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["preset=phop_quick", "data.task.length=null"], "data.task.length=null needs a value"),
        (["preset=addition_quick", "data.task.alphabet=4"], "data.task.alphabet=4 is no parameter of data=addition"),
        (["preset=phop_quick", "data.path=texts"], "data=phop is a task and reads no file"),
        (["preset=quick", "data.name=phop"], "choose a task by data=phop or addition"),
        (["preset=quick", "data.tokenizer.kind=symbols"], "data=wikipedia is text and needs bpe or llama3"),
    ],
)
def test_what_does_not_go_together_is_one_line(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        data_spec(composed(overrides))
    assert "\n" not in str(raised.value)


def test_a_run_of_a_task_needs_no_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = ["schedule.steps=2", "schedule.warmup=0", "schedule.decay=1", "validation.tokens=1450", "diverged_above=7"]
    paths = [f"paths.runs={tmp_path}/runs", f"paths.data={tmp_path}/data", "execution.compile=false"]
    GlobalHydra.instance().clear()
    monkeypatch.setattr(sys, "argv", ["sweeper.train", "preset=phop_quick", "tracking=off", *steps, *paths])
    sweeper.train.main()
    assert "done  val_loss" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "data").rglob("*") if path.is_file()] == ["manifest.json"]
