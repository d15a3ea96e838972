"""Property tests draw the same examples every time and have no deadline. Processes share the tests by directory."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from xdist.scheduler import LoadScopeScheduling

# An example may take long on a busy machine. `--hypothesis-profile=default` draws new examples.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

LONGEST_FIRST = ("sweeper", "slurm", "model", "analysis")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Directories that take longest start first."""

    def place(item: pytest.Item) -> int:
        first = item.path.relative_to(Path(__file__).parent).parts[0]
        return LONGEST_FIRST.index(first) if first in LONGEST_FIRST else len(LONGEST_FIRST)

    items.sort(key=place)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> "LoadScopeScheduling":
    """Tests that share costly fixtures, or the test cluster, go to one process."""
    from xdist.scheduler import LoadScopeScheduling

    class ByDirectory(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            _, directory, *_ = file.split("/")
            return file if directory == "model" else directory  # files in tests/model share little

    config.option.loadscopereorder = False  # see above for the order
    return ByDirectory(config, log)
