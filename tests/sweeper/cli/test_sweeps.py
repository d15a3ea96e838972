"""Sweeps as they are typed: a part, what follows on it, where its manifest lies, what is taken out of it."""

import errno
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

from sweeper.__main__ import main
from sweeper.execution.step_timing import cache_file
from sweeper.grid.plan import StepTimes
from sweeper.records.lock import Guard
from sweeper.records.sweep_manifest import Sweep

Typed = Callable[..., tuple[int, str, str]]


@pytest.fixture
def loopsweep(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Typed:
    """`loopsweep(words)` in this process: exit status, standard output, standard error."""

    def call(*words: str) -> tuple[int, str, str]:
        GlobalHydra.instance().clear()
        monkeypatch.setattr("sweeper.grid.build.submitted", [])
        capfd.readouterr()
        status = 0
        try:
            main(list(words))
        except SystemExit as end:
            status = int(end.code or 0)
        out, err = capfd.readouterr()
        return status, " ".join(out.split()), err

    return call


@pytest.fixture
def overrides(finished_sweep, tmp_path: Path) -> list[str]:
    """The smoke sweep on runs that are all there, with manifests of the test's own."""
    kept = (f"paths.runs={finished_sweep.runs}", f"paths.data={finished_sweep.path / 'data'}")
    typed = [text for text in finished_sweep.overrides() if not text.startswith(("paths.", "hydra."))]
    return [*typed, *kept, f"paths.sweeps={tmp_path / 'sweeps'}"]


def test_a_part_tells_of_itself_and_of_the_whole(overrides: list[str], loopsweep: Typed, tmp_path: Path) -> None:
    status, out, err = loopsweep("submit", *overrides)
    assert (status, err) == (0, "")
    assert "whole" not in out
    _, out, _ = loopsweep("submit", *overrides, "panel=a")
    assert ": 6 points, 6 distinct runs: 6 done" in out
    [manifest] = (tmp_path / "sweeps").glob("*.json")
    assert f"the whole of {manifest.stem}: 24 points, 21 distinct runs" in out
    assert len(Sweep.load(manifest).cells) == 24
    places = ["--runs", overrides[-3].partition("=")[2], "--sweeps", str(tmp_path / "sweeps")]
    assert loopsweep("status", *places)[1].endswith("24 done")


def test_what_follows_on_a_sweep_is_told_which_it_was(overrides: list[str], loopsweep: Typed, tmp_path: Path) -> None:
    """The older sweep of the same kind, in other directories, is not touched."""
    show = tmp_path / "show.py"
    show.write_text("import sys; print(*sys.argv[1:])")
    follow = ["--then", f"{sys.executable} {show} first", "--then", f"{sys.executable} {show} second"]
    status, out, _ = loopsweep("submit", *follow, *overrides, "title=mytext", "panel=a")
    assert status == 0
    runs = overrides[-3].partition("=")[2]
    told = f"--runs {runs} --sweeps {tmp_path / 'sweeps'} --sweep mytext-lr_transfer-smoke"
    assert f"first {told} second {told}" in out


@pytest.mark.parametrize(("code", "status"), [("sys.exit(5)", 5), ("pass", 0)])
def test_the_status_of_what_follows_counts(
    code: str, status: int, overrides: list[str], loopsweep: Typed, tmp_path: Path
) -> None:
    (tmp_path / "follow.py").write_text(f"import sys; {code}")
    assert (
        loopsweep("submit", "--then", f"{sys.executable} {tmp_path / 'follow.py'}", *overrides, "panel=a")[0] == status
    )


def test_nothing_follows_on_what_was_not_submitted(overrides: list[str], loopsweep: Typed, tmp_path: Path) -> None:
    follow = ["--then", f"touch {tmp_path / 'followed'}"]
    status, _, err = loopsweep("submit", *follow, *overrides, "model.n_loops=0")
    assert (status, err.count("\n")) == (2, 1)
    assert list(tmp_path.iterdir()) == []
    status, _, err = loopsweep("submit", "--then", "no-such-command", *overrides, "panel=a")
    assert (status, err) == (2, "error: --then no-such-command: No such file or directory\n")


def test_directories_of_another_user_are_one_line(
    overrides: list[str], loopsweep: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Guard) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "sweeps" / "a.guard"))

    monkeypatch.setattr(Guard, "__enter__", refuse)
    status, _, err = loopsweep("submit", *overrides)
    assert (status, err.count("\n")) == (2, 1)
    assert err.startswith(f"error: no permission for {tmp_path}/sweeps/a.guard, which belongs to {tmp_path.owner()}; ")


def test_manifests_lie_beside_the_runs_for_whoever_looks(finished_sweep, overrides, loopsweep, tmp_path) -> None:
    (tmp_path / "runs").symlink_to(finished_sweep.runs)
    typed = [text for text in overrides if not text.startswith(("paths.runs", "paths.sweeps"))]
    assert loopsweep("submit", *typed, f"paths.runs={tmp_path / 'runs'}", "panel=a", "title=beside")[0] == 0
    assert (tmp_path / "sweeps" / "beside-lr_transfer-smoke.json").is_file()
    status, out, _ = loopsweep("status", "beside", "--runs", str(tmp_path / "runs"))
    assert status == 0
    assert out.startswith("beside-lr_transfer-smoke (")
    assert out.endswith("6 done")


def test_status_has_a_column_for_what_tells_cells_apart(loopsweep: Typed, tmp_path: Path) -> None:
    axes = {"panel": "b", "n_layers": 1, "n_loops": 1, "base_lr": 1e-3, "seed": 0, "steps": 2}
    cells = tuple(
        {**axes, "rule": rule, "run_id": f"{rule}{clip}", "values": {"optimizer.grad_clip": clip}}
        for rule in ("alpha=0.5", "alpha=0.75")
        for clip in (None, 0.5)
    )
    Sweep("t", "runs", "smoke", cells).save(tmp_path / "sweeps")
    _, out, _ = loopsweep("status", "t", "--sweeps", str(tmp_path / "sweeps"), "--runs", str(tmp_path / "runs"))
    assert "panel L N rate seed rule optimizer.grad_clip state" in out
    assert "b 1 1 0.001 0 alpha=0.75 null pending" in out


class TestRemove:
    @pytest.fixture(autouse=True)
    def _sweep(self, overrides: list[str], loopsweep: Typed, tmp_path: Path, finished_sweep) -> None:
        loopsweep("submit", *overrides, "title=mine")
        self.places = ["--runs", str(finished_sweep.runs), "--sweeps", str(tmp_path / "sweeps")]
        self.manifest = tmp_path / "sweeps" / "mine-lr_transfer-smoke.json"

    def test_without_a_yes_it_shows_what_would_go(self, loopsweep: Typed) -> None:
        status, out, err = loopsweep("remove", "mine", "panel=a", "n_loops=2", *self.places)
        assert (status, err) == (2, "error: 3 cells would be removed from mine-lr_transfer-smoke; --yes removes them\n")
        assert out.count("a 1 2 0.0") == 3
        assert len(Sweep.load(self.manifest).cells) == 24

    def test_cells_go_and_their_runs_stay(self, loopsweep: Typed, finished_sweep) -> None:
        before = sorted(finished_sweep.runs.iterdir())
        status, out, _ = loopsweep("remove", "mine", "panel=a", "n_loops=2", *self.places, "--yes")
        assert status == 0
        assert "removed 3 cells from mine-lr_transfer-smoke" in out
        assert loopsweep("status", "mine", *self.places)[1].endswith("21 done")
        assert sorted(finished_sweep.runs.iterdir()) == before

    def test_what_no_cell_has_is_one_line(self, loopsweep: Typed) -> None:
        status, out, err = loopsweep("remove", "mine", "panel=e", *self.places, "--yes")
        assert (status, out, err) == (2, "", "error: remove panel=e: no cell has e; there are a, b, c, d\n")


def test_measured_step_times_are_kept_in_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_file() == tmp_path / "loopsweep" / "step-times.json"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_file() == tmp_path / ".cache" / "loopsweep" / "step-times.json"


def test_a_plan_writes_nothing_beside_runs_and_sweeps(
    finished_sweep, loopsweep: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Path] = []

    def measured(*arguments: object) -> StepTimes:
        seen.append(arguments[-1])
        return StepTimes([(1, 0.01), (2, 0.015)])

    monkeypatch.setattr("sweeper.execution.step_timing.measured_step_times", measured)
    typed = [text for text in finished_sweep.overrides() if not text.startswith(("paths.", "hydra."))]
    paths = [f"paths.runs={tmp_path / 'runs'}", f"paths.data={finished_sweep.path / 'data'}"]
    status, out, err = loopsweep("plan", *typed, *paths)
    assert (status, err, seen) == (0, "", [cache_file()])
    assert "time on this machine" in out
    assert list(tmp_path.iterdir()) == []
