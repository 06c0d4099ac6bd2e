"""For every test: the process ends, whatever a failed test has left."""

from __future__ import annotations

import faulthandler

import pytest

_PATIENCE = 60
"""Real seconds that a process may take to end; then it says where its threads are."""


@pytest.hookimpl(trylast=True)
def pytest_unconfigure() -> None:
    """End the process although a failed test has left a pool's thread blocked."""
    faulthandler.dump_traceback_later(_PATIENCE, exit=True)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes() -> None:
    """Let xdist's processes end by themselves.

    It kills those that take longer than 10 s, without a word: what they were to save on their
    way out, such as the coverage of all that they ran, would be lost.
    """
    # Only where xdist is; it has no types.
    from xdist.workermanage import NodeManager  # type: ignore[import-untyped]

    NodeManager.EXIT_TIMEOUT = _PATIENCE + 30
