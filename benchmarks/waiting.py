"""A million tasks that wait for workers, in a database: what a start, a list and a claim take.

``python -m benchmarks.waiting`` makes the databases and prints a table for each. Another number of
tasks and one kind of database may follow: ``waiting 100000 sqlite``. Times are of the CPU, of the
process and of the database's server together, so other programs may run.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
from collections.abc import Collection
from contextlib import closing
from functools import partial
from time import process_time
from typing import Any, Final

import psutil
import sqlalchemy as sa

from benchmarks._measure import child
from benchmarks._servers import databases, is_installed, spent
from framework import TaskManager, background_task, get_task_manager, setup_async_framework
from framework._records.records import KINDS
from framework._threads.clock import SystemClock
from framework.stores.sql import SQLStore
from framework.stores.sql._dialects.chosen import checked_url
from framework.stores.sql._shared.free import claims
from framework.stores.sql._tables.database import Database
from framework.stores.sql._tables.schema import META, TASKS, prepare

MANY: Final = 1_000_000
KINDS_OF_DATABASES: Final = ("sqlite", "postgresql")
SUBMITTED: Final = 20_000
"""How many further tasks a process submits, to see what it keeps of each."""

_ROUNDS: Final = 10
_NAMES: Final = 20
_SPACING: Final = 0.01

_FILL: Final = f"""
INSERT INTO asyncframe_tasks (
    task_id, name, description, status, process, remote, created_at, attempts, progress_message,
    reason, cancel_requested, still_running, version, call, restart, level
)
WITH RECURSIVE numbers (n) AS (
    SELECT CAST(1 AS INTEGER) UNION ALL SELECT n + 1 FROM numbers WHERE n < :many
)
SELECT
    {{random}}, 'shop.tasks.job_' || (n - n / {_NAMES} * {_NAMES}), '', 'pending', '', 0,
    :begin + n * {_SPACING}, 0, '', :reason, 0, 0, n / 500 + 1, :call, :restart, 1
FROM numbers
"""
_RANDOM: Final = {"sqlite": "lower(hex(randomblob(16)))", "postgresql": "md5(CAST(n AS TEXT))"}


@background_task(on_restart="requeue", name="bench.waits")
def waits(number: int, title: str) -> str:
    """Return a text."""
    return f"{title} {number}"


def framework(url: str, **options: Any) -> Any:
    """Return the framework of a process that only submits."""
    return setup_async_framework(None, max_workers=0, store=SQLStore(url, durable=True), **options)


# -- each in an interpreter of its own


async def fill(url: str, many: str) -> dict[str, float]:
    """Fill an empty database with tasks that have the shape of one that was submitted."""
    async with framework(url):
        await get_task_manager().submit(waits, (7, "report"))
    with closing(Database(checked_url(url), False)) as database:
        prepare(database)
        with database.writing() as connection:
            if database.dialect.name == "postgresql":
                connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
            row = connection.execute(sa.select(TASKS)).one()
            values = {name: getattr(row, name) for name in ("reason", "call", "restart")}
            begin = SystemClock().time() - int(many) * _SPACING
            text = sa.text(_FILL.format(random=_RANDOM[database.dialect.name]))
            connection.execute(text, {"many": int(many), "begin": begin, **values})
            last = sa.update(META).values(version=int(many) // 500 + 1, free=int(many) + 1)
            connection.execute(last)
    engine = sa.create_engine(checked_url(url), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        made = database.dialect.name
        connection.exec_driver_sql("ANALYZE" if made == "sqlite" else "VACUUM ANALYZE")
    engine.dispose()
    return {}


async def start(url: str) -> dict[str, float]:
    """Return what a start takes, and the memory of the process."""
    process, begin = psutil.Process(), process_time()
    before = process.memory_info().rss
    async with framework(url):
        return {
            "cpu_s": process_time() - begin,
            "mb": (process.memory_info().rss - before) / 1e6,
            "waiting": get_task_manager().get_stats()["pending"],
        }


async def submit(url: str) -> dict[str, float]:
    """Return by how much the memory grows with each task that is submitted and waits."""
    async with framework(url):
        manager, process = get_task_manager(), psutil.Process()
        await _submit_many(manager)
        before = process.memory_info().rss
        await _submit_many(manager)
        return {"bytes_a_task": (process.memory_info().rss - before) / SUBMITTED}


async def _submit_many(manager: TaskManager) -> None:
    for _ in range(SUBMITTED // 100):
        await asyncio.gather(*(manager.submit(waits, (7, "report")) for _ in range(100)))


async def calls(url: str, servers: str) -> dict[str, float]:
    """Return the CPU time of calls, in ms."""
    pids = [int(one) for one in servers.split(",") if one]
    found: dict[str, float] = {}
    async with framework(url):
        manager = get_task_manager()

        async def measure(name: str, call: Any) -> None:
            await call()
            times = []
            for _ in range(_ROUNDS):
                begin = process_time() + spent(pids)
                await call()
                times.append((process_time() + spent(pids) - begin) * 1e3)
            found[name] = statistics.mean(times)

        store: Any = manager._core.ledger.store
        dialect = store._database.dialect

        async def of_database(call: Any) -> None:
            with store._database.reading() as connection:
                call(connection)

        await measure("list, newest 50", lambda: manager.list_tasks(limit=50))
        await measure("list, oldest 50", lambda: manager.list_tasks(limit=50, oldest_first=True))
        await measure("list, 50 behind 1,000", lambda: manager.list_tasks(limit=50, offset=1_000))
        await measure("list, pending", lambda: manager.list_tasks(status="pending", limit=50))
        await measure("list, completed", lambda: manager.list_tasks(status="completed", limit=50))
        one = "shop.tasks.job_3"
        await measure("list, of a name", lambda: manager.list_tasks(limit=50, name=one))
        await measure("count of a name", lambda: manager.list_tasks(limit=1, name=one))
        for name, names in (("wanted", one), ("unwanted", "bench.other")):
            wanted = {kind: [names] for kind in KINDS}

            asked = {"dialect": dialect, "names": wanted, "kinds": KINDS}

            async def look(asked: Any = asked) -> None:
                await of_database(partial(claims.waiting, **asked))

            await measure(f"claims.waiting, {name}", look)

            async def pick(names: str = names) -> None:
                await of_database(lambda connection: claims.pick(connection, dialect, [names], 20))

            await measure(f"claims.pick, {name}", pick)
    return found


# -- the table


def say(text: str) -> None:
    """Print a line, at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def report(kind: str, many: int) -> None:
    """Print the table of a kind of database."""

    def measured(what: str, *arguments: str) -> Any:
        return child("benchmarks.waiting", "--child", what, *arguments, timeout=3_600)

    with databases(kind) as places:
        url, servers = next(places)
        measured("fill", url, str(many))
        say(f"\n{kind}: {many:,} waiting tasks")
        for what, arguments in _TABLE:
            given = [",".join(map(str, servers))] if arguments else []
            for name, value in measured(what, url, *given).items():
                say(f"  {what:8} {name:30} {value:14,.2f}")


_TABLE: Final = (("start", False), ("calls", True), ("submit", False))
_CHILDREN: Final = {one.__name__: one for one in (fill, start, submit, calls)}


def main(arguments: Collection[str]) -> None:
    """Print the tables."""
    many = next((int(one) for one in arguments if one.isdecimal()), MANY)
    for kind in [one for one in KINDS_OF_DATABASES if one in arguments] or KINDS_OF_DATABASES:
        if is_installed(kind):
            report(kind, many)
        else:
            say(f"{kind}: no program")


def entered(arguments: list[str]) -> None:
    """Measure one thing in this interpreter, or print the tables."""
    if arguments[:1] == ["--child"]:
        say(json.dumps(asyncio.run(_CHILDREN[arguments[1]](*arguments[2:]))))
    else:
        main(arguments)


if __name__ == "__main__":
    entered(sys.argv[1:])
