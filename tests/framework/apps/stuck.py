"""An app whose one task runs for ever."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from framework import background_task, setup_async_framework

never = threading.Event()


@background_task
def never_ends() -> None:
    """Hold a thread for ever."""
    never.wait()


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Start the task."""
    async with setup_async_framework(app, graceful_shutdown_timeout=60):
        never_ends()
        yield


app = FastAPI(lifespan=lifespan)
