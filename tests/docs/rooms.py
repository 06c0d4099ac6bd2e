"""What the code itself says of its rooms: what they are, and which imports which.

A room is a folder of a package, or a module that lies beside the folders. A package's
``__init__`` only passes names on: inside of the package, what imports one of them depends on the
room that it comes from; outside, on the package.
"""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tests.docs.tracing import PACKAGES, room_of

ROOT = Path(__file__).resolve().parents[2]


@cache
def modules() -> dict[str, str]:
    """Return the files of both packages, by the names of their modules."""
    files = [path.relative_to(ROOT) for name in PACKAGES for path in (ROOT / name).rglob("*.py")]
    return {
        ".".join(file.with_suffix("").parts).removesuffix(".__init__"): file.as_posix()
        for file in files
    }


@cache
def tree(file: str) -> ast.Module:
    """Return a file's code, parsed."""
    return ast.parse((ROOT / file).read_text("utf-8"))


def rooms(package: str) -> list[str]:
    """Return the rooms of a package, such as ``framework/_tasks``."""
    files = (file for file in modules().values() if file.startswith(f"{package}/"))
    return sorted({room_of(file) for file in files} - {f"{package}/__init__.py"})


def title(room: str) -> str:
    """Return how a room is called: its folder's name, or its module's."""
    return room.split("/")[1].removesuffix(".py")


def purpose(room: str) -> str:
    """Return what a room is for: the first paragraph of its docstring."""
    file = room if room.endswith(".py") else f"{room}/__init__.py"
    text = ast.get_docstring(tree(file)) or ""
    return " ".join(text.partition("\n\n")[0].split())


def layers(package: str) -> list[list[str]]:
    """Return the rooms of a package as import-linter's layers have them, from the top."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    for contract in settings["tool"]["importlinter"]["contracts"]:
        if contract["type"] == "layers" and contract["containers"] == [package]:
            files = [layer.split(" | ") for layer in contract["layers"]]
            return [[room_of(modules()[f"{package}.{name}"]) for name in layer] for layer in files]
    raise LookupError(f"pyproject.toml has no layers of {package}")


def _imported(file: str) -> Iterator[tuple[str, str | None]]:
    """Give each module that a file imports anywhere, with the name that it takes from it."""
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield from ((node.module, alias.name) for alias in node.names)


def _source(module: str, name: str | None, package: str) -> str | None:
    """Return the file that an import in *package* is of; None if it is none of ours."""
    if f"{module}.{name}" in modules():
        return modules()[f"{module}.{name}"]
    if module == package:
        passed_on = {taken: source for source, taken in _imported(modules()[module])}
        module = passed_on.get(name, "")
    return modules().get(module)


@cache
def imports() -> dict[tuple[str, str], list[str]]:
    """Return the files for which one room imports another, those in functions included."""
    found: dict[tuple[str, str], list[str]] = {}
    for file in modules().values():
        for module, name in _imported(file):
            source = _source(module, name, file.split("/")[0])
            if source is not None and room_of(source) != room_of(file):
                found.setdefault((room_of(file), room_of(source)), []).append(file)
    return found
