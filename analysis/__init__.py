"""Records in, figures and verdicts out. Never imports torch: figures redraw where nothing trains.

`analysis.load("results/quick")` gives the tables, see `analysis.results`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analysis.results import Results, load

__all__ = ["Results", "load"]


def __getattr__(name: str) -> Any:  # on demand, so that `analysis.figures` lists figures without pandas
    if name in __all__:
        return getattr(import_module("analysis.results"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
