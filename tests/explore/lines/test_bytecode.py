"""Which lines and bytecodes matter to other threads, and what they are called."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import CodeType

import pytest

from pytest_asyncframe._explore import schedule
from pytest_asyncframe._explore.points import bytecode
from tests.explore.modules import TWO_LINES, module

LOCAL = [
    "pass",
    "a = 1",
    "a = b",
    "a, b = b, a",
    "a = [b, (c, 1)]",
    "a = b is c",
    "a = b if c is None else 1",
    "a = lambda: 1",
    "del a",
    "a = lambda: b",
]
"""Statements that only use local variables, constants and new objects."""

SHARED = [
    "a += b",
    "a = b < c",
    "a = b in c",
    "a = not b",
    "a = b or c",
    "a = 1 if b else 2",
    "assert a",
    "a = f'{b}'",
    "a = [*b]",
    "a = {b: 1}",
    "a, b = c",
    "a = b.c",
    "a.b = c",
    "a = b[0]",
    "del a[0]",
    "for a in b: pass",
    "with a: pass",
    "a()",
    "a = n",
    "shared = 1",
    "a = shared",
    "import n",
    "raise a",
    "yield",
    "return",
]
"""Statements that may use what other threads see."""


def test_statements_that_matter(tmp_path: Path) -> None:
    """A statement has a point unless it only uses local variables, constants and new objects."""
    matter = {one: has_a_point(tmp_path, one) for one in (*LOCAL, *SHARED)}
    assert matter == {**dict.fromkeys(LOCAL, False), **dict.fromkeys(SHARED, True)}


def has_a_point(root: Path, statement: str) -> bool:
    """Whether others may run before a statement."""
    names = module(
        root,
        f"""
        n = 0

        def call(a, b, c):
            def other():
                return shared

            shared = 0
            {statement}
            return a
        """,
    )
    return 9 in bytecode.lines(names["call"].__code__, "app.py")


@pytest.mark.parametrize("named", [bytecode.lines, bytecode.bytecodes])
def test_breakpoints(
    tmp_path: Path, named: Callable[[CodeType, str], dict[int, schedule.Location]]
) -> None:
    """Lines with a breakpoint or a comment change the names of places, but not their keys."""
    without, among = (
        module(tmp_path, TWO_LINES.replace("seen = n", f"seen = n{more}"))["left"].__code__
        for more in ("", "\n        # Now.\n        breakpoint()")
    )
    ending = module(tmp_path, TWO_LINES.replace("seen + 1", "seen + 1\n        breakpoint()"))

    keys = [place.key for place in named(without, "app.py").values()]
    assert [place.key for place in named(among, "app.py").values()] == keys
    assert [place.key for place in named(ending["left"].__code__, "app.py").values()] == keys
    assert named(among, "app.py") != named(without, "app.py")
