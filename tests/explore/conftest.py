"""Fixtures: for tests whose runs follow lines, and for runs of pytest inside this one."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator

import pytest

from tests.plugin.lasting_modules import installed_modules_last

__all__ = ["installed_modules_last", "untraced"]


@pytest.fixture
def untraced(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Take coverage's tracer away on Python 3.11, which cannot have ours beside it."""
    if sys.version_info >= (3, 12):
        yield
        return
    for name in ("COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    here, in_threads = sys.gettrace(), threading.gettrace()
    sys.settrace(None)
    threading.settrace(None)
    yield
    threading.settrace(in_threads)
    sys.settrace(here)
