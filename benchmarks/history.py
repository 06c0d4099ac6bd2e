"""A million finished tasks in a database: what a start, a page and a clean-up take.

``python -m benchmarks.history`` makes the databases and prints a table for each. Another
number of tasks and one kind of database may follow: ``history 100000 sqlite``.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from time import perf_counter, process_time, thread_time
from typing import Any, Final

import psutil
import sqlalchemy as sa
from sqlalchemy.engine import make_url

from benchmarks._measure import ROOT, child, percentile
from benchmarks._servers import databases
from benchmarks.lag import Ticks
from framework import TaskManager, background_task, get_task_manager, setup_async_framework
from framework._manager.face.listing import cursor
from framework._threads.clock import SystemClock
from framework.stores.sql import SQLStore
from framework.stores.sql._dialects.chosen import checked_url
from framework.stores.sql._tables.database import Database
from framework.stores.sql._tables.schema import STEPS, prepare
from tests.processes.executed import hearing

MANY: Final = 1_000_000
_SPACING: Final = 0.08
"""Seconds between two tasks: a million in a day."""

_ROUNDS: Final = 30
_LATE: Final = 0.9
"""The share of the tasks that a clean-up removes."""

_FILL: Final = f"""
INSERT INTO asyncframe_tasks (
    task_id, name, description, status, process, remote, created_at, started_at, ended_at,
    attempts, progress_message, result, error, reason, cancel_requested, still_running, version
)
WITH RECURSIVE numbers (n) AS (
    SELECT CAST(1 AS INTEGER) UNION ALL SELECT n + 1 FROM numbers WHERE n < :many
)
SELECT
    {{random}}, 'shop.tasks.job_' || (n - n / 20 * 20), 'sends a mail',
    CASE WHEN n / 50 * 50 = n THEN 'failed'
         WHEN n / 1000 * 1000 + 7 = n THEN 'cancelled'
         ELSE 'completed' END,
    'earlier', 0, :begin + n * {_SPACING}, :begin + n * {_SPACING} + 0.01,
    :begin + n * {_SPACING} + 0.05, 1, '',
    CASE WHEN n / 50 * 50 = n THEN NULL ELSE :result END,
    CASE WHEN n / 50 * 50 = n THEN :error END, '', 0, 0, n / 500 + 1
FROM numbers
"""
_RANDOM: Final = {"sqlite": "lower(hex(randomblob(16)))", "postgresql": "md5(CAST(n AS TEXT))"}
_VALUES: Final = {
    "result": '{"pages": 3, "title": "Report"}',
    "error": '{"type": "builtins.ValueError", "args": ["no such page"]}',
}


def fill(url: str, many: int, steps: tuple[tuple[str, ...], ...] = STEPS) -> None:
    """Fill an empty database with finished tasks, the last of which has just ended.

    Args:
        url: The database.
        many: How many tasks.
        steps: Of the schema; fewer make the tables of an older release.
    """
    with closing(Database(checked_url(url), False)) as database:
        prepare(database, steps)
        with database.writing() as connection:
            if database.dialect.name == "postgresql":
                connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
            begin = SystemClock().time() - many * _SPACING
            text = sa.text(_FILL.format(random=_RANDOM[database.dialect.name]))
            connection.execute(text, {"many": many, "begin": begin, **_VALUES})
            connection.execute(
                sa.text("UPDATE asyncframe_meta SET version = :last"), {"last": many // 500 + 1}
            )
    engine = sa.create_engine(checked_url(url), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(
            "ANALYZE" if database.dialect.name == "sqlite" else "VACUUM ANALYZE"
        )
    engine.dispose()


@background_task
def _task() -> int:
    return 1


def _framework(url: str, **options: Any) -> Any:
    kept: dict[str, Any] = {"max_finished_tasks": 10 * MANY, "result_ttl": 1e9}
    return setup_async_framework(None, store=SQLStore(url, **options), **kept)


# -- each in an interpreter of its own


async def _start(url: str) -> dict[str, float]:
    process = psutil.Process()
    begin, cpu = perf_counter(), process_time()
    async with _framework(url):
        return {
            "seconds": perf_counter() - begin,
            "cpu": process_time() - cpu,
            "rss": process.memory_info().rss / 1e6,
            "kept": get_task_manager().get_stats()["kept"],
        }


def _upgrade(url: str) -> dict[str, float]:
    with closing(Database(checked_url(url), False)) as database:
        begin = perf_counter()
        prepare(database)
        return {"seconds": perf_counter() - begin}


async def _pages(url: str, many: str) -> dict[str, list[float]]:
    """Return the times of pages of 50, in ms, by what they are."""
    filters: dict[str, dict[str, Any]] = {
        "all": {},
        "failed": {"status": "failed"},
        "of a name": {"name": "shop.tasks.job_3"},
        "cancelled, of a name": {"name": "shop.tasks.job_7", "status": "cancelled"},
    }
    times: dict[str, list[float]] = {}
    async with _framework(url):
        manager = get_task_manager()
        for oldest_first in (False, True):
            first = (await manager.list_tasks(limit=1, oldest_first=oldest_first)).tasks[0]
            begin = first.created_at.timestamp()
            order = "oldest first" if oldest_first else "newest first"
            span = int(many) * _SPACING * (1 if oldest_first else -1)
            for name, which in filters.items():
                for place, share in (("first page", 0.0), ("middle", 0.5), ("last", 0.99)):
                    after = cursor((begin + share * span, "m"), oldest_first) if share else None
                    found = times[f"{name}, {order}, {place}"] = []
                    for _ in range(_ROUNDS):
                        started = perf_counter()
                        await manager.list_tasks(after=after, oldest_first=oldest_first, **which)
                        found.append((perf_counter() - started) * 1e3)
    return times


async def _look_ups(url: str) -> dict[str, float]:
    """Return what other calls take, in ms."""
    async with _framework(url):
        manager = get_task_manager()
        found = {"get_active_tasks": _timed(manager.get_active_tasks)}
        found["get_stats"] = _timed(manager.get_stats)
        old = (await manager.list_tasks(limit=1_000, oldest_first=True)).tasks
        times = []
        for task in old[:_ROUNDS]:
            begin = perf_counter()
            await manager.get_task(task.task_id)
            times.append((perf_counter() - begin) * 1e3)
        return found | {"get_task, the oldest": statistics.median(times)}


def _timed(call: Callable[[], object]) -> float:
    begin = perf_counter()
    call()
    return (perf_counter() - begin) * 1e3


async def _all(url: str) -> dict[str, float]:
    process = psutil.Process()
    async with _framework(url):
        before, begin = process.memory_info().rss, perf_counter()
        found = get_task_manager().get_all_tasks()
        return {
            "seconds": perf_counter() - begin,
            "mb": (process.memory_info().rss - before) / 1e6,
            "tasks": len(found),
        }


async def _write(url: str) -> None:
    """Submit a task every 10 ms until standard input ends; print how long each took, in ms."""
    times = []
    async with _framework(url, durable=True):
        manager = get_task_manager()
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        end = asyncio.ensure_future(asyncio.to_thread(sys.stdin.read))
        while not end.done():
            begin = perf_counter()
            await manager.submit(_task)
            times.append((perf_counter() - begin) * 1e3)
            await asyncio.sleep(0.01)  # noqa: TID251 - an even rate is what is measured
    sys.stdout.write(json.dumps(times) + "\n")


async def _clean(url: str, many: str) -> dict[str, float]:
    """Remove most tasks while another process writes."""
    command = [sys.executable, "-m", "benchmarks.history", "--child", "write", url]
    async with _framework(url):
        manager = get_task_manager()
        store: Any = manager._core.ledger.store
        with _deletions(store._database._engine) as deletions:
            pipe = subprocess.PIPE
            writer = await asyncio.to_thread(
                subprocess.Popen, command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True
            )
            assert writer.stdout is not None
            await asyncio.to_thread(writer.stdout.readline)
            ticks, begin = Ticks(), perf_counter()
            removed = manager.cleanup_completed_tasks(int(many) * _SPACING * (1 - _LATE))
            called = (perf_counter() - begin) * 1e3
            while store._writer.batches.removal.bound is not None:
                await _pass(manager)
            deleted = perf_counter() - begin
            ticks.stop()
            written = json.loads((await asyncio.to_thread(writer.communicate))[0])
    return {
        "removed": removed,
        "call_ms": called,
        "seconds": deleted,
        "transactions": len(deletions),
        "transaction_p99_ms": percentile([passed for passed, _ in deletions], 0.99),
        "transaction_max_ms": max(passed for passed, _ in deletions),
        "transaction_cpu_max_ms": max(cpu for _, cpu in deletions),
        "loop_late_max_ms": max(ticks.late) * 1e3,
        "others_writes": len(written),
        "others_write_p50_ms": percentile(written, 0.5),
        "others_write_p99_ms": percentile(written, 0.99),
        "others_write_max_ms": max(written),
    }


async def _pass(manager: TaskManager) -> None:
    await manager.submit(_task, wait=True)
    await asyncio.sleep(0.05)  # noqa: TID251 - nothing tells when a store has deleted all


@contextmanager
def _deletions(engine: sa.Engine) -> Iterator[list[tuple[float, float]]]:
    """Note for how long each transaction that deletes tasks has the lock, in ms.

    Yields:
        A list that is filled: the time that passed, and the processor time of the thread, which
        other programs do not lengthen. With a server, its own work is only in the former.
    """
    times: list[tuple[float, float]] = []
    turns = [(0.0, 0.0)]

    def executes(statement: str, _: object) -> None:
        # What the first statement of a transaction that writes is followed by.
        if statement.startswith("SELECT asyncframe_meta.version"):
            turns[0] = perf_counter(), thread_time()

    def executed(connection: Any, _: Any, statement: str, *__: Any) -> None:
        if statement.startswith("DELETE FROM asyncframe_tasks"):
            connection.info["deletes"] = turns[0]

    def returned(_: Any, record: Any) -> None:
        # After the commit.
        turn = record.info.pop("deletes", None)
        if turn is not None:
            times.append(((perf_counter() - turn[0]) * 1e3, (thread_time() - turn[1]) * 1e3))

    sa.event.listen(engine, "after_cursor_execute", executed)
    sa.event.listen(engine, "checkin", returned)
    with hearing(engine, executes):
        yield times


def _size(url: str) -> float:
    """Return how many MB the tasks take on the disk, free pages included."""
    made = make_url(url)
    if made.get_backend_name() == "sqlite":
        return Path(str(made.database)).stat().st_size / 1e6
    engine = sa.create_engine(checked_url(url))
    with engine.connect() as connection:
        found = connection.exec_driver_sql("SELECT pg_total_relation_size('asyncframe_tasks')")
        size = int(found.scalar_one())
    engine.dispose()
    return size / 1e6


# -- the table


def _report(kind: str, many: int) -> None:
    def measured(*arguments: str) -> Any:
        return child("benchmarks.history", "--child", *arguments, timeout=3_600)

    with databases(kind) as places:
        (empty, _), (url, _) = next(places), next(places)
        begin = perf_counter()
        fill(url, many, STEPS[:1])
        _say(f"\n{kind}: {many:,} finished tasks, made in {perf_counter() - begin:.1f} s")
        _say(f"  upgrade of the tables      {measured('upgrade', url)['seconds']:8.2f} s")
        measured("start", empty)
        starts = [(measured("start", empty), measured("start", url)) for _ in range(3)]
        for what, unit in (("seconds", "s"), ("cpu", "s"), ("rss", "MB")):
            none, all_ = (statistics.median(pair[at][what] for pair in starts) for at in (0, 1))
            _say(f"  start: {what:8} {none:10.2f} {unit} without tasks, {all_:.2f} {unit} with")
        pages = measured("pages", url, str(many))
        for name, times in pages.items():
            _say(
                f"  page of 50: {name:50} first call {times[0]:6.2f}, "
                f"median {statistics.median(times):6.2f}, p90 {percentile(times, 0.9):6.2f} ms"
            )
        for name, value in measured("look-ups", url).items():
            _say(f"  {name:26} {value:8.3f} ms")
        before = _size(url)
        for name, value in measured("clean", url, str(many)).items():
            _say(f"  clean-up: {name:22} {value:12,.2f}")
        _say(f"  size: {before:.0f} MB before the clean-up, {_size(url):.0f} MB after it")
        for count in [10**power for power in range(4, 8) if 10**power <= many]:
            other, _ = next(places)
            fill(other, count)
            found = measured("all", other)
            _say(
                f"  get_all_tasks of {found['tasks']:9,} {found['seconds']:8.2f} s "
                f"{found['mb']:8.0f} MB"
            )


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


_CHILDREN: Final[dict[str, Callable[..., Any]]] = {
    "start": _start,
    "upgrade": _upgrade,
    "pages": _pages,
    "look-ups": _look_ups,
    "all": _all,
    "write": _write,
    "clean": _clean,
}


def main(arguments: list[str]) -> None:
    """Measure one thing in this interpreter, or everything and print it."""
    if arguments[:1] == ["--child"]:
        found = _CHILDREN[arguments[1]](*arguments[2:])
        if asyncio.iscoroutine(found):
            found = asyncio.run(found)
        if found is not None:
            _say(json.dumps(found))
        return
    many = int(arguments[0]) if arguments else MANY
    for kind in arguments[1:] or ("sqlite", "postgresql"):
        _report(kind, many)


if __name__ == "__main__":
    main(sys.argv[1:])
