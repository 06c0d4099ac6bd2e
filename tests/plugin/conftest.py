"""Imports that runs of pytest inside of this one would each begin with, and forget at their end."""

from __future__ import annotations

import anyio._backends._asyncio  # noqa: F401
import fastapi.testclient  # noqa: F401
import httpx  # noqa: F401
import uvicorn  # noqa: F401

import framework.testing  # noqa: F401
import pytest_asyncframe.probe  # noqa: F401
