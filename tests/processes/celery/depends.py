"""Tasks with dependencies, which a worker's processes provide."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextvars import ContextVar
from datetime import date
from typing import Annotated

from fastapi import Depends

from framework import background_task, current_task, retry_task
from tests.processes.celery.tasks import tell

OPEN: ContextVar[str] = ContextVar("OPEN", default="")


def note(event: str) -> None:
    """Put an event into the list of the running task."""
    task = current_task()
    assert task is not None
    tell(task.task_id, event)


def get_session() -> Iterator[str]:
    """Open a session; a sync dependency."""
    note("session opened")
    OPEN.set("session")
    try:
        yield "session"
    except ValueError:
        note("session rolled back")
        raise
    finally:
        note("session closed")


async def get_client(session: Annotated[str, Depends(get_session)]) -> AsyncIterator[str]:
    """Open a client; an async dependency."""
    note("client opened")
    OPEN.set(f"{OPEN.get()} client")
    try:
        yield f"client of {session}"
    finally:
        note("client closed")


Client = Annotated[str, Depends(get_client)]


def used(client: str, day: date) -> str:
    """Fail in the first attempt, and return in the second what was given."""
    task = current_task()
    assert task is not None
    note(f"attempt {task.attempts} on {day:%A} with {OPEN.get()}")
    if task.attempts < 2:
        raise ValueError(day)
    return client


@background_task
@retry_task(max_retries=1, retry_delay=0.05)
def in_a_process(client: Client, day: date) -> str:
    """Run in a process of the worker."""
    return used(client, day)


@background_task
@retry_task(max_retries=1, retry_delay=0.05)
async def on_a_loop(client: Client, day: date) -> str:
    """Run on the loop of a process."""
    return used(client, day)
