"""What the packages use of Python and of other projects that is not public."""

from __future__ import annotations

import ast
import concurrent.futures.thread
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CellType, FunctionType, SimpleNamespace

import pytest

from framework._app.handlers import lifespans_in
from framework._threads import exits
from framework._threads.watch import stacks
from pytest_asyncframe import _borrowed
from tests.plugin.endings import PLAIN

ROOT = Path(__file__).parents[1]

ELSEWHERE = {
    # In the documentation of Python, SQLAlchemy or Celery, in spite of their names.
    *("_getframe", "_current_frames", "_get_running_loop", "_mapping", "_get_current_object"),
    *("_exit", "_fields"),
    # Checked where they are used: by `exits`, and by `repeating` for pytest.
    *("_threads_queues", "_shutdown", "_global_shutdown_lock"),
    *("_report_sections", "_setupstate", "_hookexec", "_initrequest"),
    # Only there after a check with hasattr, or where an error may say that it is missing.
    *("_PoolCache", "_fixtureinfo", "_thread_name_prefix", "_on_completed_fut"),
}


def stored(tree: ast.AST) -> Iterator[str]:
    """Yield the names that a module defines, and the attributes that it gives its own objects."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif (
            isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store)
            and ast.unparse(node.value) in {"self", "cls"}
        ):
            yield node.attr


def foreign() -> set[tuple[str, str]]:
    """Return the private names that the packages read of what they have not made, and where."""
    trees = {
        path: ast.parse(path.read_text("utf-8"))
        for package in ("framework", "pytest_asyncframe")
        for path in (ROOT / package).rglob("*.py")
    }
    own = {part for path in trees for part in (path.stem, path.parent.name)}
    own.update(*map(stored, trees.values()))
    return {
        (node.attr, path.name)
        for path, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and re.match("_(?!_)", node.attr)
        and node.attr not in own
    }


@pytest.mark.extended("time")
def test_what_is_not_public_is_checked_or_has_a_default() -> None:
    """A private name of another project is listed by a check, or read with a default.

    What a pool needs to end is checked at its import, which says what is missing.
    """
    checked = {name for _, _, names in _borrowed._needed() for name in names}

    assert {one for one in foreign() if one[0] not in checked | ELSEWHERE} == set()

    exits.require_known(concurrent.futures.thread)
    told = (
        r"^asyncframe needs _shutdown of concurrent\.futures\.thread, which Python 3\.\d+ does not "
        r"have: use a newer asyncframe, or an older Python$"
    )
    with pytest.raises(ImportError, match=told):
        exits.require_known(SimpleNamespace(_threads_queues={}))


def test_a_python_without_what_virtual_time_needs(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A test fails with a sentence that names what is missing, and other tests pass."""
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function\n")
    pytester.makepyfile("def test_it(asyncframe): pass\n\ndef test_other(): pass")
    monkeypatch.setattr(_borrowed, "require_known", inspect.unwrap(_borrowed.require_known))
    monkeypatch.setattr(_borrowed, "_needed", lambda: [("asyncio.Handle", object(), ("_args",))])
    result = pytester.runpytest_inprocess(*PLAIN)

    result.assert_outcomes(errors=1, passed=1)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    told = (
        f"virtual time needs _args of asyncio.Handle, which Python {version} does not have: use a "
        "newer asyncframe, or an older Python"
    )
    assert told in result.stdout.str()


def test_looks_that_find_nothing() -> None:
    """A closure without a value, and a loop that runs its callbacks elsewhere, are no errors."""
    value = 7

    def inner() -> int:
        return value

    lifespan = FunctionType(inner.__code__, {}, closure=(CellType(),))
    assert list(lifespans_in(lifespan)) == [lifespan]

    frame = sys._getframe()
    code = frame.f_code
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stacks, "_CALLBACK", None)
        assert stacks.turn_of(frame) is code
