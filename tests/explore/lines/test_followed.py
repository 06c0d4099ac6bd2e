"""Whose lines are followed, and who is called at them."""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from textwrap import dedent
from types import CodeType

import pytest

import pytest_asyncframe
from pytest_asyncframe._explore.points.follower import Followed, Follower
from pytest_asyncframe._locations import users_frame
from tests.explore.modules import ONE_LINE, TWO_LINES, Names, module, places

# ------------------------------------------------------------------ which code is followed


def file_of(root: Path, code: CodeType, own: Sequence[CodeType] = ()) -> str:
    """Return the file of a function, "" if it is not followed."""
    return Followed(root, own).file_of(code)


FILES = {
    "app.py": "app.py",
    "src/shop/app.py": "src/shop/app.py",
    "../app.py": "",
    ".venv/lib/site-packages/app.py": "",
    "/usr/lib/python3/dist-packages/app.py": "",
    functools.__file__: "",
    pytest_asyncframe.__file__: "",
    "<string>": "",
}


def test_files_that_are_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files under the root directory are followed, but for those of installed packages."""
    # Else code that was made of a string would be elsewhere anyway.
    monkeypatch.chdir(tmp_path)
    found = {}
    for file in FILES:
        code = compile(dedent(ONE_LINE), file if file[0] == "<" else str(tmp_path / file), "exec")
        names: Names = {}
        exec(code, names)
        found[file] = file_of(tmp_path, names["left"].__code__)
    assert found == FILES


def test_a_root_directory_behind_a_link(tmp_path: Path) -> None:
    """A file is followed by its real name, whatever links lead to it or to the root directory."""
    real, link = tmp_path / "real", tmp_path / "link"
    real.mkdir()
    link.symlink_to(real)

    assert file_of(real, module(link, ONE_LINE)["left"].__code__) == "app.py"
    assert file_of(link, module(real, ONE_LINE)["left"].__code__) == "app.py"


def test_the_tests_own_code(tmp_path: Path) -> None:
    """The test's own body is not followed, but a function that it defines is."""
    names = module(
        tmp_path,
        """
        def test():
            def task():
                pass

            return task
        """,
    )
    test = names["test"]

    assert file_of(tmp_path, test.__code__, [test.__code__]) == ""
    assert file_of(tmp_path, test().__code__, [test.__code__]) == "app.py"


@pytest.mark.parametrize("name", ["Local", "__del__", "pytest_runtest_call"])
def test_functions_that_are_not_followed(tmp_path: Path, name: str) -> None:
    """Neither bodies of classes are followed, nor finalizers, nor pytest's hooks."""
    code = compile(
        dedent(
            """
            class Local:
                def __del__(self):
                    pass

            def pytest_runtest_call():
                pass
            """
        ),
        str(tmp_path / "app.py"),
        "exec",
    )
    codes = {one.co_name: one for one in inner(code)}

    assert file_of(tmp_path, codes[name]) == ""


def inner(code: CodeType) -> Iterator[CodeType]:
    """Yield code and all code inside of it."""
    yield code
    for one in code.co_consts:
        if isinstance(one, CodeType):
            yield from inner(one)


@pytest.mark.usefixtures("untraced")
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


@pytest.mark.usefixtures("untraced")
def test_the_frame_at_a_place(tmp_path: Path) -> None:
    """The innermost frame of the user's code is the one at the place, with its variables."""
    call = module(tmp_path, TWO_LINES)["left"]
    seen: list[tuple[str, int, Names]] = []

    def point(kind: str, what: str) -> None:
        # One frame out, since this function is the user's as well.
        frame = users_frame(sys._getframe(1))
        assert frame is not None
        seen.append((what, frame.f_lineno, dict(frame.f_locals)))

    lines = Follower("line", Followed(tmp_path, ()))
    with lines.claimed(), lines.calling(point):
        call()

    assert seen == [("app.py:6", 6, {}), ("app.py:7", 7, {"seen": 0})]


@pytest.mark.usefixtures("untraced")
@pytest.mark.parametrize("level", ["line", "opcode"])
def test_a_point_that_raises(tmp_path: Path, level: str) -> None:
    """What a point raises comes out of the user's code, and later runs have their points."""
    call = module(tmp_path, ONE_LINE)["left"]
    seen: list[str] = []

    def fail(kind: str, what: str) -> None:
        raise ZeroDivisionError(kind)

    lines = Follower(level, Followed(tmp_path, ()))
    with lines.claimed():
        with lines.calling(fail), pytest.raises(ZeroDivisionError, match=f"^{level}$"):
            call()
        with lines.calling(lambda _, what: seen.append(what)):
            call()

    assert seen


@pytest.mark.usefixtures("untraced")
def test_code_that_a_point_calls(tmp_path: Path) -> None:
    """What a point calls has no points, even if it is the user's."""
    call = module(tmp_path, ONE_LINE)["left"]
    seen: list[str] = []

    def point(kind: str, what: str) -> None:
        seen.append(what)
        call()

    lines = Follower("line", Followed(tmp_path, ()))
    with lines.claimed(), lines.calling(point):
        call()

    assert seen == ["app.py:6"]


@pytest.mark.usefixtures("untraced")
def test_between_runs(tmp_path: Path) -> None:
    """Outside of runs there are no points, also on a thread that goes on after one."""
    call = module(tmp_path, ONE_LINE)["left"]
    seen: list[str] = []
    begun, over = threading.Semaphore(0), threading.Semaphore(0)
    lines = Follower("line", Followed(tmp_path, ()))

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
