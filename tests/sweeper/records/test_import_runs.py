"""Runs from elsewhere: checked, compared with those here, and taken whole or not at all."""

import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sweeper.errors import UserError
from sweeper.records.archive import CHECKSUMS, write_archive
from sweeper.records.compare import Agreement
from sweeper.records.import_runs import Imported, import_runs
from sweeper.records.lock import RunLock
from sweeper.records.run_dir import RunDir
from sweeper.records.status import State, run_status
from sweeper.records.sweep_manifest import Sweep, add
from sweeper.run.execution import Execution
from sweeper.run.spec import RunConfig
from sweeper.run.stop import StopFlag

ORIGIN = {"commit": "c0ffee", "diff": None, "python": "3.11", "packages": {"torch": "2"}, "processor": "Some CPU"}


def unwatched(done: int, total: int) -> None:
    pass


@dataclass
class Place:
    """Directories `runs` and `sweeps` of one machine."""

    root: Path
    execution: Execution

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def sweeps(self) -> Path:
        return self.root / "sweeps"

    def write_config(self, config: RunConfig) -> RunDir:
        rundir = RunDir(self.runs / config.run_id)
        rundir.write_config(config, self.execution, {})
        return rundir

    def finish(self, config: RunConfig, loss: float = 3.0, state: str = "done") -> RunDir:
        """A run that was trained to `loss`; its first losses do not depend on it."""
        rundir = self.write_config(config)
        lines = [{"step": step, "loss": 6.0 - step / 8, "base_lr": 8e-3} for step in range(1, 12)]
        lines += [{"step": 12, "loss": loss + 0.5, "base_lr": 1e-4}, {"step": 12, "val_loss": loss}]
        rundir.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
        rundir.write_readouts({"residual_norm": {"mean": [1.0, 2.0], "std": [0.5, None]}})
        seconds = {"step": 1.5, "cpu": 2.0}
        result = {"run_id": config.run_id, "state": state, "reason": "", "val_loss": loss, "step": 12}
        rundir.write_result({**result, "seconds": seconds, "provenance": ORIGIN})
        return rundir

    def sweep(self, configs: list[RunConfig], **base: Any) -> Sweep:
        axes = {"panel": "b", "rule": "linear", "n_layers": 1, "depth_multiplier": 1.0, "n_loops": 2, "base_lr": 8e-3}
        cells = tuple({**axes, "seed": one.seed, "run_id": one.run_id, "steps": 12} for one in configs)
        values = {"data": configs[0].data, **base}
        return add(self.sweeps, Sweep("mine", "lr_transfer", "smoke", cells, base=values, commands=("typed",)))[0]

    def tar(self, sweep: Sweep) -> Path:
        out = self.root / "runs.tar"
        write_archive(sweep, self.runs, out, unwatched)
        return out

    def take(self, source: Path) -> Imported:
        return import_runs(source, self.runs, self.sweeps, unwatched)

    def content(self) -> dict[str, bytes]:
        """Every file but the guards of locks, by path."""
        files = (path for path in self.root.rglob("*") if path.is_file() and path.suffix != ".guard")
        return {str(path.relative_to(self.root)): path.read_bytes() for path in files}


@pytest.fixture
def there(tmp_path: Path, execution: Execution) -> Place:
    """The machine that the runs come from."""
    return Place(tmp_path / "there", execution)


@pytest.fixture
def here(tmp_path: Path, execution: Execution) -> Place:
    """The machine that they are imported to. It has nothing."""
    return Place(tmp_path / "here", execution)


@pytest.fixture
def configs(literal_run: RunConfig) -> list[RunConfig]:
    """Three runs that differ in the seed."""
    return [replace(literal_run, seed=seed) for seed in range(3)]


def test_a_tar_restores_runs_byte_for_byte_and_the_sweep(there, here, configs) -> None:
    for config in configs:
        there.finish(config)
    sweep = there.sweep(configs)
    found = here.take(there.tar(sweep))
    assert sorted(found.taken) == sorted(config.run_id for config in configs)
    assert (found.here, found.refused) == ({}, {})
    taken, given = (
        {name: content for name, content in place.content().items() if name.startswith("runs/")}
        for place in (here, there)
    )
    assert {name: taken[name] for name in given} == given
    assert {Path(name).name for name in taken.keys() - given.keys()} == {"imported.json"}
    assert Sweep.load(here.sweeps / "mine.json") == Sweep.load(there.sweeps / "mine.json")
    rundir = RunDir(here.runs / configs[0].run_id)
    assert rundir.load()[0] == configs[0]
    assert rundir.origin["from"] == "runs.tar"


def test_equal_runs_make_equal_tars(there, configs) -> None:
    for config in configs:
        there.finish(config)
    sweep = there.sweep(configs)
    assert there.tar(sweep).read_bytes() == there.tar(sweep).read_bytes()


def test_checkpoints_logs_and_unfinished_runs_are_not_exported(there, here, configs) -> None:
    done = there.finish(configs[0])
    done.checkpoints.mkdir()
    (done.checkpoints / "step-00000012.pt").write_bytes(b"weights")
    done.log.write_text("printed")
    there.write_config(configs[1])
    found = here.take(there.tar(there.sweep(configs)))
    assert found.taken == [configs[0].run_id]
    assert [path.name for path in here.runs.iterdir()] == [configs[0].run_id]
    names = {path.name for path in (here.runs / configs[0].run_id).iterdir()}
    assert names == {"config.yaml", "metrics.jsonl", "readouts.json", "result.json", "imported.json"}
    assert len(Sweep.load(here.sweeps / "mine.json").cells) == 3


@pytest.mark.parametrize("below", ["", "runs", "runs/{run_id}"])
def test_a_directory_is_taken_whether_it_holds_runs_is_them_or_is_one(there, here, configs, below: str) -> None:
    there.finish(configs[0])
    there.sweep(configs[:1])
    found = here.take(there.root / below.format(run_id=configs[0].run_id))
    assert found.taken == [configs[0].run_id]
    assert (here.sweeps / "mine.json").exists() == ("{" not in below)


def test_a_sweep_finished_in_two_places_is_one_sweep(there, here, configs) -> None:
    here.finish(configs[0])
    here.sweep(configs[:2])
    here.write_config(configs[1])  # submitted here too, and not finished
    there.finish(configs[1])
    there.finish(configs[2])
    found = here.take(there.tar(there.sweep(configs[1:])))
    assert sorted(found.taken) == sorted(config.run_id for config in configs[1:])
    sweep = Sweep.load(here.sweeps / "mine.json")
    assert {cell["run_id"] for cell in sweep.cells} == {config.run_id for config in configs}
    assert {run_status(here.runs / run_id).state for run_id in sweep.run_ids} == {State.DONE}
    assert sorted(path.name for path in here.runs.iterdir()) == sorted(sweep.run_ids)


def test_a_sweep_with_other_values_keeps_its_runs_under_another_name(there, here, configs) -> None:
    here.sweep(configs[:1], precision="bf16")
    there.finish(configs[1])
    found = here.take(there.tar(there.sweep(configs[1:2], precision="fp32")))
    assert found.sweeps["mine"][0].name.startswith("mine-")
    assert Sweep.load(here.sweeps / "mine.json").run_ids == [configs[0].run_id]


def test_a_run_that_is_running_here_is_left_alone(there, here, configs) -> None:
    there.finish(configs[0])
    rundir = here.write_config(configs[0])
    with RunLock(rundir.lock, StopFlag()):
        found = here.take(there.root)
    assert (found.taken, found.running) == ([], [configs[0].run_id])
    assert rundir.result() is None


@pytest.mark.parametrize("call", range(5))  # as many renames as the import makes, and one more
def test_an_interrupted_import_leaves_every_run_whole_or_as_it_was(
    there, here, configs, monkeypatch, call: int
) -> None:
    for config in configs:
        there.finish(config)
    unfinished = here.write_config(configs[1])
    unfinished.log.write_text("printed")
    original, calls = Path.rename, 0

    def rename(path: Path, target: Path) -> Path:
        nonlocal calls
        calls += 1
        if calls == call + 1:
            raise KeyboardInterrupt
        return original(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename)
        try:
            here.take(there.runs)
        except KeyboardInterrupt:
            assert calls > call
    for config in configs:
        rundir = RunDir(here.runs / config.run_id)
        if rundir.result() is not None:
            assert {path.name for path in rundir.path.iterdir()} >= {"config.yaml", "metrics.jsonl", "readouts.json"}
        else:
            assert rundir.path == unfinished.path or not rundir.path.exists()
    assert unfinished.path.exists()
    assert not list(here.runs.glob(".import-*"))
    here.take(there.runs)
    assert all(RunDir(here.runs / config.run_id).result() for config in configs)


@pytest.mark.parametrize(
    ("loss", "agreement"),
    [(3.0, Agreement.EQUAL), (3.0 + 2**-51, Agreement.CLOSE), (3.0009, Agreement.CLOSE), (3.0011, Agreement.CONFLICT)],
)
def test_a_run_that_both_have_is_compared_and_stays_as_it_is_here(
    there, here, configs, loss: float, agreement: Agreement
) -> None:
    here.finish(configs[0])
    there.finish(configs[0], loss)
    there.finish(configs[1])
    before = here.content()
    found = here.take(there.root)
    assert found.here[configs[0].run_id].agreement is agreement
    assert found.here[configs[0].run_id].final == pytest.approx(loss - 3.0, rel=1e-6)
    assert set(found.refused) == ({configs[0].run_id} if agreement is Agreement.CONFLICT else set())
    assert {name: content for name, content in here.content().items() if name in before} == before
    assert found.taken == [configs[1].run_id]


def test_done_and_diverged_are_a_conflict_and_two_diverged_agree(there, here, configs) -> None:
    here.finish(configs[0])
    there.finish(configs[0], 3.0, "diverged")
    here.finish(configs[1], 8.0, "diverged")
    there.finish(configs[1], 9.0, "diverged")
    found = here.take(there.root)
    assert found.refused == {configs[0].run_id: "conflict: done here, diverged there"}
    assert found.here[configs[1].run_id].agreement is Agreement.CLOSE


def edit(name: str, old: str, new: str) -> Callable[[RunDir], object]:
    def change(rundir: RunDir) -> None:
        text = (rundir.path / name).read_text()
        assert old in text
        (rundir.path / name).write_text(text.replace(old, new))

    return change


def link(rundir: RunDir) -> None:
    rundir.config.rename(rundir.path / "other")
    rundir.config.symlink_to("other")


LAST = '{"step": 12, "val_loss": 3.0}\n'
TAMPERED: dict[str, tuple[Callable[[RunDir], object], str]] = {
    "configuration": (edit("config.yaml", "grad_clip: 1.0", "grad_clip: 2.0"), "was edited"),
    "aliases": (edit("config.yaml", "labels: {}", "labels: [&a {}, *a, *a]"), "YAML aliases"),
    "result": (edit("result.json", '"val_loss": 3.0', '"val_loss": 2.0'), "val_loss is 2.0 in result.json and 3.0"),
    "another run": (edit("result.json", '"run_id": "L1', '"run_id": "L2'), "of another run"),
    "escape sequence": (edit("result.json", '"reason": ""', '"reason": "\\u001b[2J"'), "values that no result has"),
    "not a number": (edit("result.json", '"step": 1.5', '"step": NaN'), "values that no result has"),
    "no provenance": (edit("result.json", '"provenance"', '"origin"'), "not complete"),
    "nested": (lambda rundir: (rundir.path / "readouts.json").write_text("[" * 10**5), "is not JSON"),
    "last line": (edit("metrics.jsonl", LAST, ""), "val_loss is 3.0 in result.json and none"),
    "torn": (edit("metrics.jsonl", LAST, LAST[:20]), "ends within a line"),
    "half": (edit("metrics.jsonl", '{"step": 12, "loss": 3.5, "base_lr": 0.0001}\n' + LAST, ""), "ends at step 11"),
    "no metrics": (lambda rundir: rundir.metrics.unlink(), "metrics.jsonl is missing"),
    "read-outs": (edit("readouts.json", '"mean": [', '"mean": [\n   0.5,'), "differ in length"),
    "link": (link, "config.yaml is not a plain file"),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_a_tampered_run_is_refused_by_name_and_the_others_are_taken(there, here, configs, what: str) -> None:
    change, reason = TAMPERED[what]
    change(there.finish(configs[0]))
    there.finish(configs[1])
    there.sweep(configs)
    found = here.take(there.root)
    assert set(found.refused) == {configs[0].run_id}
    assert reason in found.refused[configs[0].run_id]
    assert found.taken == [configs[1].run_id]
    assert not any(configs[0].run_id in name for name in here.content())
    assert configs[0].run_id not in (here.sweeps / "mine.json").read_text()


def test_other_data_than_the_sweep_says_is_refused(there, here, configs) -> None:
    there.finish(configs[0])
    there.sweep(configs[:1], data="of-another-corpus")
    found = here.take(there.root)
    assert "its sweep of-another-corpus" in found.refused[configs[0].run_id]
    assert here.content() == {}


def test_a_manifest_with_a_path_for_a_run_is_refused(there, here, configs) -> None:
    there.finish(configs[0])
    there.sweep(configs[:1])
    manifest = there.sweeps / "mine.json"
    manifest.write_text(manifest.read_text().replace(configs[0].run_id, f"../{configs[0].run_id}"))
    bad = there.sweeps / "bad.json"
    bad.write_text(manifest.read_text().replace('"mine"', '"bad"'))
    found = here.take(there.root)
    assert "is no run's id" in found.refused["mine"]
    assert not here.sweeps.exists()


def members(archive: Path) -> list[tuple[tarfile.TarInfo, bytes]]:
    with tarfile.open(archive) as tar:
        return [(member, tar.extractfile(member).read()) for member in tar.getmembers()]  # type: ignore[union-attr]


def pack(archive: Path, entries: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    with tarfile.open(archive, "w") as tar:
        for member, content in entries:
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def kind(name: str, of: bytes, target: str = "") -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = of, target
    return member, b""


@pytest.fixture
def archive(there: Place, configs: list[RunConfig]) -> Path:
    """A tar of two runs."""
    for config in configs[:2]:
        there.finish(config)
    return there.tar(there.sweep(configs))


HOSTILE = {
    "absolute": kind("/tmp/planted", tarfile.REGTYPE),
    "upwards": kind("runs/../../planted", tarfile.REGTYPE),
    "link": kind("runs/{run_id}/config.yaml", tarfile.SYMTYPE, "/etc/passwd"),
    "hard link": kind("runs/{run_id}/config.yaml", tarfile.LNKTYPE, CHECKSUMS),
    "device": kind("runs/{run_id}/config.yaml", tarfile.CHRTYPE),
    "directory": kind("runs", tarfile.DIRTYPE),
    "checkpoint": kind("runs/{run_id}/checkpoint/step-00000012.pt", tarfile.REGTYPE),
    "not listed": kind("runs/L9-N9-lr1e-3-0123456789ab/config.yaml", tarfile.REGTYPE),
}


@pytest.mark.parametrize("what", HOSTILE)
@pytest.mark.parametrize("place", ["before", "after"])
def test_a_hostile_tar_writes_nothing(archive, there, here, configs, what: str, place: str) -> None:
    member, content = HOSTILE[what]
    entries = members(archive)
    member.name = member.name.format(run_id=configs[0].run_id)
    pack(archive, [entries[0], (member, content), *entries[1:]] if place == "before" else [*entries, (member, content)])
    with pytest.raises(UserError, match=r"is refused: .*nothing was written") as refused:
        here.take(archive)
    assert "\n" not in str(refused.value)
    assert not here.runs.exists()


def test_a_file_beyond_its_limit_is_refused_by_its_header(archive, here) -> None:
    entries = members(archive)
    at = next(place for place, (member, _) in enumerate(entries) if member.name.endswith("result.json"))
    pack(archive, [*entries[:at], (entries[at][0], b" " * (2**20 + 1)), *entries[at + 1 :]])
    with pytest.raises(UserError, match=r"result\.json has more than 1 MiB"):
        here.take(archive)
    assert not here.runs.exists()


def test_a_changed_file_is_refused_by_its_checksum(archive, here) -> None:
    pack(archive, [(m, c.replace(b'"val_loss": 3.0', b'"val_loss": 2.9')) for m, c in members(archive)])
    with pytest.raises(UserError, match="has not the checksum that is noted"):
        here.take(archive)
    assert not here.runs.exists()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_tar_that_was_cut_off_or_damaged_is_refused_whole_or_taken_whole(archive, tmp_path, execution, data) -> None:
    content = archive.read_bytes()
    end = max(member.offset_data + member.size for member, _ in members(archive))
    if data.draw(st.booleans(), "cut off"):
        damaged = content[: data.draw(st.integers(0, end - 1), "bytes")]
    else:
        at = data.draw(st.integers(0, end - 1), "at")
        damaged = content[:at] + bytes([content[at] ^ data.draw(st.integers(1, 255), "flipped")]) + content[at + 1 :]
    target = tmp_path / f"damaged-{len(list(tmp_path.iterdir()))}"
    target.mkdir()
    (target / "x.tar").write_bytes(damaged)
    place = Place(target / "here", execution)
    try:
        found = place.take(target / "x.tar")
    except UserError:
        assert not place.runs.exists()
    else:  # a byte of a header that means nothing, such as the time
        assert len(found.taken) == 2
        assert found.refused == {}


def test_what_is_no_source_of_runs_is_one_line(tmp_path, here) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    for source, message in [("absent", "is no tar and no directory"), ("notes.txt", "truncated, or no tar")]:
        with pytest.raises(UserError, match=message):
            here.take(tmp_path / source)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no finished run"):
        here.take(tmp_path / "empty")
    assert not here.runs.exists()
