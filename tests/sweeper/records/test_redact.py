"""Records and logs contain no home path and no secret."""

from pathlib import Path

import pytest

from sweeper.execution import execute_run
from sweeper.records.redact import redact
from sweeper.run.outcome import Outcome
from sweeper.run.stop import StopFlag


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, str]:
    """A home directory and variables that look like secrets, and one that does not."""
    values = {
        "HOME": str(tmp_path / "somebody"),
        "HF_TOKEN": "hf-planted-1",
        "WANDB_API_KEY": "key-planted-2",
        "MY_SECRET": "secret-planted-3",
        "DB_PASSWORD": "password-planted-4",
        "SIGNING_KEY": "signing-planted-5",
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PLAIN_SETTING", "plainly-seen")
    return values


def test_home_and_checkout_and_secrets_are_replaced_by_their_names(planted, repository) -> None:
    text = " ".join([*planted.values(), f"{planted['HOME']}/x.py", f"{repository}/y.py", "plainly-seen"])
    shown = redact(text)
    assert not any(value in shown for value in planted.values())
    assert str(repository) not in shown
    assert "<HF_TOKEN>" in shown
    assert "~/x.py" in shown
    assert "./y.py" in shown
    assert "plainly-seen" in shown


def test_short_values_are_kept_because_they_may_be_ordinary_words(monkeypatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", "step")
    assert redact("step 3") == "step 3"


def test_the_longer_of_two_secrets_goes_first(monkeypatch) -> None:
    monkeypatch.setenv("A_TOKEN", "abcdefgh")
    monkeypatch.setenv("B_TOKEN", "abcdefgh-and-more")
    assert redact("abcdefgh-and-more abcdefgh") == "<B_TOKEN> <A_TOKEN>"


def test_an_errors_log_and_reason_are_redacted(planted, runs, run_config, data_root, monkeypatch, capfd) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError(f"refused {planted['HF_TOKEN']} in {planted['HOME']}")

    monkeypatch.setattr("sweeper.training.trainer.open_data", fail)
    rundir = runs.write_config(run_config)
    with capfd.disabled():  # the log is made of what standard output really gets
        outcome, reason = execute_run.execute_run(rundir.path, data_root, StopFlag(), lambda progress: None)
    assert (outcome, reason) == (Outcome.ERROR, "RuntimeError: refused <HF_TOKEN> in ~")
    log = rundir.log.read_text()
    assert "Traceback" in log
    assert not any(value in log for value in planted.values())
