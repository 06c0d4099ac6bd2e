"""The plugin uses the framework by its public names alone, so that the framework may change."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import framework
import pytest_asyncframe

Node = tuple[str, ast.AST]


def nodes(package_file: str | None) -> Iterator[Node]:
    """Yield each node of a package's source, with the file and line where it is."""
    assert package_file is not None
    folder = Path(package_file).parent
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            place = f"{path.relative_to(folder)}:{getattr(node, 'lineno', 1)}"
            yield place, node


PLUGIN = list(nodes(pytest_asyncframe.__file__))
FRAMEWORK = list(nodes(framework.__file__))

SHARED = {"_condition", "_scheduled", "_task", "_time", "_waiters", "_client"}
"""Private names of asyncio, concurrent.futures, threading and httpx that the plugin uses."""


def defined(found: list[Node]) -> set[str]:
    """Return the private names of classes, functions, attributes and variables."""
    names = set()
    for _, node in found:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            names.add(node.attr)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return {name for name in names if name.startswith("_") and not name.startswith("__")}


def imported() -> list[tuple[str, str, str]]:
    """Return what the plugin imports from the framework: the place, the module and the name."""
    return [
        (place, node.module or "", alias.name)
        for place, node in PLUGIN
        if isinstance(node, ast.ImportFrom) and f"{node.module}.".startswith("framework.")
        for alias in node.names
    ]


def test_imports_are_public() -> None:
    """Each name that is imported from the framework is in ``__all__`` of a public module."""
    private = [
        f"{place}: {module}.{name}"
        for place, module, name in imported()
        if "._" in module or name not in importlib.import_module(module).__all__
    ]
    assert imported()
    assert private == []


def test_no_string_names_a_module_of_the_framework() -> None:
    """No string is compared with the path of a module, which would miss it after a move."""
    assert [
        f"{place}: {node.value!r}"
        for place, node in PLUGIN
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and node.value.startswith("framework.")
    ] == []


def test_no_string_or_attribute_is_a_private_name_of_the_framework() -> None:
    """Neither getattr() nor a dot reaches for what only the framework's own code may use."""
    private = defined(FRAMEWORK) - defined(PLUGIN) - SHARED
    assert private
    assert [
        f"{place}: {name}" for place, node in PLUGIN if (name := reached(node)) in private
    ] == []


def reached(node: ast.AST) -> str:
    """Return the name that a node may reach for: an attribute, or a string; else ""."""
    if isinstance(node, ast.Attribute):
        return node.attr
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    return ""
