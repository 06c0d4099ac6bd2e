"""A debugger that stops one thread of a test."""

from __future__ import annotations

import sys

import pytest

pytestmark = pytest.mark.extended("processes")

SECOND_IS_DEBUGGED = """
    import threading

    log = []
    go = threading.Event()

    def first():
        go.wait()
        log.append("first")

    def second():
        go.set()
        breakpoint()
        log.append("second")

    def test_order(asyncframe):
        asyncframe.manager.submit_nowait(first)
        asyncframe.manager.submit_nowait(second)
        asyncframe.run_until_idle()
        assert log == ["second", "first"]
"""


def test_others_wait_for_a_debugger(pytester: pytest.Pytester) -> None:
    """While somebody debugs one task, no other task runs, however long that takes."""
    pytester.makepyfile(SECOND_IS_DEBUGGED)
    # In real time, which nothing on the test's clock can do.
    wait = "!__import__('select').select([], [], [], 0.5)"

    result = pytester.run(
        *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider"),
        stdin=f"{wait}\ncontinue\n".encode(),
    )

    result.assert_outcomes(passed=1)
