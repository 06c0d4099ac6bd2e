"""pgqueuer: jobs in PostgreSQL, woken by NOTIFY, and taken in batches."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib import import_module
from typing import Any

from benchmarks.queueing import _marks


async def _connected() -> tuple[Any, Any]:  # Any: of packages that may not be installed
    asyncpg, db = import_module("asyncpg"), import_module("pgqueuer.db")
    url = os.environ[_marks.URL].replace("postgresql+psycopg", "postgresql")
    connection = await asyncpg.connect(url)
    return connection, db.AsyncpgDriver(connection)


def prepare() -> None:
    """Make the tables."""

    async def install() -> None:
        connection, driver = await _connected()
        await import_module("pgqueuer").Queries(driver).install()
        await connection.close()

    asyncio.run(install())


@asynccontextmanager
async def submitting() -> AsyncIterator[_marks.Submit]:
    """Submit by its queries."""
    connection, driver = await _connected()
    enqueue = import_module("pgqueuer").Queries(driver).enqueue

    async def one(number: int) -> None:
        await enqueue("note", b"%d" % number)

    async def many(numbers: Sequence[int]) -> None:
        bodies = [b"%d" % number for number in numbers]
        await enqueue(["note"] * len(bodies), bodies, [0] * len(bodies))

    yield _marks.Submit(one, many)
    await connection.close()


def left() -> int:
    """Return how many jobs the table has: it keeps none that has ended."""

    async def count() -> int:
        connection, _ = await _connected()
        found = await connection.fetchval("SELECT count(*) FROM pgqueuer")
        await connection.close()
        return int(found)

    return asyncio.run(count())


def work() -> None:
    """Take jobs in batches of half of the places, as its documentation advises."""

    async def run() -> None:
        _, driver = await _connected()
        made = import_module("pgqueuer").PgQueuer(driver)

        async def note(job: Any) -> None:
            _marks.note(int(job.payload))

        made.entrypoint("note")(note)

        def end() -> None:
            for one in (made, made.qm, made.sm):
                one.shutdown.set()

        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, end)
        loop.call_later(0.5, _marks.ready)
        await made.run(batch_size=_marks.PLACES // 2, max_concurrent_tasks=_marks.PLACES)

    asyncio.run(run())
