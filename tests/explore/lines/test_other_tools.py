"""Lines are followed beside coverage and debuggers, or the error says why not."""

from __future__ import annotations

import functools
import json
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from pytest_asyncframe._explore.points.follower import Followed, Follower
from tests.explore.modules import ONE_LINE, TWO_LINES, module, places

MONITORED = sys.version_info >= (3, 12)
monitored = pytest.mark.skipif(not MONITORED, reason="sys.monitoring is new in Python 3.12")
traced = pytest.mark.skipif(MONITORED, reason="only Python 3.11 needs sys.settrace")

pytestmark = pytest.mark.usefixtures("untraced")


@traced
@pytest.mark.parametrize(
    ("owner", "name"),
    [
        ("bdb", "a debugger"),
        ("_pydevd_bundle.pydevd_trace_dispatch", "a debugger"),
        ("coverage.pytracer", "coverage"),
    ],
)
def test_another_tracer(tmp_path: Path, owner: str, name: str) -> None:
    """On Python 3.11 another tool that traces is named, and not disturbed."""

    def trace(frame: FrameType, event: str, argument: object) -> None:
        pass

    trace.__module__ = owner
    sys.settrace(trace)
    try:
        with (
            pytest.raises(
                pytest.UsageError,
                match=r"^level 'line' needs sys\.settrace on Python 3\.11, which "
                rf"{name} uses: run the test without it, or on Python "
                r"3\.12 or later$",
            ),
            Follower("line", Followed(tmp_path, ())).claimed(),
        ):
            pass
        assert sys.gettrace() is trace
    finally:
        sys.settrace(None)


@traced
def test_a_thread_that_another_tool_traces(tmp_path: Path) -> None:
    """On Python 3.11 a thread that has a tracer already has no points, and that is told."""
    call = module(tmp_path, ONE_LINE)["left"]
    found: list[str] = []
    others: list[str] = []
    lines = Follower("line", Followed(tmp_path, ()))

    def dispatch(frame: FrameType, event: str, argument: object) -> None:
        pass

    def work() -> None:
        lines.begin_thread()
        call()

    dispatch.__module__ = "bdb"
    with lines.claimed(), lines.calling(lambda _, place: found.append(place), others.append):
        threading.settrace(dispatch)
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        threading.settrace(None)

    assert (found, set(others)) == ([], {"a debugger"})


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
    lines = Follower("line", Followed(tmp_path, ()))
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
            Follower("opcode", Followed(tmp_path, ())).claimed(),
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
    from pytest_asyncframe._explore.points.follower import Followed, Follower

    import app

    found = []
    lines = Follower("line", Followed(Path.cwd(), ()))
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


@pytest.mark.extended("processes")
@traced
def test_beside_coverage_on_3_11(pytester: pytest.Pytester) -> None:
    """On Python 3.11 coverage has the only tracer, and the error says so."""
    printed, _ = under_coverage(pytester, "ctrace")

    assert printed == (
        "level 'line' needs sys.settrace on Python 3.11, which coverage uses: run the test "
        "without it, or on Python 3.12 or later"
    )


@pytest.mark.extended("processes")
@monitored
@pytest.mark.parametrize("core", ["ctrace", "sysmon"])
def test_beside_coverage(pytester: pytest.Pytester, core: str) -> None:
    """From Python 3.12 on, coverage counts the lines that are followed as well."""
    printed, ran = under_coverage(pytester, core)

    assert printed == "app.py:5 app.py:6"
    assert ran == {1, 3, 5, 6, 8, 10}
