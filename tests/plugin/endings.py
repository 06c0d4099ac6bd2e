"""Runs a test in a file of its own, for the errors at its end."""

from __future__ import annotations

from collections.abc import Callable
from textwrap import dedent
from typing import TypeAlias

import pytest

Ending: TypeAlias = Callable[..., str]

PLAIN = ("-p", "no:randomly", "-p", "no:hypothesispytest", "-p", "no:cacheprovider")
"""Options for runs of pytest inside this one."""

LOOPS = ("-o", "asyncio_default_fixture_loop_scope=function")
"""What pytest-asyncio asks for with a warning."""

PASSED = ""
"""The text for a test that has passed."""


def ending_of(pytester: pytest.Pytester) -> Ending:
    """Return a function that runs a test and returns the text of its errors, "" if it passed."""
    pytester.makeini(
        "[pytest]\nasyncio_default_fixture_loop_scope = function\nmarkers = trio: of another plugin"
    )

    def ended(source: str, *options: str) -> str:
        pytester.makepyfile(test_it=dedent(source))
        plugin = Reports()
        pytester.inline_run(*PLAIN, *options, plugins=[plugin])
        assert plugin.count
        return "\n".join(plugin.texts).replace(f"{pytester.path}/", "")

    return ended


class Reports:
    """Collects the texts of reports."""

    def __init__(self) -> None:
        self.count = 0
        self.texts: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the text of a failure."""
        self.count += 1
        if report.failed:
            self.texts.append(f"{report.when}: {report.longreprtext}")
