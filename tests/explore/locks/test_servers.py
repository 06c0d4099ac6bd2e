"""Threads of libraries that serve a queue, and locks of SQLite's databases, in explored runs."""

from __future__ import annotations

import asyncio
import functools
import queue
import sqlite3
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from framework import background_task
from pytest_asyncframe._explore.locks.found import FoundLocks
from pytest_asyncframe._explore.schedule import Default
from pytest_asyncframe.probe import Probe
from tests.explore.locks.locking import Drawn
from tests.explore.one_run import one_run
from tests.explore.sessions import replay_line, run

pytestmark = pytest.mark.extended("time")

SHOP = """
import asyncio
import aiosqlite
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.pool import StaticPool

TABLE = "create table stock (n integer)"
ROW = "insert into stock values (5)"

# The second one is so late that the default order is right.

async def on_a_file(asyncframe, path, begin):
    async def sell(late=()):
        async with aiosqlite.connect(path) as db:
            for _ in late:
                await db.execute("select 1")
            await db.execute(begin)
            (n,) = await (await db.execute("select n from stock")).fetchone()
            await db.execute("update stock set n = ?", (n - 1,))
            await db.commit()
    async with aiosqlite.connect(path) as db:
        await db.execute(TABLE)
        await db.execute(ROW)
        await db.commit()
        await asyncio.gather(sell(), sell(range(3)))
        async with db.execute("select n from stock") as found:
            assert await found.fetchone() == (3,)

async def in_memory(asyncframe, lock):
    engine = create_async_engine("sqlite+aiosqlite://", poolclass=StaticPool)
    async def sell(late=()):
        async with AsyncSession(engine) as session, lock():
            for _ in late:
                await session.execute(text("select 1"))
            n = (await session.execute(text("select n from stock"))).scalar_one()
            await session.execute(text("update stock set n = :n"), {"n": n - 1})
            await session.commit()
    async with engine.begin() as connection:
        await connection.execute(text(TABLE))
        await connection.execute(text(ROW))
    await asyncio.gather(sell(), sell(range(1)))
    async with engine.connect() as connection:
        n = (await connection.execute(text("select n from stock"))).scalar_one()
    await engine.dispose()
    assert n == 3
"""

ON_A_FILE = """
@pytest.mark.interleave(level="framework", seeds=60)
async def test_sale(asyncframe, tmp_path):
    await on_a_file(asyncframe, tmp_path / "shop.db", "{begin}")
"""

IN_MEMORY = """
@pytest.mark.interleave(level="framework", seeds=60)
async def test_sale(asyncframe):
    lock = asyncio.Lock()
    await in_memory(asyncframe, lambda: {lock})
"""


@pytest.mark.parametrize(
    ("racy", "correct"),
    [
        (ON_A_FILE.format(begin="select 1"), ON_A_FILE.format(begin="begin immediate")),
        (IN_MEMORY.format(lock="asyncio.Lock()"), IN_MEMORY.format(lock="lock")),
    ],
    ids=["aiosqlite", "sqlalchemy"],
)
def test_a_lost_update_through_aiosqlite_is_found(
    pytester: pytest.Pytester, racy: str, correct: str
) -> None:
    """Its threads are controlled: the race is found and replayed, and its cure passes them all."""
    failed = run(pytester, SHOP + racy)
    replayed = run(pytester, SHOP + racy, replay_line(failed))
    passed = run(pytester, SHOP + correct, "-v")

    failed.assert_outcomes(failed=1)
    failed.stdout.fnmatch_lines(["run * of at most 60 fails*", "replay: *"])
    replayed.stdout.fnmatch_lines(["It fails with the schedule of the replay line*"])
    passed.assert_outcomes(passed=1)
    passed.stdout.fnmatch_lines(["*PASSED (*of level framework*, none fails)*"])


WIDE = """
engine = create_async_engine("sqlite+aiosqlite://", poolclass=StaticPool)

async def begin():
    async with engine.begin() as connection:
        await connection.execute(text(TABLE))
        await connection.execute(text(ROW))

@pytest.fixture(scope="module", autouse=True)
def opened():
    asyncio.run(begin())
    yield
    asyncio.run(engine.dispose())

@pytest.mark.interleave(level="framework", seeds=60)
async def test_sale(asyncframe):
    lock = asyncio.Lock()
    async def sell(late=()):
        async with AsyncSession(engine) as session, {lock}:
            for _ in late:
                await session.execute(text("select 1"))
            n = (await session.execute(text("select n from stock"))).scalar_one()
            await session.execute(text("update stock set n = :n"), {{"n": n - 1}})
            await session.commit()
    async with engine.begin() as connection:
        await connection.execute(text("update stock set n = 5"))
    async with asyncio.timeout(5):
        await asyncio.gather(sell(), sell(range(1)))
    async with engine.connect() as connection:
        assert (await connection.execute(text("select n from stock"))).scalar_one() == 3
"""


def test_a_lost_update_through_an_engine_of_a_module_is_found(pytester: pytest.Pytester) -> None:
    """A connection that a wider fixture has opened is controlled, in each run on a new loop."""
    racy = SHOP + WIDE.format(lock="asyncio.Lock()")
    failed = run(pytester, racy)
    replayed = run(pytester, racy, replay_line(failed))
    passed = run(pytester, SHOP + WIDE.format(lock="lock"), "-v")

    failed.assert_outcomes(failed=1)
    replayed.stdout.fnmatch_lines(["It fails with the schedule of the replay line*"])
    passed.assert_outcomes(passed=1)
    passed.stdout.fnmatch_lines(["*PASSED (*of level framework*, none fails)*"])


LIBRARY = """
import asyncio, threading

class Pool:
    def __init__(self, queue, threads):
        self.calls = queue
        self.threads = [threading.Thread(target=self._serve) for _ in range(threads)]
        for thread in self.threads:
            thread.start()

    def _serve(self):
        while True:
            future, call = self.calls.get()
            if call is None:
                return
            future.get_loop().call_soon_threadsafe(future.set_result, call())

    async def run(self, call):
        future = asyncio.get_running_loop().create_future()
        self.calls.put((future, call))
        return await future

    def end(self):
        for _ in self.threads:
            self.calls.put((None, None))
        for thread in self.threads:
            thread.join()
"""


@pytest.mark.parametrize(("kind", "outlives"), [("SimpleQueue", True), ("Queue", False)])
def test_threads_that_serve_a_queue_are_controlled(kind: str, outlives: bool) -> None:
    """They take turns with all others, in later runs too, and may end in a run or after it."""
    library: Any = {"__name__": "some_library"}
    file = Path(sysconfig.get_path("purelib")) / "some_library.py"
    exec(compile(LIBRARY, file, "exec"), library)  # as an installed package
    pools: list[Any] = []
    met: list[str] = []
    seen: set[tuple[int, ...]] = set()

    def body(probe: Probe) -> None:
        order: list[int] = []

        async def main() -> None:
            if not pools:
                pools.append(library["Pool"](getattr(queue, kind)(), 2))
            calls = [functools.partial(order.append, number) for number in range(3)]
            await asyncio.gather(*(pools[0].run(call) for call in calls))

        asyncio.run(main())
        # As at the end of a test: who was too late for an item goes on until it waits again.
        probe.run_until_idle()
        if not outlives:
            pools.pop().end()
        met.extend(probe.clock.sequencer.outside.met)
        seen.add(tuple(order))

    steps = [one_run(body, Drawn(seed)) for seed in (*range(40), 5)]
    for pool in pools:
        pool.end()

    assert met == []
    assert len(seen) == 6
    # The first run starts the threads.
    assert steps[5] == steps[-1]


def test_threads_from_before_a_run_are_controlled(tmp_path: Path) -> None:
    """A thread that waited for a queue before a run takes turns in it, and serves others later."""
    library: Any = {"__name__": "some_library"}
    file = Path(sysconfig.get_path("purelib")) / "some_library.py"
    exec(compile(LIBRARY, file, "exec"), library)  # as an installed package
    pools = [library["Pool"](queue.SimpleQueue(), 1) for _ in range(3)]
    real = pools[0].calls
    found = FoundLocks(tmp_path)
    met: list[str] = []
    seen: set[tuple[int, ...]] = set()
    left: list[asyncio.Future[int]] = []

    def body(probe: Probe) -> None:
        order: list[int] = []

        async def main() -> None:
            calls = [functools.partial(order.append, number) for number in range(3)]
            used = (pools[0], pools[0], pools[1])
            # Whether it is cancelled before it has an answer depends on the order.
            left.append(asyncio.ensure_future(pools[2].run(int)))
            async with asyncio.timeout(1):
                await asyncio.gather(
                    *(pool.run(call) for pool, call in zip(used, calls, strict=True))
                )

        asyncio.run(main())
        met.extend(probe.clock.sequencer.outside.met)
        seen.add(tuple(order))

    steps = []
    for seed in (*range(40), 3):
        with found.modelled():
            steps.append(one_run(body, Drawn(seed)))
        assert pools[0].calls is real
    later = {asyncio.run(pool.run(lambda: "later")) for pool in pools}
    for pool in pools:
        pool.end()

    assert (met, later) == ([], {"later"})
    assert {one.cancelled() for one in left} == {True, False}
    assert len(seen) == 6
    assert steps[3] == steps[-1]


def test_an_item_of_a_simple_queue_is_waited_for_on_the_clock() -> None:
    """A task that waits for one lets others run, and its time limit is virtual."""

    def body(probe: Probe) -> None:
        items: queue.SimpleQueue[str] = queue.SimpleQueue()

        @background_task
        def take() -> tuple[str, float]:
            first = items.get()
            with pytest.raises(queue.Empty, match=r"^$"):
                items.get(timeout=5)
            return first, probe.clock.monotonic()

        @background_task
        def give() -> None:
            probe.clock.sleep(3)
            items.put("bread")

        taken = take()
        give()
        assert probe.run_until_complete(taken).result == ("bread", 8)
        assert not probe.clock.sequencer.outside.met

    one_run(body, Default())


Take = Callable[[sqlite3.Connection], object]


def writes(connection: sqlite3.Connection) -> None:
    """Begin a transaction that writes."""
    connection.execute("begin immediate")


def reads_and_writes(connection: sqlite3.Connection) -> None:
    """Begin a transaction that reads, and then writes."""
    connection.execute("begin")
    connection.execute("select n from stock").fetchall()
    connection.execute("update stock set n = n - 1")


@pytest.mark.parametrize(
    ("take", "timeout", "expected"),
    [(writes, 20.0, 10.0), (writes, 4.0, 4.0), (reads_and_writes, 20.0, 0.0)],
    ids=["waits", "gives up", "cannot wait"],
)
def test_the_lock_of_a_database_is_waited_for_on_the_clock(
    tmp_path: Path, take: Take, timeout: float, expected: float
) -> None:
    """It is waited for as in SQLite: until it is free, for so long, or not after a read."""

    def body(probe: Probe) -> None:
        path = tmp_path / "shop.db"
        with sqlite3.connect(path) as connection:
            connection.executescript("create table stock (n); insert into stock values (5)")

        @background_task
        def hold() -> None:
            with sqlite3.connect(path) as connection:
                connection.execute("begin immediate")
                probe.clock.sleep(10)
            connection.close()

        @background_task
        def wait() -> tuple[float, str]:
            connection = sqlite3.connect(path, timeout=timeout)
            error = ""
            try:
                take(connection)
            except sqlite3.OperationalError as found:
                error = str(found)
            connection.close()
            return probe.clock.monotonic(), error

        hold()
        waited = probe.run_until_complete(wait()).result
        assert waited == (expected, "" if expected == 10 else "database is locked")
        probe.run_until_idle()
        connection.close()
        assert not probe.clock.sequencer.outside.met

    one_run(body, Default())


def test_a_database_that_others_have_locked_is_met(tmp_path: Path) -> None:
    """What nobody in the run has locked is waited for in real time, and named."""
    path = tmp_path / "shop.db"
    foreign = sqlite3.connect(path)
    foreign.execute("begin immediate")

    def body(probe: Probe) -> None:
        connection = sqlite3.connect(path, timeout=0.01)
        with pytest.raises(sqlite3.OperationalError, match=r"^database is locked$"):
            connection.execute("begin immediate")
        connection.close()
        assert [*probe.clock.sequencer.outside.met] == ["a database that something else has locked"]

    one_run(body, Default())
    foreign.close()


TALKS = """
import socket
import pytest
from framework import background_task

@pytest.mark.interleave(seeds=2)
def test_it(asyncframe):
    reader, writer = socket.socketpair()
    background_task(reader.recv)(1)
    background_task(writer.send)(b"x")
    asyncframe.run_until_idle()
    reader.close()
    writer.close()
"""


def test_tasks_that_talk_over_a_socket_are_partially_controlled(
    pytester: pytest.Pytester,
) -> None:
    """The second one starts beside the first one, and the result says what nobody controls."""
    result = run(pytester, TALKS, "-v")

    result.assert_outcomes(passed=1)
    words = "3 runs of level framework, then 1 with drawn delays, none fails, partially controlled"
    result.stdout.fnmatch_lines([f"*PASSED ({words})*"])
