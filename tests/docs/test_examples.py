"""Every file of docs/examples passes its own tests and stands on some page."""

from __future__ import annotations

import ast
import asyncio
import gc
import importlib.util
import inspect
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from tests.ci.scripts import load
from tests.plugin.endings import LOOPS

DOCS = Path(__file__).resolve().parents[2] / "docs"
EXAMPLES = sorted((DOCS / "examples").glob("*.py"))
PLUGIN_EXAMPLES = sorted((DOCS / "examples" / "plugin").glob("*.py"))
"""These are collected by pytest itself."""
APPS = sorted((DOCS / "examples" / "apps").glob("*.py"))
"""These have schedules, which other tests of the process would run as well."""
SHOWN = re.compile(r"^<!-- \[\[\[cog (.*) \]\]\] -->\n([^\0]*?)^<!-- \[\[\[end", re.MULTILINE)
"""A call that writes a block into a page, and that block."""


@contextmanager
def imported(path: Path) -> Iterator[ModuleType]:
    """Import a file as a module, and forget it afterwards."""
    name = f"docs_example_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        del sys.modules[name]
        # Schedules end with their functions, and the next test must not run these.
        vars(module).clear()
        gc.collect()


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example(path: Path) -> None:
    """The tests in an example pass."""
    with imported(path) as module:
        if hasattr(module, "time"):
            # It sleeps so that readers have something to watch.
            vars(module)["time"] = SimpleNamespace(sleep=lambda _: None)
        tests = [test for name, test in vars(module).items() if name.startswith("test_")]
        assert tests, "an example shows that it works"
        for test in tests:
            if inspect.iscoroutinefunction(test):
                asyncio.run(test())
            else:
                test()
        tests.clear()
        del test


@pytest.mark.extended("processes")
@pytest.mark.parametrize("path", APPS, ids=lambda path: path.stem)
def test_app(pytester: pytest.Pytester, path: Path) -> None:
    """The tests of a whole app pass in a process of their own."""
    pytester.makepyfile(**{path.stem: path.read_text("utf-8")})
    options = ("-p", "no:cacheprovider", *LOOPS)
    counts = pytester.runpytest_subprocess(*options).parseoutcomes()
    assert counts == {"passed": path.read_text("utf-8").count("def test_")}


def test_every_example_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """Some page shows each file, and all pages show what the files have (or: make pages)."""
    pages = {str(page): page.read_text("utf-8") for page in DOCS.rglob("*.md")}
    blocks = [(name, *block) for name, text in pages.items() for block in SHOWN.findall(text)]
    files = [path.relative_to(DOCS).as_posix() for path in [*EXAMPLES, *PLUGIN_EXAMPLES, *APPS]]
    calls = "\n".join(call for _, call, _ in blocks)
    names = vars(load("shown"))
    old = []
    for name, call, block in blocks:
        eval(call, names)
        if capsys.readouterr().out != block:
            old.append((name, call))

    assert old == []
    assert [file for file in files if f'"docs/{file}"' not in calls] == []


def imports_of(path: Path) -> set[str]:
    """Return the full names that a file imports from the framework's packages."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] in ("framework", "pytest_asyncframe")}


def test_examples_import_nothing_private() -> None:
    """An example imports public names of public modules."""
    private = {
        path.relative_to(DOCS).as_posix(): sorted(found)
        for path in [*EXAMPLES, *PLUGIN_EXAMPLES, *APPS]
        if (found := {name for name in imports_of(path) if "._" in name})
    }

    assert private == {}


def test_parts_of_ones_own_need_four_modules() -> None:
    """A store and an engine can be written with the protocols and what every app imports."""
    four = {"framework", "framework.exceptions", "framework.protocols", "framework.testing"}
    paths = {
        name: DOCS / "examples" / f"{name}.py" for name in ("jsonl_store", "subprocess_engine")
    }
    others = {
        name: {one.rpartition(".")[0] for one in imports_of(path)} - four
        for name, path in paths.items()
    }

    assert others == {"jsonl_store": set(), "subprocess_engine": set()}
