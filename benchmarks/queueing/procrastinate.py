"""procrastinate: jobs in PostgreSQL, woken by NOTIFY, and fetched one by one."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib import import_module
from typing import Any

from benchmarks.queueing import _marks


def _made() -> tuple[Any, Any]:  # Any: of a package that may not be installed
    procrastinate = import_module("procrastinate")
    url = os.environ[_marks.URL].replace("postgresql+psycopg", "postgresql")
    app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=url))

    async def note(number: int) -> None:
        _marks.note(number)

    return app, app.task(name="note")(note)


def prepare() -> None:
    """Make the tables."""
    app, _ = _made()
    with app.open():
        app.schema_manager.apply_schema()


@asynccontextmanager
async def submitting() -> AsyncIterator[_marks.Submit]:
    """Defer jobs."""
    app, note = _made()
    async with app.open_async():

        async def one(number: int) -> None:
            await note.defer_async(number=number)

        async def many(numbers: Sequence[int]) -> None:
            await note.batch_defer_async(*({"number": number} for number in numbers))

        yield _marks.Submit(one, many)


def left() -> int:
    """Return how many jobs have not ended."""
    url = os.environ[_marks.URL].replace("postgresql+psycopg", "postgresql")
    with import_module("psycopg").connect(url) as connection:
        query = "SELECT count(*) FROM procrastinate_jobs WHERE status IN ('todo', 'doing')"
        return int(connection.execute(query).fetchone()[0])


def work() -> None:
    """Run a worker with as many places as the others have."""

    async def run() -> None:
        app, _ = _made()
        async with app.open_async():
            asyncio.get_running_loop().call_later(0.5, _marks.ready)
            await app.run_worker_async(concurrency=_marks.PLACES)

    asyncio.run(run())
