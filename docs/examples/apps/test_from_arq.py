"""An app that measures pages of others in worker processes, moved from ARQ, with its tests."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import httpx
import pytest
from fastapi import FastAPI, HTTPException

from framework import (
    Task,
    TaskId,
    background_task,
    get_task_manager,
    retry_task,
    scheduled_task,
    setup_async_framework,
)
from framework.http import TaskView
from framework.stores.sql import SQLStore
from pytest_asyncframe.probe import Probe


def open_client() -> httpx.AsyncClient:
    """Return what ``startup`` has put into ``ctx``."""
    return httpx.AsyncClient()


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open what the tasks need; ``asyncframe worker`` runs this as well as the server does."""
    store = SQLStore(os.environ.get("DATABASE_URL", "sqlite:///tasks.db"), durable=True)
    async with (
        open_client() as app.state.client,
        setup_async_framework(app, max_workers=0, store=store),
    ):
        yield


app = FastAPI(lifespan=lifespan)


@background_task(on_restart="requeue", timeout=300)
@retry_task(max_retries=4, exceptions=(httpx.HTTPStatusError,), retry_delay=5, backoff=2)
async def measure(url: str) -> int:
    """Return how long a page is."""
    answer = await app.state.client.get(url)
    answer.raise_for_status()
    return len(answer.text)


@scheduled_task(at="03:00")
async def measure_at_night() -> None:
    """Measure the front page each night."""
    await get_task_manager().submit(measure, ("https://shop.example/",))


@app.post("/pages", status_code=202)
async def start(url: str, in_seconds: float = 0) -> TaskId[int]:
    """Start, or start later; the answer comes when the task is safe in the database."""
    later = measure.options(delay=in_seconds) if in_seconds else measure
    return await get_task_manager().submit(later, (url,))


@app.get("/pages/{task_id}", response_model=TaskView[int])
async def show(task_id: str) -> Task:
    """Show how far it is, and its result."""
    task = await get_task_manager().get_task(task_id)
    if task is None:
        raise HTTPException(404, "no such task")
    return task


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[httpx.Response]:
    """Let the pages of others answer with these, one after the other."""
    said: list[httpx.Response] = []
    transport = httpx.MockTransport(lambda _: said.pop(0))
    monkeypatch.setattr(f"{__name__}.open_client", lambda: httpx.AsyncClient(transport=transport))
    return said


class Page(BaseHTTPRequestHandler):
    """A page of five letters."""

    def do_GET(self) -> None:
        """Answer with it."""
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"hello")


@pytest.fixture
def url() -> Iterator[str]:
    """Serve the page, which a worker process reads too; give its address."""
    server = HTTPServer(("127.0.0.1", 0), Page)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.task_modes("auto", on=("memory", "sqlite", "workers"))
async def test_a_page(url: str, asyncframe: Probe) -> None:
    """A page is measured, and the route shows its length; also in `asyncframe worker`."""
    async with asyncframe.client(app) as client:
        task_id = (await client.post("/pages", params={"url": url})).json()
        await asyncframe.completed(task_id)
        shown = (await client.get(f"/pages/{task_id}")).json()
        assert (await client.get("/pages/unknown")).status_code == 404
    assert (shown["status"], shown["result"]) == ("completed", 5)


async def test_a_server_that_is_busy(asyncframe: Probe, answers: list[httpx.Response]) -> None:
    """The page is asked for again, at first after 5 seconds, for which no test waits."""
    answers += [httpx.Response(503), httpx.Response(503), httpx.Response(200, text="hello")]
    async with asyncframe.client(app) as client:
        task_id = (await client.post("/pages", params={"url": "https://a.example/"})).json()
        task = await asyncframe.completed(task_id)
    assert (task.result, task.attempts) == (5, 3)


async def test_later(asyncframe: Probe, answers: list[httpx.Response]) -> None:
    """A page is measured an hour later, and not before."""
    # Two: if it is after two o'clock at night, the front page is measured as well.
    answers += [httpx.Response(200, text="hello") for _ in range(2)]
    async with asyncframe.client(app) as client:
        sent = {"url": "https://a.example/", "in_seconds": 3_600}
        task_id = (await client.post("/pages", params=sent)).json()
        shown = (await client.get(f"/pages/{task_id}")).json()
        assert shown["status"] == "pending"
        task = await asyncframe.completed(task_id)
    assert task.queue_time == pytest.approx(3_600, abs=1)
