"""conf/ as Hydra composes it: short names, nodes, and values that are needed without Hydra."""

from pathlib import Path
from typing import Any

import pytest
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from sweeper.config.checks import plugin_options
from sweeper.config.compose import compose_config
from sweeper.config.register import CONFIG_DIR, short_names
from sweeper.errors import UserError
from sweeper.execution.slurm.options import SlurmOptions
from sweeper.tracking.tables import default_base_url

PANELS = sorted((CONFIG_DIR / "panel").rglob("*.yaml"))


def composed(*overrides: str) -> Any:
    GlobalHydra.instance().clear()
    config = compose_config(overrides)
    return OmegaConf.to_container(
        OmegaConf.masked_copy(config, [key for key in config if key != "hydra"]), resolve=True
    )


@pytest.mark.parametrize("file", PANELS, ids=lambda file: file.stem)
def test_a_panel_is_found_by_its_short_name_which_is_also_its_name_in_records(file: Path) -> None:
    option = f"{file.parent.name}/{file.stem}"
    short = composed("preset=smoke", f"panel={file.stem}")
    assert short == composed("preset=smoke", f"panel={option}")
    assert short["panel"] == file.stem


def test_panels_are_there_and_each_has_a_folder_and_a_name_of_its_own() -> None:
    assert len(PANELS) == 22
    assert short_names(CONFIG_DIR / "panel") == {file.stem: f"{file.parent.name}/{file.stem}" for file in PANELS}


def test_a_name_in_two_folders_stands_for_neither(tmp_path: Path) -> None:
    for option in ("one/a", "one/b", "two/a"):
        (tmp_path / f"{option}.yaml").parent.mkdir(exist_ok=True)
        (tmp_path / f"{option}.yaml").touch()
    assert short_names(tmp_path) == {"b": "one/b"}


@pytest.mark.parametrize("variable", [None, "http://mine"])
def test_the_server_is_the_same_with_and_without_hydra(monkeypatch: pytest.MonkeyPatch, variable) -> None:
    if variable is None:
        monkeypatch.delenv("WANDB_BASE_URL", raising=False)
    else:
        monkeypatch.setenv("WANDB_BASE_URL", variable)
    assert composed("preset=quick")["tracking"]["base_url"] == default_base_url()


def test_resolvers_have_the_projects_name_in_front() -> None:
    assert OmegaConf.has_resolver("loopsweep.times")
    assert OmegaConf.has_resolver("loopsweep.comma")
    text = "".join(file.read_text() for file in CONFIG_DIR.rglob("*.yaml"))
    assert "${times:" not in text
    assert "${comma:" not in text


def launcher_of(tmp_path: Path, site: str) -> Any:
    """The options of SLURM's launcher with conf/site/mine.yaml."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "mine.yaml").write_text(site)
    GlobalHydra.instance().clear()
    overrides = ["hydra/launcher=slurm", "site@hydra.launcher=mine", f"hydra.searchpath=[file://{tmp_path}]"]
    return plugin_options(compose_config(overrides), "launcher")


def test_a_site_changes_the_options_that_it_names(tmp_path: Path) -> None:
    site = 'partition: gpu\ntime: "2-00:00:00"\nsetup: [module load cuda]\nextra: {exclude: "node[07-08]"}\nmem: 64G\n'
    options = launcher_of(tmp_path, site)
    assert isinstance(options, SlurmOptions)
    assert (options.partition, options.minutes, options.setup) == ("gpu", 2880, ["module load cuda"])
    assert (options.extra, options.mem, options.nodes) == ({"exclude": "node[07-08]"}, "64G", 1)
    assert SlurmOptions.from_dict(options.to_dict()).to_dict() == options.to_dict()
    assert set(options.to_dict()).isdisjoint({"_target_", "plan_only"})


@pytest.mark.parametrize(
    ("site", "named"),
    [
        ("partitoin: gpu\n", "partitoin"),
        ("cpus_per_gpu: many\n", "cpus_per_gpu"),
        ("setup: module load cuda\n", "setup"),
        ("nodes: 0\n", "hydra.launcher.nodes=0 must be at least 1"),
        ("extra: {exclude: [a, b]}\n", "hydra.launcher.extra={exclude: [a, b]} must be options of sbatch by name"),
        ("mem: [\n", "mine.yaml"),
    ],
)
def test_a_wrong_site_is_one_line_that_names_the_key(tmp_path: Path, site: str, named: str) -> None:
    with pytest.raises(UserError) as refused:
        launcher_of(tmp_path, site)
    assert named in str(refused.value)
    assert "\n" not in str(refused.value)
