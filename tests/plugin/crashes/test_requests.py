"""Tests of requests to a process that may die."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from typing import Any

from fastapi import FastAPI
from starlette.middleware.gzip import GZipMiddleware

from pytest_asyncframe._crashes import requests


async def test_an_answer_that_is_compressed() -> None:
    """An answer arrives as the app has compressed it, and the client makes it plain, once."""
    app = FastAPI()
    app.add_middleware(GZipMiddleware, minimum_size=1)

    @app.get("/pages/{number}")
    def read(number: int) -> str:
        return "page " * number

    loop, points = asyncio.get_running_loop(), list[str]()

    def ask(request: Any) -> Future[requests.Answer]:
        answering = requests.answer(app, {}, request, True, points.append)
        return asyncio.run_coroutine_threadsafe(answering, loop)

    async with requests.async_client(ask, LookupError, {"base_url": "http://shop"}) as client:
        response = await client.get("/pages/9")

    assert response.headers["content-encoding"] == "gzip"
    assert response.json() == "page " * 9
    assert points == ["before the answer to GET /pages/{number}"]
