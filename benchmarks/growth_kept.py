"""What calls cost while many finished tasks are kept, in memory and in a database.

A database is filled by statements, as a million tasks of an earlier process have left it.
"""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from hashlib import md5
from itertools import islice
from time import perf_counter, process_time
from typing import Any

import sqlalchemy as sa

from benchmarks._servers import databases
from benchmarks.floors import THREADS
from benchmarks.growth_cases import (
    BATCHES,
    Costs,
    Medians,
    burst,
    find,
    finish,
    framework,
    in_place,
    noop,
    per_call,
    until,
)
from benchmarks.growth_processes import written
from framework import TaskManager, TaskStatus
from framework._threads.clock import SystemClock
from framework.stores.sql import SQLStore
from framework.stores.sql._dialects.chosen import checked_url
from framework.stores.sql._tables.database import Database
from framework.stores.sql._tables.schema import TASKS, prepare
from pytest_asyncframe.clock import VirtualClock

START = "start"
RUN = "submit and run"
STORED = "CPU time until stored"
RECENT = "get_task, recent"
OLD = "get_task, old"
ACTIVE = "get_active_tasks"
PAGE = "list_tasks, newest 50"
OLD_PAGE = "list_tasks, oldest 50"
CLEANUP = "cleanup of 100"

CHUNK = 100
"""Tasks that are removed at once; they end in a second of their own."""

_PAGE = 50
_AGE = 50_000.0
"""Seconds ago at which the first task of a database ended."""


# -- in memory


async def retained(points: Sequence[int]) -> Costs:
    """Measure calls while finished tasks are kept in memory."""
    found = Medians(RUN, RECENT, OLD, ACTIVE, PAGE, OLD_PAGE, CLEANUP)
    clock = VirtualClock()
    oldest = clock.monotonic()
    # Of every hundred tasks the ids of some, in the order of their end.
    chunks: deque[list[str]] = deque()
    async with framework(clock=clock) as manager:
        for count in points:
            while len(chunks) * CHUNK < count:
                chunks.append([await in_place() for _ in range(CHUNK)][:: CHUNK // 10])
                clock.advance(1.0)
            gc.collect()
            for _ in range(BATCHES):
                recent: list[str] = []
                found.add(RUN, await burst(manager, noop, CHUNK, THREADS, recent))
                await until(partial(_keeps, manager, count + CHUNK), f"{count + CHUNK} kept")
                clock.advance(1.0)
                chunks.append(recent[:: CHUNK // 10])
                old = [task_id for chunk in islice(chunks, 10) for task_id in chunk]
                await _read(found, manager, recent, old)
                _clean_up(found, manager, clock.monotonic() - oldest)
                chunks.popleft()
                oldest += 1.0
            found.close()
        finish(found.costs)


def _keeps(manager: TaskManager, count: int) -> bool:
    return manager.get_stats()["kept"] == count


async def _read(
    found: Medians, manager: TaskManager, recent: Sequence[str], old: Sequence[str]
) -> None:
    """Measure calls that read."""
    for name, ids in ((RECENT, recent), (OLD, old)):
        found.add(name, await find(manager, ids, TaskStatus.COMPLETED))
    found.add(ACTIVE, per_call(manager.get_active_tasks, 5))
    if active := manager.get_active_tasks():
        raise RuntimeError(f"{len(active)} tasks are active instead of none")
    for name, oldest_first in ((PAGE, False), (OLD_PAGE, True)):
        begin = perf_counter()
        page = await manager.list_tasks(status="completed", oldest_first=oldest_first)
        found.add(name, (perf_counter() - begin) * 1e6)
        if len(page.tasks) != _PAGE:
            raise RuntimeError(f"a page has {len(page.tasks)} tasks instead of {_PAGE}")


def _clean_up(found: Medians, manager: TaskManager, age: float) -> None:
    """Remove the oldest hundred tasks."""
    begin = perf_counter()
    removed = manager.cleanup_completed_tasks(age)
    found.add(CLEANUP, (perf_counter() - begin) * 1e6)
    if removed != CHUNK:
        raise RuntimeError(f"{removed} tasks were removed instead of {CHUNK}")


# -- in a database


_FILL = """
INSERT INTO asyncframe_tasks (
    task_id, name, description, status, process, remote, created_at, started_at, ended_at,
    attempts, progress_message, result, reason, cancel_requested, still_running, version
)
WITH RECURSIVE numbers (number) AS (
    SELECT CAST(:first AS INTEGER) UNION ALL SELECT number + 1 FROM numbers WHERE number < :last
)
SELECT
    md5(CAST(number AS TEXT)), 'earlier', '', 'completed', 'earlier', 0,
    :begin + number / 100.0 - 0.002, :begin + number / 100.0 - 0.001, :begin + number / 100.0,
    1, '', 'null', '', 0, 0, 1
FROM numbers
"""
"""Tasks with random ids, as all have, and a hundred of them in each second."""


def _task_id(text: str) -> str:
    """Return the id of a task by its number, as PostgreSQL's md5 does."""
    return md5(text.encode(), usedforsecurity=False).hexdigest()


def _now() -> float:
    """Return the wall second."""
    return SystemClock().time()


class _History:
    """Tasks that an earlier process has left in a database.

    Args:
        url: An empty database.

    Attributes:
        rows: How many tasks were put into it.
        removed: How many of them are to be removed since, the oldest.
    """

    def __init__(self, url: str) -> None:
        database = Database(checked_url(url), False)
        prepare(database)
        database.close()
        self._engine = sa.create_engine(checked_url(url))
        self._begin = _now() - _AGE
        self.rows = self.removed = 0

    def fill(self, kept: int) -> None:
        """Add tasks until there are so many, with those that were run since."""
        first, self.rows = self.rows, self.rows + kept - self.count()
        values = {"first": first, "last": self.rows - 1, "begin": self._begin}
        with self._engine.begin() as connection:
            if self._engine.dialect.name == "sqlite":
                driver: Any = connection.connection.driver_connection  # has no types
                driver.create_function("md5", 1, _task_id, deterministic=True)
            connection.execute(sa.text(_FILL), values)
            if self._engine.dialect.name == "postgresql":
                # As its own clean-up does after a while.
                connection.execute(sa.text("ANALYZE asyncframe_tasks"))

    def count(self) -> int:
        """Return how many tasks are in the database."""
        with self._engine.connect() as connection:
            query = sa.select(sa.func.count()).select_from(TASKS)
            return int(connection.execute(query).scalar_one())

    def old(self) -> list[str]:
        """Return the ids of the oldest tasks that are left."""
        return [_task_id(str(self.removed + at)) for at in range(CHUNK)]

    def age(self) -> float:
        """Return how many seconds ago the oldest hundred tasks have ended."""
        self.removed += CHUNK
        return _now() - self._begin - (self.removed - 0.5) / CHUNK

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()


async def kept(kind: str, points: Sequence[int]) -> Costs:
    """Measure calls while finished tasks are kept in a database.

    Args:
        kind: ``sqlite`` or ``postgresql``.
        points: How many; each at least `BATCHES` hundreds more than the one before.
    """
    found = Medians(START, RUN, STORED, RECENT, OLD, ACTIVE, PAGE, OLD_PAGE, CLEANUP)
    with databases(kind) as urls:
        url, _ = next(urls)
        with closing(_History(url)) as history:
            # Once for nothing, so that the first point does not pay for imports.
            async with framework(store=SQLStore(url)):
                pass
            for count in points:
                history.fill(count)
                await _kept(found, history, url)
                found.close()
                if history.count() != count:
                    raise RuntimeError(f"{history.count()} tasks are kept instead of {count}")
    return found.costs


async def _kept(found: Medians, history: _History, url: str) -> None:
    """Measure one point; as many tasks are kept in the end as in the beginning."""
    begin = perf_counter()
    async with framework(store=SQLStore(url)) as manager:
        found.add(START, (perf_counter() - begin) * 1e6)
        gc.collect()
        for _ in range(BATCHES):
            recent: list[str] = []
            spent = process_time()
            found.add(RUN, await burst(manager, noop, CHUNK, THREADS, recent))
            await written(manager)
            found.add(STORED, (process_time() - spent) / CHUNK * 1e6)
            await _read(found, manager, recent, history.old())
            _clean_up(found, manager, history.age())
