"""Errors that end threads of an explored test: they fail it, as failures of tasks do."""

from __future__ import annotations

import pytest

from tests.explore.sessions import replay_line, run

pytestmark = [pytest.mark.extended("time"), pytest.mark.usefixtures("untraced")]

RACE = """
import threading
from concurrent.futures import Future
import pytest

@pytest.mark.interleave(level="line")
{mark}
def test_settled(asyncframe, monkeypatch):
    {first}
    future = Future()

    def settle():
        if not future.done():
            future.set_result(1)

    threads = [threading.Thread(target=lambda: {target}()) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
"""

IGNORED = '@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")'

OWN_HOOK = 'monkeypatch.setattr(threading, "excepthook", lambda args: None)'


def test_an_error_that_ends_a_thread_is_found(pytester: pytest.Pytester) -> None:
    """It fails the run in which it happens, is told with its line, and a replay has it again."""
    source = RACE.format(mark="", first="", target="settle")
    result = run(pytester, source)
    again = run(pytester, source, replay_line(result))

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["minimised: 1 switch*", "*InvalidStateError*"])
    again.assert_outcomes(failed=1)


@pytest.mark.parametrize(
    ("mark", "first", "target"),
    [(IGNORED, "", "settle"), ("", OWN_HOOK, "settle"), ("", "", "exit")],
    ids=["filter", "hook", "exit"],
)
def test_what_a_test_expects_is_no_failure(
    pytester: pytest.Pytester, mark: str, first: str, target: str
) -> None:
    """A filter or a hook of the test takes such errors, and a thread may exit."""
    result = run(pytester, RACE.format(mark=mark, first=first, target=target))
    result.assert_outcomes(passed=1)
