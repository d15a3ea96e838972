"""The files of presets, what presets of old records are called today, and the records that ship with the project."""

from pathlib import Path

PRESETS = Path(__file__).resolve().parents[2] / "conf" / "preset"
SHIPPED = Path(__file__).resolve().parents[2] / "results"


def name_today(name: str, steps: int) -> str:
    """The preset's name today: `<name>_<steps>` if it was kept under that name and `name` has other values now."""
    former = f"{name}_{steps}"
    return former if (PRESETS / f"{former}.yaml").is_file() else name
