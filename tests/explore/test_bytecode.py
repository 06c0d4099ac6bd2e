"""Which lines and bytecodes matter to other threads, and what they are called."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import CodeType

import pytest

from pytest_asyncframe._explore import schedule
from pytest_asyncframe._explore.points import bytecode
from tests.explore.modules import TWO_LINES, module


@pytest.mark.parametrize(
    ("statement", "matters"),
    [
        ("pass", False),
        ("a = 1", False),
        ("a = b", False),
        ("a, b = b, a", False),
        ("a = [b, (c, 1)]", False),
        ("a = b is c", False),
        ("a = b if c is None else 1", False),
        ("a = lambda: 1", False),
        ("del a", False),
        ("a += b", True),
        ("a = b < c", True),
        ("a = b in c", True),
        ("a = not b", True),
        ("a = b or c", True),
        ("a = 1 if b else 2", True),
        ("assert a", True),
        ("a = f'{b}'", True),
        ("a = [*b]", True),
        ("a = {b: 1}", True),
        ("a, b = c", True),
        ("a = b.c", True),
        ("a.b = c", True),
        ("a = b[0]", True),
        ("del a[0]", True),
        ("for a in b: pass", True),
        ("with a: pass", True),
        ("a()", True),
        ("a = n", True),
        ("a = lambda: b", False),
        ("shared = 1", True),
        ("a = shared", True),
        ("import n", True),
        ("raise a", True),
        ("yield", True),
        ("return", True),
    ],
)
def test_statements_that_matter(tmp_path: Path, statement: str, matters: bool) -> None:
    """A statement has a point unless it only uses local variables, constants and new objects."""
    names = module(
        tmp_path,
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

    assert (9 in bytecode.lines(names["call"].__code__, "app.py")) is matters


@pytest.mark.parametrize("named", [bytecode.lines, bytecode.bytecodes])
def test_breakpoints(
    tmp_path: Path, named: Callable[[CodeType, str], dict[int, schedule.Place]]
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
