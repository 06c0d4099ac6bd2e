"""A run of pytest over an app and tests of it."""

from __future__ import annotations

from textwrap import dedent

import pytest

from tests.plugin.endings import LOOPS, PLAIN
from tests.plugin.modes.sections import Runs


@pytest.fixture
def runs(pytester: pytest.Pytester, request: pytest.FixtureRequest) -> Runs:
    """Return a function that runs a file of tests which uses the ``SHOP`` of the module."""
    shop = dedent(request.module.SHOP)

    def run(source: str, *options: str) -> pytest.RunResult:
        pytester.makepyfile(test_it=shop + dedent(source))
        return pytester.runpytest(*PLAIN, *LOOPS, *options)

    return run
