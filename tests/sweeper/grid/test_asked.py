"""What is typed becomes a sweep: its name, the axes of its cells, the command that is kept. Nothing is trained."""

import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra
from rich.console import Console

import sweeper.train
from sweeper.errors import UserError
from sweeper.grid.asked import MAX_NAME
from sweeper.grid.build import compose_grid
from sweeper.records.sweep_manifest import Sweep, add

Compose = Callable[..., Sweep]


@pytest.fixture
def compose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Compose:
    """`compose(overrides)`: the sweep that a multirun asks for, on data that is not prepared."""

    def call(*overrides: str) -> Sweep:
        seen: list[Sweep] = []

        def launch(context, config, jobs, **_):
            seen.append(compose_grid(context, config, jobs, Console(), prepare=False).plan.sweep)

        paths = [f"paths.{name}={tmp_path / name}" for name in ("runs", "data")]
        GlobalHydra.instance().clear()
        monkeypatch.setattr("sweeper.execution.local.launch_local", launch)
        monkeypatch.setattr(sys, "argv", ["sweeper.train", "--multirun", *overrides, *paths])
        try:
            sweeper.train.main()
        except SystemExit:
            raise UserError(capfd.readouterr().err) from None
        return seen[0]

    return call


@pytest.mark.parametrize("kind", ["lr_transfer", "architectures", "exponent", "init_probe", "increments", "theory"])
def test_what_a_sweep_and_its_panels_set_by_themselves_is_no_extra_axis(kind: str, compose: Compose) -> None:
    sweep = compose(f"+sweep={kind}", "preset=smoke")
    assert (sweep.experiment, sweep.name, sweep.title) == (kind, f"{kind}-smoke", "")
    assert sweep.columns == (["architecture"] if kind == "architectures" else [])
    assert sweep.commands == (f"loopsweep submit +sweep={kind} preset=smoke",)


def test_of_several_grids_each_has_those_of_its_panels_that_are_asked_for(compose: Compose) -> None:
    whole = compose("+sweep=architectures", "preset=smoke").cells
    part = compose("+sweep=architectures", "preset=smoke", "panel=architectures/scaled,norms").cells
    assert {cell["panel"] for cell in part} == {"scaled", "norms"}
    assert part == tuple(cell for cell in whole if cell["panel"] in ("scaled", "norms"))
    with pytest.raises(UserError, match="panel=a is in no grid of this sweep"):
        compose("+sweep=architectures", "preset=smoke", "panel=scaled,a")


def test_a_cell_has_the_operations_of_its_run_attention_included(compose: Compose) -> None:
    shallow, deep = compose("preset=smoke", "panel=b", "model.n_loops=2,4").cells
    length = compose("preset=smoke", "panel=b", "model.n_loops=2", "schedule.steps=12,24").cells
    assert 1 < deep["flops"] / shallow["flops"] < 2  # the head is applied once
    assert length[1]["flops"] == pytest.approx(2 * length[0]["flops"])
    [narrow, wide] = compose("preset=smoke", "panel=b", "model.n_loops=2", "model.d_model=16,32").cells
    assert wide["flops"] < 4 * narrow["flops"]  # attention's products grow with the width alone


@pytest.mark.parametrize(
    ("overrides", "axes"),
    [
        (["optimizer.weight_decay=0,0.1"], ["optimizer.weight_decay"]),
        (["optimizer.grad_clip=null,0.5", "schedule.steps=12,14"], ["optimizer.grad_clip", "schedule.steps"]),
        (["precision=fp32,bf16"], ["precision"]),
        (["diagnostics=false,true"], ["diagnostics"]),
        (["model.block=pre_norm,post_norm"], ["architecture"]),
        (["model.loop=plain,add", "optimizer.beta2=0.9,0.99"], ["architecture", "optimizer.beta2"]),
        (["preset=smoke,quick"], ["preset"]),
        (["scaling.alpha=0.75,1", "scaling.beta=0.5"], []),  # the rule says it
        (["model.d_model=16,32"], []),
        (["scaling.ref_layers=1,2"], []),
        (["execution.threads=1,2"], []),  # changes no result: one cell
    ],
)
def test_a_swept_key_is_an_axis_unless_a_base_axis_shows_it(
    overrides: list[str], axes: list[str], compose: Compose
) -> None:
    sweep = compose("preset=smoke", "panel=b", "model.n_loops=2", *overrides)  # at N = 1 all exponents are one run
    assert sweep.columns == axes
    follow = ("run_id", "steps", "flops")
    rows = [tuple(value for key, value in row.items() if key not in follow) for row in sweep.rows()]
    assert len(set(rows)) == len(rows) == len(sweep.run_ids)
    assert len(rows) == (1 if overrides == ["execution.threads=1,2"] else 2 ** sum("," in text for text in overrides))


def test_a_value_that_follows_from_a_swept_key_is_an_axis(compose: Compose) -> None:
    sweep = compose("+sweep=init_probe", "preset=smoke", "panel=fig2e", "probe.init_std=0.1,0.2")
    assert sweep.columns == ["optimizer.init_std"]
    wider = compose("+sweep=init_probe", "preset=smoke", "panel=fig2e", "probe.depth=1,2,8")
    assert wider.columns == []
    assert {row["n_loops"] for row in wider.rows()} == {1, 2, 8}


def test_a_swept_key_that_no_axis_shows_is_refused_before_anything_is_written(compose: Compose, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tells the runs with scaling.rule=linear, scaling.rule=none apart"):
        compose("preset=smoke", "scaling.alpha=0.5", "scaling.rule=linear,none", "scaling.ref_layers=2", "panel=c")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("overrides", "name", "experiment"),
    [
        (["+sweep=lr_transfer", "optimizer.beta2=0.9"], "lr_transfer-smoke-optimizer.beta2=0.9", "lr_transfer"),
        (["+sweep=lr_transfer", "panel=a", "model.n_loops=1", "tracking=off"], "lr_transfer-smoke", "lr_transfer"),
        (["+sweep=lr_transfer", "title=My text", "panel=a"], "My_text-lr_transfer-smoke", "lr_transfer"),
        (["+sweep=lr_transfer", "experiment=mine", "panel=a"], "mine-lr_transfer-smoke", "lr_transfer"),
        (["experiment=mine", "panel=a,b", "optimizer.beta2=0.9,0.99"], "mine-smoke", "runs"),
        (["panel=a,b"], "runs-smoke", "runs"),
        (["panel=a", "preset=smoke,quick"], "runs-smoke+quick", "runs"),
        (["panel=a,b", "site@hydra.launcher=default", "hydra/launcher=slurm"], "runs-smoke", "runs"),
    ],
)
def test_a_sweep_has_a_title_and_a_kind_apart(
    overrides: list[str], name: str, experiment: str, compose: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "hydra/launcher=slurm" in overrides:  # with a launcher of its own
        from sweeper.execution import local
        from sweeper.execution.slurm import launch

        monkeypatch.setattr(launch, "launch_slurm", lambda *args, **_: local.launch_local(*args[:3]))
    sweep = compose("preset=smoke", *overrides)
    assert (sweep.name, sweep.experiment) == (name, experiment)


def test_a_long_name_is_cut_and_told_apart_by_a_hash(compose: Compose) -> None:
    long = ["+data.files=1", "optimizer.weight_decay=" + ",".join(f"{n / 1000}" for n in range(1, 40))]
    name = compose("preset=smoke", "panel=a", *long[1:]).name
    assert len(name) == MAX_NAME
    assert len(compose("preset=smoke", "panel=a", f"title='{'名' * 90}'").name.encode()) <= MAX_NAME
    assert compose("preset=smoke", "panel=a", f"{long[1]},0.05").name != name


def test_two_texts_in_folders_of_one_name_are_two_sweeps(compose: Compose, tmp_path: Path) -> None:
    sweeps = []
    for corpus in ("x", "y"):
        (tmp_path / corpus / "texts").mkdir(parents=True)
        (tmp_path / corpus / "texts" / "a.txt").write_text(corpus * 99)
        asked = compose("preset=smoke", "panel=a", f"data.path={tmp_path / corpus / 'texts'}")
        sweeps.append(add(tmp_path / "sweeps", asked)[0])
    assert sweeps[0].name == "runs-smoke-data.path=texts"
    assert sweeps[1].name == f"{sweeps[0].name}-{sweeps[1].id}"


def test_the_command_is_kept_as_typed_without_this_machines_places(
    compose: Compose, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MY_API_KEY", "0123456789-secret")
    (tmp_path / "my texts").mkdir()
    (tmp_path / "my texts" / "a.txt").write_text("text")
    typed = [f"data.path={tmp_path}/my texts", "tracking.project=0123456789-secret", "hydra.launcher.workers=1"]
    [command] = compose("preset=smoke", "panel=a", *typed).commands
    assert shlex.split(command) == [
        *("loopsweep", "submit", "preset=smoke", "panel=a", "data.path=~/my texts", "tracking.project=<MY_API_KEY>"),
        "hydra.launcher.workers=1",
    ]
