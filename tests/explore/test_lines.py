"""Points at lines and bytecodes: which there are, whose, and what they find."""

from __future__ import annotations

import functools
import json
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from textwrap import dedent
from types import CodeType, FrameType
from typing import Any

import pytest

from pytest_asyncframe._explore import bytecode, schedule
from pytest_asyncframe._explore.lines import Lines, Scope
from pytest_asyncframe._places import users_frame
from tests.explore.batons import Relay, schedules

MONITORED = sys.version_info >= (3, 12)
monitored = pytest.mark.skipif(not MONITORED, reason="sys.monitoring is new in Python 3.12")
traced = pytest.mark.skipif(MONITORED, reason="only Python 3.11 needs sys.settrace")

pytestmark = pytest.mark.usefixtures("untraced")

Names = dict[str, Any]  # Any: what a module has


def module(root: Path, source: str, file: str = "app.py") -> Names:
    """Return what a module under *root* defines."""
    names: Names = {"__name__": "app"}
    exec(compile(dedent(source), str(root / file), "exec"), names)
    return names


def places(
    root: Path, level: str, call: Callable[[], object], own: Sequence[CodeType] = ()
) -> list[str]:
    """Return the names of the places that a call comes to, in order."""
    found: list[str] = []
    lines = Lines(level, Scope(root, own))
    with lines.claimed(), lines.calling(lambda _, place: found.append(place)):
        call()
    return found


def outcomes(root: Path, level: str, source: str, most: int) -> set[str]:
    """Return what `result` says, and what was raised, after `left` and `right` in all schedules.

    Args:
        root: Where the module with the three functions is.
        level: "line" or "opcode".
        source: The module.
        most: How many switches a schedule may have.
    """
    found: set[str] = set()
    lines = Lines(level, Scope(root, ()))
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

ONE_LINE = """
    n = 0

    def left():
        global n
        n += 1

    right = left

    def result():
        return n
"""

TWO_LINES = """
    n = 0

    def left():
        global n
        seen = n
        n = seen + 1

    right = left

    def result():
        return n
"""


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
                if number < 3:
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
@pytest.mark.parametrize("level", ["line", "opcode"])
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
    lines = Lines(level, Scope(tmp_path, ()))
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
    with pytest.raises(StopIteration):
        places(tmp_path, "line", send)


def test_bytecodes_have_lines(tmp_path: Path) -> None:
    """The name of a bytecode has its line and its offset."""
    found = places(tmp_path, "opcode", module(tmp_path, ONE_LINE)["left"])

    lines, offsets = zip(*(name.split("+") for name in found), strict=True)
    assert set(lines) == {"app.py:6"}
    assert sorted(offsets, key=int) == list(offsets)


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


# ------------------------------------------------------------------ which code is followed


def test_code_of_installed_packages(tmp_path: Path) -> None:
    """Of the files under the root directory, those of installed packages are not followed."""
    ours = module(tmp_path, ONE_LINE, "src/app.py")["left"]
    theirs = module(tmp_path, ONE_LINE, ".venv/lib/site-packages/other.py")["left"]

    def both() -> None:
        ours()
        theirs()
        functools.reduce(max, [1, 2])

    assert places(tmp_path, "line", both) == ["src/app.py:6"]


def test_code_elsewhere(tmp_path: Path) -> None:
    """A file beside the root directory is not followed."""
    call = module(tmp_path / "other", ONE_LINE)["left"]

    assert places(tmp_path / "root", "line", call) == []


def test_code_without_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Code that was made of a string is not followed, even with the root directory as cwd."""
    monkeypatch.chdir(tmp_path)
    names: Names = {}
    exec(compile(dedent(ONE_LINE), "<string>", "exec"), names)

    assert places(tmp_path, "line", names["left"]) == []


def test_the_tests_own_code(tmp_path: Path) -> None:
    """The test's own body is not followed, but a function that it defines is."""
    names = module(
        tmp_path,
        """
        n = 0

        def test():
            def task():
                return n

            seen = n
            task()
        """,
    )

    found = places(tmp_path, "line", names["test"], [names["test"].__code__])

    assert found == ["app.py:6"]


def test_bodies_of_classes_and_finalizers(tmp_path: Path) -> None:
    """Neither the body of a class is followed nor a finalizer, which may run anywhere."""
    names = module(
        tmp_path,
        """
        n = 0

        def call():
            class Local:
                seen = n

                def __del__(self):
                    global n
                    n += 1

            Local()
        """,
    )

    assert set(places(tmp_path, "line", names["call"])) == {"app.py:5", "app.py:12"}


def test_equal_functions(tmp_path: Path) -> None:
    """Two functions of two files are told apart, though their code is equal."""
    first = module(tmp_path, ONE_LINE, "first.py")["left"]
    second = module(tmp_path, ONE_LINE, "second.py")["left"]
    assert first.__code__ == second.__code__

    def both() -> None:
        first()
        second()

    assert places(tmp_path, "line", both) == ["first.py:6", "second.py:6"]


# ------------------------------------------------------------------ who is called


def test_the_frame_at_a_place(tmp_path: Path) -> None:
    """The innermost frame of the user's code is the one at the place, with its variables."""
    call = module(tmp_path, TWO_LINES)["left"]
    seen: list[tuple[str, int, Names]] = []

    def point(kind: str, what: str) -> None:
        # One frame out, since this function is the user's as well.
        frame = users_frame(sys._getframe(1))
        assert frame is not None
        seen.append((what, frame.f_lineno, dict(frame.f_locals)))

    lines = Lines("line", Scope(tmp_path, ()))
    with lines.claimed(), lines.calling(point):
        call()

    assert seen == [("app.py:6", 6, {}), ("app.py:7", 7, {"seen": 0})]


@pytest.mark.parametrize("level", ["line", "opcode"])
def test_a_point_that_raises(tmp_path: Path, level: str) -> None:
    """What a point raises comes out of the user's code, and later runs have their points."""
    call = module(tmp_path, ONE_LINE)["left"]
    seen: list[str] = []

    def fail(kind: str, what: str) -> None:
        raise ZeroDivisionError(kind)

    lines = Lines(level, Scope(tmp_path, ()))
    with lines.claimed():
        with lines.calling(fail), pytest.raises(ZeroDivisionError, match=f"^{level}$"):
            call()
        with lines.calling(lambda _, what: seen.append(what)):
            call()

    assert seen


def test_code_that_a_point_calls(tmp_path: Path) -> None:
    """What a point calls has no points, even if it is the user's."""
    call = module(tmp_path, ONE_LINE)["left"]
    seen: list[str] = []

    def point(kind: str, what: str) -> None:
        seen.append(what)
        call()

    lines = Lines("line", Scope(tmp_path, ()))
    with lines.claimed(), lines.calling(point):
        call()

    assert seen == ["app.py:6"]


def test_between_runs(tmp_path: Path) -> None:
    """Outside of runs there are no points, also on a thread that goes on after one."""
    call = module(tmp_path, ONE_LINE)["left"]
    seen: list[str] = []
    begun, over = threading.Semaphore(0), threading.Semaphore(0)
    lines = Lines("line", Scope(tmp_path, ()))

    def outlive() -> None:
        lines.begin_thread()
        call()
        begun.release()
        over.acquire()
        call()

    thread = threading.Thread(target=outlive)
    with lines.claimed():
        call()
        with lines.calling(lambda _, what: seen.append(what)):
            thread.start()
            begun.acquire()
        call()
        over.release()
        thread.join()

    assert seen == ["app.py:6"]


# ------------------------------------------------------------------ beside other tools


@traced
def test_another_tracer(tmp_path: Path) -> None:
    """On Python 3.11 another tool that traces is named, and not disturbed."""

    def trace(frame: FrameType, event: str, argument: object) -> None:
        pass

    sys.settrace(trace)
    try:
        with (
            pytest.raises(
                pytest.UsageError,
                match=r"^level 'line' needs sys\.settrace on Python 3\.11, which "
                rf"{__name__.partition('.')[0]} uses: run the test without it, or on Python "
                r"3\.12 or later$",
            ),
            Lines("line", Scope(tmp_path, ())).claimed(),
        ):
            pass
        assert sys.gettrace() is trace
    finally:
        sys.settrace(None)


@traced
def test_a_debugger_that_takes_over(tmp_path: Path) -> None:
    """A debugger in the middle of a run is told of on Python 3.11, and gives back what it took."""
    names = module(
        tmp_path,
        """
        def call():
            begin()
            hidden()
            end()
            other()

        def other():
            return begin

        hidden = other
        """,
    )

    def dispatch(frame: FrameType, event: str, argument: object) -> None:
        pass

    dispatch.__module__ = "bdb"
    names["begin"] = lambda: sys.settrace(dispatch)
    names["end"] = lambda: sys.settrace(None)
    found: list[str] = []
    others: list[str] = []
    lines = Lines("line", Scope(tmp_path, ()))
    with lines.claimed(), lines.calling(lambda _, place: found.append(place), others.append):
        names["call"]()

    assert found == ["app.py:3", "app.py:4", "app.py:5", "app.py:6", "app.py:9"]
    assert others == ["a debugger"]
    assert sys.gettrace() is None


@monitored
@pytest.mark.parametrize("level", ["line", "opcode"])
def test_beside_a_debugger(tmp_path: Path, level: str) -> None:
    """From Python 3.12 on, a debugger that traces the same lines hears of all of them."""
    call = module(tmp_path, TWO_LINES)["left"]
    alone = places(tmp_path, level, call)
    traced_lines: list[int] = []

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        if frame.f_code is not call.__code__:
            return None
        if event == "line":
            traced_lines.append(frame.f_lineno)
        return trace

    sys.settrace(trace)
    try:
        assert places(tmp_path, level, call) == alone
    finally:
        sys.settrace(None)
    assert traced_lines == [6, 7]


@monitored
@pytest.mark.parametrize("level", ["line", "opcode"])
def test_a_debugger_that_comes_later(tmp_path: Path, level: str) -> None:
    """A debugger that is started in the middle of a function takes no points away."""
    source = """
        def call():
            seen = begin
            seen()
            after = begin
    """
    quiet, started = module(tmp_path, source), module(tmp_path, source)
    quiet["begin"] = lambda: None
    started["begin"] = functools.partial(sys.settrace, lambda *_: None)
    expected = places(tmp_path, level, quiet["call"])

    try:
        assert places(tmp_path, level, started["call"]) == expected
    finally:
        sys.settrace(None)


@monitored
def test_no_number_for_tools(tmp_path: Path) -> None:
    """With both numbers taken, those who have them are named."""
    monitoring: Any = sys.monitoring  # type: ignore[attr-defined]
    monitoring.use_tool_id(3, "first tool")
    monitoring.use_tool_id(4, "second tool")
    try:
        with (
            pytest.raises(
                pytest.UsageError,
                match=r"^level 'opcode' needs a free tool number of sys\.monitoring, 3 or 4, which "
                r"'first tool' and 'second tool' use: run the test without one of them$",
            ),
            Lines("opcode", Scope(tmp_path, ())).claimed(),
        ):
            pass
        monitoring.free_tool_id(3)
        assert places(tmp_path, "line", module(tmp_path, ONE_LINE)["left"]) == ["app.py:6"]
        assert monitoring.get_tool(3) is None
    finally:
        monitoring.free_tool_id(4)


@monitored
def test_a_number_that_is_used_again(tmp_path: Path) -> None:
    """What one test did not follow, a later one with the same number may follow."""
    call = module(tmp_path, ONE_LINE)["left"]

    found = [places(root, "line", call) for root in (tmp_path / "other", tmp_path)]

    assert found == [[], ["app.py:6"]]


UNDER_COVERAGE = """
    import sys
    from pathlib import Path

    import pytest
    from pytest_asyncframe._explore.lines import Lines, Scope

    import app

    found = []
    lines = Lines("line", Scope(Path.cwd(), ()))
    try:
        with lines.claimed(), lines.calling(lambda _, place: found.append(place)):
            app.left()
    except pytest.UsageError as error:
        found.append(str(error))
    print(*found)
"""


def under_coverage(pytester: pytest.Pytester, core: str) -> tuple[str, set[int]]:
    """Run the program under coverage; return what it prints, and the lines of the app that ran."""
    pytester.makepyfile(app=TWO_LINES, program=UNDER_COVERAGE)
    pytester.makefile(".rc", settings="[run]\ndata_file = .coverage.inner\ninclude = app.py\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COVERAGE_CORE", core)
        # Of a run of this test under coverage.
        patch.delenv("COVERAGE_PROCESS_START", raising=False)
        patch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)
        run = [sys.executable, "-m", "coverage", "run", "--rcfile", "settings.rc", "program.py"]
        result = pytester.run(*run)
        dump = [sys.executable, "-m", "coverage", "json", "--rcfile", "settings.rc", "-o", "-"]
        ran = json.loads(pytester.run(*dump, "-q").stdout.str())["files"]["app.py"]
    assert result.ret == 0
    return result.stdout.str(), set(ran["executed_lines"])


@traced
def test_beside_coverage_on_3_11(pytester: pytest.Pytester) -> None:
    """On Python 3.11 coverage has the only tracer, and the error says so."""
    printed, _ = under_coverage(pytester, "ctrace")

    assert printed == (
        "level 'line' needs sys.settrace on Python 3.11, which coverage uses: run the test "
        "without it, or on Python 3.12 or later"
    )


@monitored
@pytest.mark.parametrize("core", ["ctrace", "sysmon"])
def test_beside_coverage(pytester: pytest.Pytester, core: str) -> None:
    """From Python 3.12 on, coverage counts the lines that are followed as well."""
    printed, ran = under_coverage(pytester, core)

    assert printed == "app.py:5 app.py:6"
    assert ran == {1, 3, 5, 6, 8, 10}
