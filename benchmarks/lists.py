"""Lists of many finished tasks: what a page with its total takes, by each filter.

``python -m benchmarks.lists`` prints a table for each store. Another number of tasks and some
stores may follow: ``lists 1000000 memory sqlite``.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
from contextlib import closing
from random import Random
from time import perf_counter
from typing import Any, Final

import sqlalchemy as sa

from benchmarks._measure import child
from benchmarks._servers import databases
from benchmarks.history import fill
from framework import TaskManager, TaskStatus, get_task_manager, setup_async_framework
from framework._records.ids import random_id
from framework._records.records import TaskRecord, heading_of
from framework.protocols import TaskStore
from framework.stores.memory import MemoryStore
from framework.stores.sql import SQLStore
from framework.stores.sql._dialects.chosen import checked_url
from framework.stores.sql._tables.database import Database

MANY: Final = 50_000
_STORES: Final = ("memory", "sqlite", "postgresql")
_ROUNDS: Final = 15
_OWNERS: Final = 37


def filters(many: int) -> dict[str, dict[str, Any]]:
    """Return the arguments of `list_tasks` by what is measured.

    Of the tasks, each 20th has a name, each 50th has failed, half belong to "big", the others to
    one of 37, and one in some 140 has "abc" in its id.
    """
    far = many * 49 // 50
    return {
        "all": {},
        "all, far behind": {"offset": far},
        "all, in the middle": {"offset": many // 2},
        "a name": {"name": "shop.tasks.job_3"},
        "a name, far behind": {"name": "shop.tasks.job_3", "offset": far // 20},
        "failed": {"status": "failed"},
        "failed, far behind": {"status": "failed", "offset": far // 50},
        "failed or cancelled": {"status": ("failed", "cancelled"), "offset": far // 50},
        "an owner": {"owner": "user6"},
        "an owner of half, far behind": {"owner": "big", "offset": far // 2},
        "an owner and a name": {"owner": "user6", "name": "shop.tasks.job_4"},
        "text in each": {"search": "MAIL"},
        "text in each, far behind": {"search": "MAIL", "offset": far},
        "text in each, in the middle": {"search": "MAIL", "offset": many // 2},
        "text in some names": {"search": "job_3"},
        "text in some ids": {"search": "abc"},
        "text in one id": {"search": "c0ffee"},
        "text in none": {"search": "nothing of this kind"},
        "text of an owner": {"search": "job_4", "owner": "user6"},
    }


def _filled_memory(many: int) -> MemoryStore:
    store, drawn, spacing = MemoryStore(), Random(1), 0.08
    for number in range(many):
        record = TaskRecord()
        record.task_id = random_id()
        owner = "big" if number % 2 else f"user{number % _OWNERS}"
        record.heading = heading_of(f"shop.tasks.job_{number % 20}", "sends a mail", owner)
        record.status = TaskStatus.FAILED if number % 50 == 0 else TaskStatus.COMPLETED
        # Not quite in the order in which they end.
        record.created = record.queued = number * spacing - 2 * drawn.random()
        record.created_at = 1.8e9 + record.created
        record.started, record.ended = record.created + 0.01, number * spacing + 0.05
        record.attempts, record.instruction = 1, 0
        record.result = {"pages": 3, "title": "Report"}
        record.code = record.rest = None
        store.put(record)
    return store


def _own(url: str) -> None:
    """Give the tasks of a database their owners."""
    with closing(Database(checked_url(url), False)) as database:
        number = f"CAST(substr(name, 16) AS INTEGER) + 20 * (version % {_OWNERS})"
        sql = (
            "UPDATE asyncframe_tasks SET owner = CASE WHEN created_at * 12.5 - 2 * floor("
            f"created_at * 6.25) < 1 THEN 'big' ELSE 'user' || (({number}) % {_OWNERS}) END"
        )
        with database.writing() as connection:
            if database.dialect.name == "postgresql":
                connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
            connection.execute(sa.text(sql))
        kind = database.dialect.name
    engine = sa.create_engine(checked_url(url), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql("ANALYZE" if kind == "sqlite" else "VACUUM ANALYZE")
    engine.dispose()


async def _measure(store: TaskStore, many: int) -> dict[str, list[float]]:
    """Return how long each page with its total took, in ms, and how many tasks match."""
    kept: dict[str, Any] = {"max_finished_tasks": 10 * many, "result_ttl": 1e9}
    found: dict[str, list[float]] = {}
    async with setup_async_framework(None, store=store, **kept):
        manager: TaskManager = get_task_manager()
        for name, chosen in filters(many).items():
            times = []
            for _ in range(_ROUNDS):
                begin = perf_counter()
                page = await manager.list_tasks(**chosen)
                times.append((perf_counter() - begin) * 1e3)
            found[name] = [min(times), statistics.median(times), max(times), float(page.total)]
    return found


def _report(kind: str, many: int) -> None:
    def measured(url: str) -> Any:
        return child("benchmarks.lists", "--child", kind, url, str(many), timeout=3_600)

    if kind == "memory":
        found = measured("")
    else:
        with databases(kind) as places:
            url, _ = next(places)
            fill(url, many)
            _own(url)
            found = measured(url)
    sys.stdout.write(f"\n{kind}: {many:,} finished tasks, a page of 50 with its total, in ms\n")
    for name, (least, median, most, total) in found.items():
        sys.stdout.write(
            f"  {name:30} {least:8.2f} median {median:8.2f} most {most:8.2f}, of {total:9,.0f}\n"
        )
    sys.stdout.flush()


def main(arguments: list[str]) -> None:
    """Measure one store in this interpreter, or each and print it."""
    if arguments[:1] == ["--child"]:
        kind, url, count = arguments[1:]
        store: TaskStore = _filled_memory(int(count)) if kind == "memory" else SQLStore(url)
        sys.stdout.write(json.dumps(asyncio.run(_measure(store, int(count)))) + "\n")
        return
    many = int(arguments[0]) if arguments else MANY
    for kind in arguments[1:] or _STORES:
        _report(kind, many)


if __name__ == "__main__":
    main(sys.argv[1:])
