"""Dependencies of tasks in each mode of the plugin: the same order everywhere."""

from __future__ import annotations

import contextvars
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI

from framework import TaskId, async_task, background_task, retry_task, setup_async_framework
from pytest_asyncframe.probe import Probe

VISITS: contextvars.ContextVar[tuple[str, ...]] = contextvars.ContextVar("visits", default=())
"""What has been opened so far, as the task's context tells it."""

LOG: list[str] = []


def visit(name: str) -> None:
    """Tell in the context and in the log that a dependency is open."""
    VISITS.set((*VISITS.get(), name))
    LOG.append(name)


def get_settings() -> dict[str, str]:
    """Return settings; a dependency without a scope."""
    visit("settings")
    return {"url": "db"}


def get_session(settings: Annotated[dict[str, str], Depends(get_settings)]) -> Iterator[str]:
    """Open and close a session; a sync dependency."""
    visit("session")
    try:
        yield f"session of {settings['url']}"
    except ValueError as error:
        LOG.append(f"rolled back: {error}")
        raise
    finally:
        LOG.append("session closed")


async def get_client(session: Annotated[str, Depends(get_session)]) -> AsyncIterator[str]:
    """Open and close a client; an async dependency."""
    visit("client")
    try:
        yield f"client with {session}"
    finally:
        LOG.append("client closed")


def told(client: str, session: str, number: int) -> dict[str, Any]:
    """Return what a task has been given."""
    LOG.append("body")
    if number < 0:
        raise ValueError(f"{number} is below 0")
    return {"client": client, "session": session, "number": number, "visits": VISITS.get()}


@background_task
def on_a_thread(
    number: int, client: str = Depends(get_client), session: str = Depends(get_session)
) -> dict[str, Any]:
    """Use both on a thread."""
    return told(client, session, number)


@background_task
async def on_the_loop(
    number: int, client: str = Depends(get_client), session: str = Depends(get_session)
) -> dict[str, Any]:
    """Use both on the loop."""
    return told(client, session, number)


@async_task
def awaited_thread(
    number: int, client: str = Depends(get_client), session: str = Depends(get_session)
) -> dict[str, Any]:
    """Use both on a thread, and be awaited."""
    return told(client, session, number)


@async_task
async def in_place(
    number: int, client: str = Depends(get_client), session: str = Depends(get_session)
) -> dict[str, Any]:
    """Use both where it is awaited."""
    return told(client, session, number)


@background_task
@retry_task(max_retries=2, retry_delay=30)
def retried(
    number: int, client: str = Depends(get_client), session: str = Depends(get_session)
) -> dict[str, Any]:
    """Fail each time."""
    return told(client, session, number)


app = FastAPI(lifespan=setup_async_framework)


@app.post("/threads/{number}")
async def start_thread(number: int) -> TaskId[dict[str, Any]]:
    """Start a task on a thread."""
    return on_a_thread(number)


@app.post("/loops/{number}")
async def start_loop(number: int) -> TaskId[dict[str, Any]]:
    """Start a task on the loop."""
    return on_the_loop(number)


@app.post("/retried/{number}")
async def start_retried(number: int) -> TaskId[dict[str, Any]]:
    """Start a task that is tried three times."""
    return retried(number)


@app.post("/awaited/{number}")
async def await_thread(number: int) -> dict[str, Any]:
    """Await a task on a thread."""
    return await awaited_thread(number)


@app.post("/in-place/{number}")
async def await_in_place(number: int) -> dict[str, Any]:
    """Await a task in place."""
    return await in_place(number)


OPENED = ["settings", "session", "client"]
CLOSED = ["client closed", "session closed"]
GIVEN = {"client": "client with session of db", "session": "session of db", "number": 7}


each_mode = pytest.mark.task_modes("auto", "virtual", "seeded", "threads")


@each_mode
@pytest.mark.parametrize("path", ["threads", "loops"])
async def test_in_the_background(asyncframe: Probe, path: str) -> None:
    """A task gets its dependencies, sees what they set, and they close in reverse order."""
    LOG.clear()
    async with asyncframe.client(app) as client:
        task = await asyncframe.completed(await client.post(f"/{path}/7"))
    assert task.result == {**GIVEN, "visits": tuple(OPENED)}
    assert [*OPENED, "body", *CLOSED] == LOG


@each_mode
@pytest.mark.parametrize("path", ["awaited", "in-place"])
async def test_awaited(asyncframe: Probe, path: str) -> None:
    """A task that a route awaits gets its dependencies, which are closed by then."""
    LOG.clear()
    async with asyncframe.client(app) as client:
        answer = await client.post(f"/{path}/7")
        assert answer.json() == {**GIVEN, "visits": OPENED}
        assert [*OPENED, "body", *CLOSED] == LOG


@each_mode
def test_with_a_sync_client(asyncframe: Probe) -> None:
    """The same holds where the app's loop runs on a thread of the test client."""
    with asyncframe.client(app) as client:
        for path in ("threads", "loops"):
            LOG.clear()
            task = asyncframe.run_until_complete(client.post(f"/{path}/7"))
            assert task.result == {**GIVEN, "visits": tuple(OPENED)}
            assert [*OPENED, "body", *CLOSED] == LOG


@pytest.mark.asyncframe(mode="manual")
async def test_by_hand(asyncframe: Probe) -> None:
    """In manual mode one run of the task is enough: its dependencies do not queue."""
    async with asyncframe.client(app) as client:
        for path in ("threads", "loops"):
            LOG.clear()
            answer = await client.post(f"/{path}/7")
            assert not LOG
            assert asyncframe.executor.run_next() == answer.json()
            task = await asyncframe.completed(answer)
            assert task.result == {**GIVEN, "visits": tuple(OPENED)}
            assert [*OPENED, "body", *CLOSED] == LOG


@pytest.mark.task_modes("auto", "virtual", "seeded")
async def test_attempts(asyncframe: Probe) -> None:
    """Each attempt has a scope of its own, closed before the delay, and told the error."""
    LOG.clear()
    async with asyncframe.client(app) as client:
        answer = await client.post("/retried/-1")
        task = await asyncframe.completed(answer, check=False)
    assert isinstance(task.error, ValueError)
    assert task.attempts == 3
    once = [*OPENED, "body", "client closed", "rolled back: -1 is below 0", "session closed"]
    assert once * 3 == LOG
