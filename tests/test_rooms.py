"""The house stays open: imports point down, nothing is imported in a circle, the plain model knows no fast path."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
# The rooms of `sweeper`, from the ground up. A room may import from rooms that stand before it.
FLOORS = (
    {"errors", "hardware"},
    {"files", "run"},
    {"records", "data"},
    {"config", "training", "tracking", "display"},
    {"grid", "model_export"},
    {"execution"},
    {"train", "plugins"},
    {"cli"},
    {"__main__"},
)


def imports(file: Path, *, inside_functions: bool = True) -> Iterator[str]:
    """Names of the modules that a file imports, those for type checking included."""
    tree = ast.parse(file.read_text())
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    within = {id(node) for function in functions for node in ast.walk(function)}
    for node in ast.walk(tree):
        if inside_functions or id(node) not in within:
            if isinstance(node, ast.ImportFrom) and node.module:
                yield node.module
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
            elif isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)


def sources(package: str) -> list[Path]:
    return sorted((REPOSITORY / package).rglob("*.py"))


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def test_every_room_of_the_sweeper_has_its_floor() -> None:
    entries = {file.relative_to(REPOSITORY / "sweeper").parts[0].removesuffix(".py") for file in sources("sweeper")}
    assert entries - {"__init__"} == set().union(*FLOORS)


@pytest.mark.parametrize("file", sources("sweeper"), ids=lambda file: str(file.relative_to(REPOSITORY)))
def test_arrows_of_the_sweeper_point_down(file: Path) -> None:
    floor = {name: number for number, names in enumerate(FLOORS) for name in names}
    here = file.relative_to(REPOSITORY / "sweeper").parts[0].removesuffix(".py")
    if here == "__init__":
        return
    for module in imports(file):
        target = room(module) if module.startswith("sweeper.") else here
        assert target == here or floor.get(target, -1) < floor[here], f"{here} imports {module}"


@pytest.mark.parametrize("package", ["model", "sweeper", "analysis"])
def test_no_circle(package: str) -> None:
    names = {
        ".".join(file.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__"): file
        for file in sources(package)
    }
    uses = {name: {module for module in imports(file) if module in names} - {name} for name, file in names.items()}
    for name, used in uses.items():  # a package only hands on the names of its modules
        used -= {module for module in used if name.startswith(f"{module}.")}
    while free := [name for name, used in uses.items() if not used & set(uses)]:
        for name in free:
            del uses[name]
    assert not uses, f"circle among {', '.join(uses)}"


@pytest.mark.parametrize("file", sources("model"), ids=lambda file: file.name)
def test_the_model_imports_nothing_inside_a_function(file: Path) -> None:
    assert list(imports(file)) == list(imports(file, inside_functions=False))


@pytest.mark.parametrize("file", [REPOSITORY / "model" / "transformer.py", REPOSITORY / "model" / "loop.py"])
def test_the_plain_model_knows_no_fast_path(file: Path) -> None:
    assert not [module for module in imports(file) if module.startswith("model.cpu")]


def test_the_model_and_the_records_know_nothing_of_what_stands_above() -> None:
    assert not [
        module for file in sources("model") for module in imports(file) if module.startswith(("sweeper", "analysis"))
    ]
    above = ("sweeper.config", "sweeper.grid", "sweeper.training", "sweeper.execution", "sweeper.cli", "torch")
    assert not [module for file in sources("analysis") for module in imports(file) if module.startswith(above)]
