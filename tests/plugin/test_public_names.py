"""The plugin uses the framework by its public names alone, so that the framework may change."""

from __future__ import annotations

import ast
import functools
import importlib
import re
from pathlib import Path
from types import ModuleType

import pytest

import framework
import pytest_asyncframe

Node = tuple[str, ast.AST]


@functools.cache  # each test needs them
def nodes(package: ModuleType) -> list[Node]:
    """Return each node of a package's source, with the file and line where it is."""
    assert package.__file__ is not None
    folder = Path(package.__file__).parent
    files = [(str(path.relative_to(folder)), path) for path in sorted(folder.rglob("*.py"))]
    return [
        (f"{name}:{getattr(node, 'lineno', 1)}", node)
        for name, path in files
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
    ]


SHARED = {
    *("_condition", "_replace", "_scheduled", "_task", "_time", "_timer", "_waiters", "_client"),
    *("_loop", "_run", "_tasks"),
}
"""Private names of the standard library and of other packages that the plugin uses."""


def defined(package: ModuleType) -> set[str]:
    """Return the private names of classes, functions, attributes and variables."""
    names = set()
    for _, node in nodes(package):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            names.add(node.attr)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return {name for name in names if re.match(r"_[^_]", name)}


def imported() -> list[tuple[str, str, str]]:
    """Return what the plugin imports from the framework: the place, the module and the name."""
    return [
        (place, node.module or "", alias.name)
        for place, node in nodes(pytest_asyncframe)
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
        for place, node in nodes(pytest_asyncframe)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and node.value.startswith("framework.")
    ] == []


@pytest.mark.extended("time")
def test_no_attribute_is_a_private_name_of_the_framework() -> None:
    """The plugin uses private attributes of its own objects, and of no other ones."""
    private = defined(framework) - SHARED
    assert [
        f"{place}: {ast.unparse(node)}"
        for place, node in nodes(pytest_asyncframe)
        if isinstance(node, ast.Attribute)
        and node.attr in private
        and ast.unparse(node.value) not in ("self", "cls", "super()")
    ] == []


@pytest.mark.extended("time")
def test_no_string_is_a_private_name_of_the_framework() -> None:
    """No string, as for getattr(), is a private name that the plugin does not define itself."""
    private = defined(framework) - defined(pytest_asyncframe) - SHARED
    assert [
        f"{place}: {node.value!r}"
        for place, node in nodes(pytest_asyncframe)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in private
    ] == []


def test_turns_import_little() -> None:
    """What decides whose turn it is needs one module of the framework, and no patched waits."""
    modules = {module for place, module, _ in imported() if place.startswith("_turns/")}
    assert modules == {"framework.testing"}
    assert [
        f"{place}: {ast.unparse(node)}"
        for place, node in nodes(pytest_asyncframe)
        if place.startswith("_turns/")
        and isinstance(node, ast.Attribute)
        and node.attr in ("Condition", "Event", "Semaphore", "Barrier")
    ] == []


@pytest.mark.parametrize("name", ["benchmark", "clock", "faults"])
def test_exports_say_where_they_are_imported_from(name: str) -> None:
    """What tests annotate names the module that they import it from."""
    module = importlib.import_module(f"pytest_asyncframe.{name}")
    exported = set(module.__all__) - {"Row", "table"}  # of the report alone
    assert {getattr(module, one).__module__ for one in exported} == {module.__name__}
