"""Points at lines and bytecodes: which there are, and what they find."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import dedent

import pytest

from pytest_asyncframe._explore.points import bytecode
from pytest_asyncframe._explore.points.follower import Followed, Follower
from tests.explore.lines.batons import Relay, schedules
from tests.explore.modules import ONE_LINE, TWO_LINES, Names, module, places

pytestmark = pytest.mark.usefixtures("untraced")


def outcomes(root: Path, level: str, source: str, most: int) -> set[str]:
    """Return what `result` says, and what was raised, after `left` and `right` in all schedules.

    Args:
        root: Where the module with the three functions is.
        level: "line" or "opcode".
        source: The module.
        most: How many switches a schedule may have.
    """
    found: set[str] = set()
    lines = Follower(level, Followed(root, ()))
    code = compile(dedent(source), str(root / "app.py"), "exec")

    def run(switches: Sequence[int]) -> int:
        names: Names = {}
        exec(code, names)
        relay = Relay([names["left"], names["right"]], switches, lines.begin_thread)
        relay.run(lines.calling)
        found.add(" ".join([repr(names["result"]()), *map(repr, relay.errors)]))
        return len(relay.points)

    with lines.claimed():
        for _ in schedules(run, most):
            pass
    return found


# ------------------------------------------------------------------ what they find


@pytest.mark.parametrize(
    ("source", "level", "sums"),
    [
        (ONE_LINE, "line", {"2"}),
        (ONE_LINE, "opcode", {"1", "2"}),
        (TWO_LINES, "line", {"1", "2"}),
        (TWO_LINES, "opcode", {"1", "2"}),
    ],
)
def test_lost_updates(tmp_path: Path, source: str, level: str, sums: set[str]) -> None:
    """Bytecodes split ``n += 1``, lines do not; both split an update that takes two lines."""
    assert outcomes(tmp_path, level, source, 2) == sums


# ------------------------------------------------------------------ nothing is missed

PROGRAMS = {
    "attributes": """
        class Box: pass
        box = Box(); box.value = 1; box.seen = []

        def left():
            a = box.value
            b = a, a
            c = b
            box.value = a * 2
            box.seen.append(c)

        def right():
            old = None
            box.value += 3
            new = old
            box.seen.append(new)

        def result():
            return box.value, box.seen
    """,
    "aliases": """
        shared = []

        def left(xs=shared):
            ys = xs
            ys += [1]
            if ys:
                ys *= 2

        def right(xs=shared):
            x, = xs or [5]
            xs.append(x)

        def result():
            return shared
    """,
    "cells": """
        def pair():
            count = 0

            def left():
                nonlocal count
                mine = count
                other = mine
                count = other + 1

            return left, (lambda: count)

        left, count = pair()
        def right():
            seen.append(count())
            left()
        seen = []

        def result():
            return seen, count()
    """,
    "loops": """
        items = [1, 2]
        taken = []

        def left():
            for item in items:
                one = item
                taken.append(one)

        def right():
            last = items.pop() if items else None
            if last is not None:
                items.insert(0, 9)

        def result():
            return taken, items
    """,
    "errors": """
        stock = {"a": 1}
        told = []

        def left():
            try:
                one = stock["a"]
                del stock["a"]
            except KeyError as error:
                told.append(error.args)
            finally:
                told.append("end")

        right = left

        def result():
            return told
    """,
    "generators": """
        numbers = [1]

        def each():
            first = 0
            while first < len(numbers):
                yield numbers[first]
                first += 1

        def left():
            for number in each():
                if number < 2:
                    numbers.append(number + 1)

        def right():
            numbers[:] = [number for number in numbers if number > 1]

        def result():
            return numbers
    """,
    "caches": """
        import functools

        @functools.lru_cache
        def made():
            one = []
            return one

        found = []
        def left():
            found.append(made())
        right = left

        def result():
            return found[0] is found[1]
    """,
}


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize(
    "level", ["line", pytest.param("opcode", marks=pytest.mark.extended("time"))]
)
def test_nothing_is_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, level: str
) -> None:
    """Points at every line or bytecode lead to no result that those that matter do not."""
    found = outcomes(tmp_path, level, PROGRAMS[name], 2)

    monkeypatch.setattr(bytecode, "_ALONE", set())
    assert outcomes(tmp_path, level, PROGRAMS[name], 2) == found


# ------------------------------------------------------------------ which places there are

KINDS_OF_LINES = """
    n = 0

    def call():
        alone = 1
        seen = n
        other = alone
        for number in (1, 2):
            last = number
        total = [
            other,
            seen,
        ]
        with open(__file__) as file:
            pass
        return sum(one
                   for one in total)
"""


@pytest.mark.parametrize("level", ["line", "opcode"])
def test_each_run_comes_to_the_same_places(tmp_path: Path, level: str) -> None:
    """Repeated calls come to the same places, though Python makes code that is often run faster."""
    call = module(tmp_path, TWO_LINES)["left"]
    lines = Follower(level, Followed(tmp_path, ()))
    runs: list[list[str]] = []
    with lines.claimed():
        for _ in range(50):
            runs.append([])
            with lines.calling(lambda _, place: runs[-1].append(place)):
                call()

    assert runs[0]
    assert runs == [runs[0]] * 50


def test_lines_that_matter(tmp_path: Path) -> None:
    """A line has a point if it does more than use local variables, or returns."""
    names = module(
        tmp_path,
        """
        n = 0

        def call(shared):
            alone = 1
            seen = n
            other = alone
            if alone is not None:
                shared += [seen]
            pair = (
                other,
                seen,
            )
            del alone
            return pair
        """,
    )

    assert places(tmp_path, "line", lambda: names["call"]([])) == [
        *("app.py:6", "app.py:9", "app.py:15"),
    ]


def test_a_coroutine(tmp_path: Path) -> None:
    """A coroutine that goes on after it was suspended has points there as well."""
    names = module(
        tmp_path,
        """
        import types
        n = 0

        @types.coroutine
        def suspended():
            yield

        async def call():
            before = n
            await suspended()
            after = n
        """,
    )
    coroutine = names["call"]()

    def send() -> None:
        coroutine.send(None)

    assert places(tmp_path, "line", send) == ["app.py:10", "app.py:11", "app.py:7"]
    with pytest.raises(StopIteration, match=r"^$"):
        places(tmp_path, "line", send)


def test_bytecodes_have_lines(tmp_path: Path) -> None:
    """The name of a bytecode has its line and its offset."""
    found = places(tmp_path, "opcode", module(tmp_path, ONE_LINE)["left"])

    lines, offsets = zip(*(name.split("+") for name in found), strict=True)
    assert set(lines) == {"app.py:6"}
    assert sorted(offsets, key=int) == list(offsets)
