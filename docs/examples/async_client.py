"""A test with httpx.AsyncClient, which does not run the lifespan."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from fastapi import FastAPI

from framework import background_task, setup_async_framework

app = FastAPI(lifespan=setup_async_framework)


@background_task
async def greet(name: str) -> str:
    """Greet, on the app's event loop."""
    return f"hello {name}"


@app.post("/greetings", status_code=202)
async def start(name: str) -> str:
    """Start a greeting."""
    return greet(name)


@asynccontextmanager
async def client_of(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """Run the app's lifespan and yield a client, all on this test's event loop."""
    transport = httpx.ASGITransport(app=app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        yield client


async def test_a_greeting() -> None:
    """The task runs on the test's event loop, and the test waits for it."""
    async with client_of(app) as client:
        answer = await client.post("/greetings", params={"name": "ann"})
        assert answer.status_code == 202
        result = await app.state.task_manager.get_result(answer.json())
        assert result == "hello ann"
