"""A client in Python that follows a task until it has ended, whatever happens to the connection."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
from fastapi import FastAPI

from framework import background_task, current_task, setup_async_framework
from framework.http import Accepted, task_router
from pytest_asyncframe.probe import Probe

app = FastAPI(lifespan=setup_async_framework)
app.include_router(task_router())


@background_task
async def build(pages: int) -> str:
    """Build a book, ten seconds for each page, and report progress."""
    task = current_task()
    assert task is not None
    for page in range(pages):
        task.report_progress(page / pages, f"page {page + 1} of {pages}")
        await asyncio.sleep(10)
    return f"{pages} pages"


@app.post("/books")
async def make(pages: int) -> Accepted[str]:
    """Start building a book."""
    return Accepted(build(pages))


async def follow(client: httpx.AsyncClient, url: str) -> AsyncIterator[dict[str, Any]]:
    """Yield the states of a task, the final one last."""
    seen, pause = "", 1.0
    while True:
        try:
            async with client.stream("GET", url, headers={"Last-Event-ID": seen}) as response:
                if response.status_code == 204:  # it has ended, and we know how
                    return
                response.raise_for_status()
                async for line in response.aiter_lines():
                    name, _, value = line.partition(": ")
                    if name == "retry":
                        pause = int(value) / 1_000
                    elif name == "id":
                        seen = value
                    elif name == "data":
                        yield json.loads(value)
        except httpx.TransportError:
            pass  # the connection was lost, or the server leaves
        await asyncio.sleep(pause)


async def test_follow(asyncframe: Probe) -> None:
    """The client gets each state once, and stops after the final one."""
    async with asyncframe.client(app) as client:
        accepted = await client.post("/books", params={"pages": 2})
        states = [state async for state in follow(client, accepted.json()["events_url"])]

    assert [(state["status"], state["progress_message"]) for state in states][-3:] == [
        ("running", "page 1 of 2"),
        ("running", "page 2 of 2"),
        ("completed", "page 2 of 2"),
    ]
