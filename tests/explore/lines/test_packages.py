"""Packages outside the root directory whose files have points: ``asyncframe_explore``."""

from __future__ import annotations

import pytest

from tests.explore.sessions import INI, PLAIN, REFUSED

pytestmark = [pytest.mark.extended("time"), pytest.mark.usefixtures("untraced")]

TOKENS = """
import threading

lock = threading.Lock()

class Tokens:
    def __init__(self):
        self.ends = {}

    def take(self, token, now):
        end = self.ends.get(token)
        if end is None or end < now:
            return False
        self.ends.pop(token, None)
        return True

    def take_alone(self, token, now):
        with lock:
            return self.take(token, now)
"""

TEST = """
import pytest
from framework import background_task
from once.tokens import Tokens

@pytest.mark.interleave(level="line", seeds=40)
@pytest.mark.parametrize("way", [Tokens.take, Tokens.take_alone])
def test_token(asyncframe, way):
    tokens, taken = Tokens(), []
    tokens.ends["a"] = 5

    @background_task
    def use():
        taken.append(way(tokens, "a", now=1))

    use()
    use()
    asyncframe.run_until_idle()
    assert taken.count(True) == 1
"""


def run(pytester: pytest.Pytester, *options: str, explored: str = "") -> pytest.RunResult:
    """Run a test whose race is in a package beside the root directory."""
    package = pytester.mkdir("lib") / "once"
    package.mkdir()
    (package / "tokens.py").write_text(TOKENS)
    pytester.syspathinsert(package.parent)
    root = pytester.mkdir("app")
    (root / "pytest.ini").write_text(f"[pytest]\n{INI}\n{explored}\n")
    (root / "test_app.py").write_text(TEST)
    return pytester.runpytest_inprocess(*PLAIN, "-v", *options, f"--rootdir={root}", str(root))


@pytest.mark.parametrize("name", ["once", "once.tokens"])
def test_a_race_in_a_package(pytester: pytest.Pytester, name: str) -> None:
    """A race between lines of a package is found and told; its own lock is controlled."""
    result = run(pytester, explored=f"asyncframe_explore = {name}")

    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(
        [
            "  use#1 paused before `*` (*tokens.py:1?), after `end = self.ends.get(*)` (end = 5)",
            "  use#2 ran to its end: *tokens.py:1?, *`self.ends.pop(token, None)` (self.ends = {}*",
            "  use#1 went on to its end: *`self.ends.pop(token, None)` (*tokens.py:14, *",
        ]
    )
    result.stdout.no_fnmatch_line("*partially controlled*")


def test_a_package_that_is_not_named(pytester: pytest.Pytester) -> None:
    """Without the option the package has no points, and its race is not found."""
    run(pytester).assert_outcomes(passed=2)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("oncce", "there is no package 'oncce' that can be imported: write the name that follows*"),
        ("once.token", "there is no package 'once.token' that can be imported: *"),
        ("queue", "'queue' cannot be explored, since Python or asyncframe itself stands on it: *"),
        ("anyio", "'anyio' cannot be explored, since *"),
        (
            "pydantic_core._pydantic_core",
            "'pydantic_core._pydantic_core' has no Python code, which alone can be explored",
        ),
    ],
)
def test_wrong_names(pytester: pytest.Pytester, name: str, message: str) -> None:
    """A name that cannot be explored is an error before any test is run."""
    result = run(pytester, *REFUSED, explored=f"asyncframe_explore = once {name}")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    text = f"ERROR: asyncframe_explore = 'once {name}' in the ini file: {message}"
    result.stderr.fnmatch_lines(text)
