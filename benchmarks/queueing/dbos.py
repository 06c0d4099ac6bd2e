"""DBOS: workflows without steps in PostgreSQL, sent through a queue by its client.

Its workers have no limit, as by default: with 20 places they would take 20 tasks each second.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib import import_module
from typing import Any

from benchmarks.queueing import _marks

_LOOKS = 2.5
"""Seconds in which its thread for queues has noticed a new one; it looks once a second."""


def _configured(**more: str) -> Any:  # Any: of a package that may not be installed
    made = import_module("dbos").DBOS
    url = os.environ[_marks.URL]
    made(config={"name": "bench", "system_database_url": url, "log_level": "ERROR", **more})
    return made


def prepare() -> None:
    """Make the tables."""
    made = _configured()
    made.launch()
    made.destroy()


@asynccontextmanager
async def submitting() -> AsyncIterator[_marks.Submit]:
    """Submit by its client, which has no way to submit some together."""
    client = import_module("dbos").DBOSClient(system_database_url=os.environ[_marks.URL])
    options = {"workflow_name": "note", "queue_name": "notes", "app_version": "1"}

    async def one(number: int) -> None:
        await client.enqueue_async(options, number)

    async def many(numbers: Sequence[int]) -> None:
        for number in numbers:
            await client.enqueue_async(options, number)

    yield _marks.Submit(one, many)
    client.destroy()


def left() -> int:
    """Return how many workflows have not ended."""
    url = os.environ[_marks.URL].replace("postgresql+psycopg", "postgresql")
    with import_module("psycopg").connect(url) as connection:
        query = "SELECT count(*) FROM dbos.workflow_status WHERE status IN ('ENQUEUED', 'PENDING')"
        return int(connection.execute(query).fetchone()[0])


def work() -> None:
    """Run workflows until this process is asked to end."""
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    made = _configured(application_version="1", executor_id=str(os.getpid()))

    async def note(number: int) -> None:
        _marks.note(number)

    made.workflow(name="note")(note)
    made.launch()
    made.register_queue("notes", on_conflict="always_update")
    if not ended.wait(_LOOKS):
        _marks.ready()
        ended.wait()
    made.destroy(workflow_completion_timeout_sec=1)
