"""Whose lines are followed, and who is called at them."""

from __future__ import annotations

import functools
import sys
import threading
from pathlib import Path
from textwrap import dedent

import pytest

from pytest_asyncframe._explore.points.lines import Lines, Scope
from pytest_asyncframe._places import users_frame
from tests.explore.modules import ONE_LINE, TWO_LINES, Names, module, places

pytestmark = pytest.mark.usefixtures("untraced")


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
