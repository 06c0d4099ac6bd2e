"""For every test: the process ends, whatever a failed test has left."""

from __future__ import annotations

import faulthandler

import pytest


@pytest.hookimpl(trylast=True)
def pytest_unconfigure() -> None:
    """End the process although a failed test has left a pool's thread blocked."""
    faulthandler.dump_traceback_later(60, exit=True)
