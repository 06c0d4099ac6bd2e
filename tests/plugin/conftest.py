"""Imports that each run of pytest inside this one would repeat, and fixtures."""

from __future__ import annotations

import anyio._backends._asyncio  # noqa: F401
import fastapi.testclient  # noqa: F401
import httpx  # noqa: F401
import pytest
import uvicorn  # noqa: F401

import framework.testing  # noqa: F401
import pytest_asyncframe.probe  # noqa: F401
from tests.plugin.endings import Ending, ending_of
from tests.plugin.lasting_modules import installed_modules_last

__all__ = ["ending", "installed_modules_last"]


@pytest.fixture
def ending(pytester: pytest.Pytester) -> Ending:
    """Return a function that runs a test and returns the text of its errors, "" if it passed."""
    return ending_of(pytester)
