"""One file of Python that defines the model without this project: what its forward pass needs out of `model/`.

Definitions are copied as they are written, comments included. A method that nothing in the file mentions is left out,
such as the costs of a kind of block. Imports between the modules of `model/` vanish, because all stand in one file.
"""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import model

MODULES = ("neutral", "parameter_row", "parts", "blocks", "loop", "config", "layers", "loss", "transformer")
FOLDER = Path(model.__file__).parent
WRAPPER = Path(__file__).parent / "templates" / "modeling_looped.py.txt"
CALLED_BY_TORCH = ("forward", "backward")
_MARKER = "# --- model ---\n"

Definition = ast.ClassDef | ast.FunctionDef


@dataclass(frozen=True)
class _Statement:
    """A definition or an assignment at the top of a module, and the lines of the module."""

    node: ast.stmt
    lines: list[str]

    @property
    def names(self) -> set[str]:
        """What it defines."""
        if isinstance(self.node, Definition):
            return {self.node.name}
        targets = self.node.targets if isinstance(self.node, ast.Assign) else [getattr(self.node, "target", None)]
        return {target.id for target in targets if isinstance(target, ast.Name)}

    def methods(self) -> list[ast.FunctionDef]:
        """The methods of a class that are left out if nothing mentions them."""
        body = self.node.body if isinstance(self.node, ast.ClassDef) else []
        return [node for node in body if isinstance(node, ast.FunctionDef) and not node.name.startswith("__")]

    def mentions(self, used: set[str]) -> set[str]:
        """The names in it, without those in methods that are left out."""
        out = {id(node) for method in self.methods() if method.name not in used for node in ast.walk(method)}
        return set(_names(node for node in ast.walk(self.node) if id(node) not in out))

    def text(self, used: set[str]) -> str:
        """Its source, without the methods that are left out."""
        out = {n for method in self.methods() if method.name not in used for n in _span(method)}
        first, last = _span(self.node)[0], self.node.end_lineno or 0
        return "\n".join(line for n, line in enumerate(self.lines[first - 1 : last], first) if n not in out)


def modeling_source() -> str:
    """The modeling file: the wrapper for `transformers`, with the model's definitions at its marker."""
    wrapper = WRAPPER.read_text(encoding="utf-8")
    code = wrapper.partition(_MARKER)[2]
    own = ast.parse(wrapper)
    modules = [(FOLDER / f"{module}.py").read_text(encoding="utf-8") for module in MODULES]
    statements = [_Statement(node, text.splitlines()) for text in modules for node in _statements(ast.parse(text))]
    defined = {name for node in _statements(own) for name in _Statement(node, []).names}
    used = {*_names(ast.walk(own)), *CALLED_BY_TORCH}
    while True:
        kept = [one for one in statements if one.names & used and not one.names & defined]
        found = used.union(*(one.mentions(used) for one in kept))
        if found == used:
            break
        used = found
    body = "\n\n\n".join(one.text(used).strip("\n") for one in kept)
    imports = _import_block([own, *map(ast.parse, modules)], used)
    return f'"""{ast.get_docstring(own)}\n"""\n\n{imports}\n\n\n{body}\n\n\n{code}'


def _statements(module: ast.Module) -> Iterator[ast.stmt]:
    yield from (node for node in module.body if isinstance(node, Definition | ast.Assign | ast.AnnAssign))


def _names(nodes: Iterator[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr


def _span(node: ast.stmt) -> range:
    """The lines of a statement, with decorators, and for a method the empty line before it."""
    decorators = node.decorator_list if isinstance(node, Definition) else []
    first = min([node.lineno, *(one.lineno for one in decorators)])
    return range(first - (node.col_offset > 0), (node.end_lineno or 0) + 1)


def _import_block(modules: list[ast.Module], used: set[str]) -> str:
    """The imports that bring the names in `used`, without those between the modules of `model/`."""
    plain: set[str] = set()
    names: dict[str, set[str]] = {}
    for node in (node for module in modules for node in ast.walk(module)):
        if isinstance(node, ast.Import):
            plain |= {f"import {ast.unparse(alias)}" for alias in node.names if _bound(alias) in used}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] != "model":
            found = {ast.unparse(alias) for alias in node.names if _bound(alias) in used}
            names.setdefault(node.module, set()).update(found)
    lines = sorted(plain) + [
        f"from {module} import {', '.join(sorted(names[module]))}" for module in sorted(names) if names[module]
    ]
    standard = [line for line in lines if line.split()[1].split(".")[0] in sys.stdlib_module_names]
    return "\n".join([*standard, "", *(line for line in lines if line not in standard)])


def _bound(alias: ast.alias) -> str:
    """The name that an import binds."""
    return alias.asname or alias.name.partition(".")[0]
