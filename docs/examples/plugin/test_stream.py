"""Server-sent events and a WebSocket that report on tasks, and tests that read them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from itertools import islice

import httpx
from fastapi import FastAPI, WebSocket
from fastapi.responses import StreamingResponse

from framework import background_task, current_task, get_task_manager, setup_async_framework
from framework.protocols import TaskEvent
from pytest_asyncframe.probe import Probe

app = FastAPI(lifespan=setup_async_framework)


@background_task
def build(pages: int) -> str:
    """Build a book, ten seconds for each page, and report progress."""
    task = current_task()
    assert task is not None
    for page in range(1, pages + 1):
        time.sleep(10)
        task.report_progress(page / pages)
    return f"{pages} pages"


@contextmanager
def listening() -> Iterator[asyncio.Queue[TaskEvent]]:
    """Yield a queue that receives all events from now on."""
    loop = asyncio.get_running_loop()
    heard: asyncio.Queue[TaskEvent] = asyncio.Queue()

    def hear(event: TaskEvent) -> None:
        # Called on the thread where the event happens.
        loop.call_soon_threadsafe(heard.put_nowait, event)

    unsubscribe = get_task_manager().subscribe(hear)
    try:
        yield heard
    finally:
        unsubscribe()


async def news(task_id: str) -> AsyncIterator[str]:
    """Yield the progress of a task until it has ended."""
    with listening() as heard:
        task = await get_task_manager().get_task(task_id)
        while task is not None and not task.status.is_final:
            event = await heard.get()
            if event.task_id == task_id and event.kind == "progress":
                yield f"event: progress\ndata: {event.progress}\n\n"
            task = await get_task_manager().get_task(task_id)
        yield f"event: end\ndata: {task.status if task else 'unknown'}\n\n"


async def all_news() -> AsyncIterator[str]:
    """Yield the events of all tasks, without an end."""
    with listening() as heard:
        yield ": listening\n\n"
        while True:
            yield f"event: {(await heard.get()).kind}\n\n"


@app.post("/books", status_code=202)
async def make(pages: int) -> dict[str, str]:
    """Start building a book."""
    return {"task_id": build(pages)}


@app.get("/books/{task_id}/events")
async def follow(task_id: str) -> StreamingResponse:
    """Stream the progress of a book until it is finished."""
    return StreamingResponse(news(task_id), media_type="text/event-stream")


@app.get("/events")
async def follow_all() -> StreamingResponse:
    """Stream the events of all books, without an end."""
    return StreamingResponse(all_news(), media_type="text/event-stream")


@app.websocket("/books")
async def make_and_follow(socket: WebSocket) -> None:
    """Build a book with as many pages as the client sends, and send its progress."""
    await socket.accept()
    task_id = build(int(await socket.receive_text()))
    async for text in news(task_id):
        await socket.send_text(text)
    await socket.close()


async def test_a_stream_that_ends(asyncframe: Probe) -> None:
    """The stream reports each page, and the end."""
    async with asyncframe.client(app) as client:
        task_id = (await client.post("/books", params={"pages": 2})).json()["task_id"]
        response = await client.get(f"/books/{task_id}/events")

    assert response.text.split("\n\n") == [
        "event: progress\ndata: 0.5",
        "event: progress\ndata: 1.0",
        "event: end\ndata: completed",
        "",
    ]
    assert asyncframe.clock.monotonic() == 20


def test_a_stream_without_an_end(asyncframe: Probe) -> None:
    """A sync test can read as many lines as it needs, from Starlette 1.9 on."""
    with asyncframe.client(app) as client, client.stream("GET", "/events") as response:
        lines = response.iter_lines()
        assert next(lines) == ": listening"
        asyncframe.run_until_complete(client.post("/books", params={"pages": 1}))
        told = [line for line in islice(lines, 9) if line]

    assert told == ["event: submitted", "event: started", "event: progress", "event: completed"]


def test_a_stream_without_an_end_over_a_socket(asyncframe: Probe) -> None:
    """The same over a real connection, with any client."""
    with (
        asyncframe.live_server(app) as server,
        httpx.Client(base_url=server.url, trust_env=False) as client,
        client.stream("GET", "/events") as response,
    ):
        lines = response.iter_lines()
        assert next(lines) == ": listening"
        asyncframe.run_until_complete(client.post("/books", params={"pages": 1}))
        told = [line for line in islice(lines, 9) if line]

    assert told == ["event: submitted", "event: started", "event: progress", "event: completed"]


def test_a_web_socket(asyncframe: Probe) -> None:
    """TestClient's WebSocket uses the same clock."""
    with asyncframe.client(app) as client, client.websocket_connect("/books") as socket:
        socket.send_text("2")
        told = [socket.receive_text() for _ in range(3)]

    assert told[-1] == "event: end\ndata: completed\n\n"
    assert asyncframe.clock.monotonic() == 20
