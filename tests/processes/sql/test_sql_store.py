"""The SQL store as its user sees it: what it takes, what it gives back, what it refuses."""

from __future__ import annotations

import asyncio
import re
import threading
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any

import pytest
from pydantic import BaseModel
from sqlalchemy.engine import make_url

from framework import (
    TaskInterruptedError,
    background_task,
    get_task_manager,
    setup_async_framework,
)
from framework._records.statuses import TaskStatus
from framework.protocols import LargeStore, SharedDirectory, SharedStore, TaskEvent
from framework.stores.sql import SQLStore
from tests.children import python
from tests.patience import PATIENCE
from tests.processes.refusals import refusal
from tests.processes.sql.siblings import (
    COMPLETED,
    FAILED,
    PENDING,
    Host,
    Peer,
    TestClock,
    new_record,
    peers,
)


class Report(BaseModel):
    """What a task returns."""

    pages: int


@background_task
def make_report(pages: int) -> Report:
    """Return a model."""
    return Report(pages=pages)


@dataclass
class Opaque:
    """What JSON has nothing for."""

    thing: object


@background_task
def return_opaque():
    """Return what cannot be kept."""
    return Opaque(threading.Lock())


@background_task
def fail() -> None:
    """Fail."""
    raise LookupError("no such page")


# -- what it is made with


def begin_with(dialect: str, given: str, driver: str) -> str:
    """Return what a URL with another driver is answered with, as a pattern."""
    return re.escape(
        f"ValueError: url must start with '{dialect}://', not with '{given}://': write "
        f"{dialect}://...; the store has a driver of its own, {driver}"
    )


def test_url_is_refused() -> None:
    """A URL of no use is refused at once, with what is allowed, and without its password."""
    cases: list[tuple[Any, str]] = [
        (None, "TypeError: url must be a string such as 'sqlite:///tasks.db', or a sqlalchemy.*"),
        ("tasks.db", "ValueError: url must be like 'sqlite:///tasks.db' or .*'tasks.db'"),
        ("mysql://host/name", "ValueError: url must start with one of .*, not with 'mysql': .*"),
        ("postgres://u:secret@h/n", begin_with("postgresql", "postgres", "psycopg")),
        (
            "postgresql+asyncpg://h/n",
            begin_with("postgresql", "postgresql+asyncpg", "psycopg")
            + "; your app may go on using asyncpg",
        ),
        (
            "sqlite+aiosqlite:///x.db",
            begin_with("sqlite", "sqlite+aiosqlite", "sqlite3")
            + "; your app may go on using aiosqlite",
        ),
        (
            "sqlite://",
            "ValueError: url must name a file, .*; to keep tasks in memory, do not pass.*",
        ),
        ("sqlite:///:memory:", "ValueError: url must name a file, .*"),
        ("sqlite:///file:x?mode=memory&uri=true", "ValueError: url must name a file, .*"),
    ]
    cases += [
        (f"postgresql://u:secret@{rest}", f"ValueError: url must .*{re.escape(words)}")
        for rest, words in [
            ("h:x/n", "not 'postgresql://u:***@h:x/n'; in a password write '@' as %40, '/' as %2F"),
            ("secret@h/n", "not 'postgresql://u:***@h/n'; in a password write '@' as %40, '/' as "),
            (
                "h:1,i:2/n",
                "n'; several hosts go behind the name, as in ?host=one:5432&host=two",
            ),
        ]
    ]
    found = [(url, refusal(partial(SQLStore, url)), words) for url, words in cases]
    assert not [said for _, said, _ in found if "secret" in said]
    assert repr(SQLStore("postgresql://h/n?password=secret")).endswith("://h/n')")
    assert [one for one in found if not re.match(one[2], one[1])] == []


def test_durable_is_refused() -> None:
    """Anything but True and False for durable is refused."""
    with pytest.raises(TypeError, match=r"^durable must be True or False, not 'yes'$"):
        SQLStore("sqlite:///tasks.db", durable="yes")  # type: ignore[arg-type]  # on purpose


def test_shown_without_password() -> None:
    """A store shows its URL, and no password."""
    urls: list[Any] = ["postgresql://u:secret@host/name", make_url("sqlite:///x.db")]
    assert [repr(SQLStore(url)) for url in urls] == [
        "SQLStore('postgresql+psycopg://u:***@host/name')",
        "SQLStore('sqlite+pysqlite:///x.db')",
    ]


def test_it_is_a_shared_store() -> None:
    """The framework knows it for a store that other processes share, and that may be large."""
    store = SQLStore("sqlite:///tasks.db")
    protocols = (SharedStore, LargeStore, SharedDirectory)
    assert [one for one in protocols if not isinstance(store, one)] == []


WITHOUT = """
import sys
sys.modules["{missing}"] = None
import framework
try:
    from framework.stores.sql import SQLStore
    SQLStore("postgresql://host/name")
except ImportError as error:
    print(error)
"""


@pytest.mark.extended("processes")
def test_extra_is_not_installed() -> None:
    """Without its extra the store says what to install, and the framework works."""
    said = {
        "sqlalchemy": "a store in a SQL database needs SQLAlchemy: install the extra 'sql' of ",
        "psycopg": "a store on PostgreSQL needs psycopg 3: install the extra 'postgresql' of ",
    }
    found = {one: python("-c", WITHOUT.format(missing=one)).stdout.strip() for one in said}
    assert found == {one: f"{text}asyncframe" for one, text in said.items()}


@pytest.mark.extended("processes")
def test_framework_imports_no_database() -> None:
    """A framework that keeps its tasks in memory does not import SQLAlchemy."""
    code = "import sys, framework, framework.lifespan; print('sqlalchemy' in sys.modules)"
    assert python("-c", code).stdout == "False\n"


# -- end to end


async def test_results_are_typed_after_a_restart(sql_url: str) -> None:
    """A result is read back as what the function says that it returns, also later."""
    async with setup_async_framework(None, store=SQLStore(sql_url)):
        task_id = make_report(3)
        first = await get_task_manager().get_result(task_id)
    async with setup_async_framework(None, store=SQLStore(sql_url)):
        later = await get_task_manager().get_result(task_id)

    assert first == later == Report(pages=3)


async def test_result_that_cannot_be_kept(sqlite_url: str) -> None:
    """A result that JSON has nothing for fails the task, and says so."""
    async with setup_async_framework(None, store=SQLStore(sqlite_url)):
        with pytest.raises(TypeError, match=r"^the result of .*return_opaque cannot be kept: "):
            await get_task_manager().get_result(return_opaque())


@background_task
def power(digits: int) -> int:
    """Return a whole number of so many digits, and one."""
    return int(10**digits)


async def test_whole_number_of_many_digits(sql_url: str) -> None:
    """A long whole number is kept, or its task fails: the same at once and after a restart."""
    kept, too_long = 700, 5_000
    outcomes: dict[int, list[Any]] = {kept: [], too_long: []}
    task_ids: dict[int, list[str]] = {}
    for _ in range(2):
        async with setup_async_framework(None, store=SQLStore(sql_url)):
            manager = get_task_manager()
            for digits in outcomes:
                if digits not in task_ids:
                    task_ids[digits] = [power(digits), await manager.submit(pow, (10, digits))]
                for task_id in task_ids[digits]:
                    found = manager.get_result(task_id)
                    outcomes[digits] += await asyncio.gather(found, return_exceptions=True)

    assert outcomes[kept] == [10**700] * 4
    failures = outcomes[too_long]
    assert [type(outcome) for outcome in failures] == [TypeError] * 4
    assert [str(one) for one in failures[:2]] == [str(one) for one in failures[2:]]


async def test_result_is_written_as_it_was_returned(sqlite_url: str) -> None:
    """A result that is changed after the task has ended is stored as it was."""

    def grow() -> list[int]:
        return [1]

    async with setup_async_framework(None, store=SQLStore(sqlite_url)):
        manager = get_task_manager()
        task_id = await manager.submit(grow)
        (await manager.get_result(task_id)).append(2)
    async with setup_async_framework(None, store=SQLStore(sqlite_url)):
        assert await get_task_manager().get_result(task_id) == [1]


async def test_failure_of_another_process_is_not_reported_again(
    sqlite_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A failure is logged by its own process, and not after a restart."""
    for _ in range(2):
        async with setup_async_framework(None, store=SQLStore(sqlite_url)):
            if not get_task_manager().get_stats()["failed"]:
                event = asyncio.Event()
                loop = asyncio.get_running_loop()

                def hear(_: TaskEvent, event: asyncio.Event = event, loop: Any = loop) -> None:
                    loop.call_soon_threadsafe(event.set)

                get_task_manager().subscribe(hear, kinds={"failed"})
                fail()
                await event.wait()

    assert caplog.text.count(" failed: ") == 1


async def test_durable_submission_is_on_the_disk(sql_url: str) -> None:
    """With durable=True a submission returns when another process can read the record."""
    gate = threading.Event()
    async with setup_async_framework(None, store=SQLStore(sql_url, durable=True)):
        try:
            task_id = await get_task_manager().submit(gate.wait)
            with peers(sql_url, 1) as (peer,):
                assert peer.ids() == [task_id]
        finally:
            gate.set()


async def test_stopped_framework_leaves_no_live_task(sqlite_url: str) -> None:
    """Tasks that a shutdown ends are final in the database too, and its process is removed."""
    gate = threading.Event()
    async with setup_async_framework(
        None, store=SQLStore(sqlite_url), graceful_shutdown_timeout=0.0
    ):
        task_id = await get_task_manager().submit(gate.wait)
    gate.set()
    async with setup_async_framework(None, store=SQLStore(sqlite_url)):
        with pytest.raises(
            TaskInterruptedError,
            match=r"^task .* was interrupted before ",
        ):
            await get_task_manager().get_result(task_id)


async def test_same_store_again(sqlite_url: str) -> None:
    """One store serves one framework after the other, and keeps no thread in between."""
    store = SQLStore(sqlite_url)
    for number in range(3):
        async with setup_async_framework(None, store=store):
            await get_task_manager().get_result(make_report(number))
            assert get_task_manager().get_stats()["completed"] == number + 1
        assert "asyncframe-store" not in [thread.name for thread in threading.enumerate()]


async def test_clean_up_reaches_the_other_process(sqlite_url: str) -> None:
    """A task that one framework forgets is forgotten by the others that share the store."""
    async with setup_async_framework(None, store=SQLStore(sqlite_url)):
        manager = get_task_manager()
        await manager.get_result(make_report(1))
        with peers(sqlite_url, 1) as (peer,):
            (other,) = peer.finished()
            assert await manager.get_task(other.task_id) is not None
        store: Any = manager._core.ledger.store
        store._writer.follower.look()
        assert manager.cleanup_completed_tasks(0.0) >= 1
        assert manager.get_stats()["completed"] == len(manager.get_all_tasks())


# -- tasks of another process that has much to do


class NotingClock(TestClock):
    """A clock that notes for how long somebody is to be waited for.

    Attributes:
        waits: Seconds.
        noted: Set with each.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float] = []
        self.noted = asyncio.Event()

    def call_at(self, when: float, fn: Any, *, background: bool = False) -> Any:
        """Note the wait, and let the real time pass."""
        if not background:
            self.waits.append(when - self.now)
            self.noted.set()
        return super().call_at(when, fn, background=background)


async def test_cancelling_a_task_that_is_written_late(sql_url: str) -> None:
    """A task is cancelled that its process writes only when it was asked for before."""
    clock, store = NotingClock(), SQLStore(sql_url)
    with peers(sql_url, 1) as (peer,):
        task = peer.accept()
        async with setup_async_framework(None, store=store, clock=clock):
            looks = count(1)
            fetch = store.fetch

            def look(task_ids: Any) -> Any:
                found = fetch(task_ids)
                if next(looks) == 4:
                    peer.writer.batches.write()
                return found

            store.fetch = look  # type: ignore[method-assign]  # a spy
            cancelling = asyncio.ensure_future(get_task_manager().cancel_task(task.task_id))
            noted = asyncio.ensure_future(clock.noted.wait())
            await asyncio.wait([cancelling, noted], return_when=asyncio.FIRST_COMPLETED)
            assert not cancelling.done()
            peer.writer.follower.look()
            assert peer.host.cancelled == [task.task_id]
            peer.end(task, TaskStatus.CANCELLED)
            peer.writer.batches.write()
            assert await cancelling
        assert clock.waits == [2.0], "to hear of it, to let go, and to tell"


async def test_unknown_id_where_nobody_else_is(sql_url: str) -> None:
    """A process that has the database for itself knows after two looks that an id is unknown."""
    store, looks = SQLStore(sql_url), count()
    async with setup_async_framework(None, store=store):
        fetch = store.fetch
        store.fetch = lambda task_ids: (next(looks), fetch(task_ids))[1]  # type: ignore[method-assign]  # a spy
        assert await get_task_manager().get_task("unknown") is None
        assert next(looks) == 2
        with peers(sql_url, 1) as (peer,):
            assert not store.is_alone()
            with peer.database.writing() as connection:
                peer.writer.membership.leave(connection)
        assert store.is_alone()


# -- what the mirror knows


def test_live_tasks_of_others_are_listed(sqlite_url: str) -> None:
    """Each process lists and counts the live tasks of the others, and not its own."""
    with peers(sqlite_url) as (one, two):
        waiting, running = one.accept(), one.accept()
        one.start(running)
        two.accept()
        for peer in (one, two):
            peer.writer.batches.write()
        for peer in (one, two):
            peer.writer.follower.look()

        assert {record.task_id for record in two.mirror.records()} == {
            waiting.task_id,
            running.task_id,
        }
        assert [record.task_id for record in two.mirror.records(PENDING)] == [waiting.task_id]
        assert counted(two) == {"pending": 1, "running": 1}
        assert two.mirror.get(waiting.task_id) is None
        assert counted(one) == {"pending": 1}


def counted(peer: Peer) -> dict[str, int]:
    """Return a mirror's counts above 0."""
    return {status: count for status, count in peer.mirror.figures().items() if count}


def test_task_of_another_process_that_ends(sqlite_url: str) -> None:
    """A task that was listed as live is listed as final once it is, and counted once."""
    with peers(sqlite_url) as (one, two):
        task = one.accept()
        one.writer.batches.write()
        two.writer.follower.look()
        one.end(task, FAILED)
        one.writer.batches.write()
        two.writer.follower.look()
        two.writer.follower.look()

        assert [record.status for record in two.mirror.records()] == [FAILED]
        assert counted(two) == {"failed": 1}
        found = two.mirror.get(task.task_id)
        assert found is not None
        assert repr(found.error) == "ValueError('told')"


@pytest.mark.parametrize("completed", [True, False])
def test_counts_after_removal(sqlite_url: str, completed: bool) -> None:
    """Removed tasks are no longer counted under their status."""
    with peers(sqlite_url, 1) as (peer,):
        for status in (COMPLETED, FAILED, COMPLETED, TaskStatus.CANCELLED):
            peer.end(peer.accept(), status)
        peer.mirror.remove(ended_before=None, keep=2, completed=completed)

        assert counted(peer) == {"completed": 1, "cancelled": 1}


def test_unknown_result_is_plain(sqlite_url: str) -> None:
    """A result of a function that is not known here is what JSON has."""
    with peers(sqlite_url) as (one, two):
        task = one.end(one.accept(), result=[1, {"a": None}])
        one.writer.batches.write()
        two.writer.follower.look()
        found = two.mirror.get(task.task_id)

    assert found is not None
    assert found.result == [1, {"a": None}]


def test_error_text_that_is_no_error(sqlite_url: str) -> None:
    """A row whose error cannot be read is shown with what stands there."""
    with peers(sqlite_url) as (one, two):
        task = one.end(one.accept(), FAILED)
        one.writer.batches.write()
        with one.database.writing() as connection:
            connection.exec_driver_sql("UPDATE asyncframe_tasks SET error = 'no JSON'")
        two.writer.follower.look()
        found = two.mirror.get(task.task_id)

    assert found is not None
    assert str(found.error) == "an unknown error: no JSON"


def test_id_that_no_database_keeps(sqlite_url: str) -> None:
    """A chosen id with a NUL is refused when the task is submitted."""
    with (
        peers(sqlite_url, 1) as (peer,),
        pytest.raises(ValueError, match=r"^task_id must not contain NUL, .* not 'a\\x00b'$"),
    ):
        peer.accept("a\0b")


def test_nothing_is_asked_before_it_is_open() -> None:
    """A store that is not open knows nothing, and keeps its counts at zero."""
    store = SQLStore("sqlite:///tasks.db")

    assert store.get("unknown") is None
    assert store.list() == []
    assert set(store.figures().values()) == {0}
    store.close(1.0)


def test_noted_after_the_end(sqlite_url: str) -> None:
    """A change that is noted after a task's end does not make it live again."""
    with peers(sqlite_url, 1) as (peer,):
        task = peer.end(peer.accept())
        peer.backlog.note(task)

        assert peer.backlog.live == {}


def test_host_is_told_of_cancellation_once(sqlite_url: str) -> None:
    """A task whose cancellation is under way is not cancelled once more."""
    store = SQLStore(sqlite_url)
    host = Host(TestClock())
    store.open(host)
    record = new_record(TestClock())
    done = threading.Event()
    store.note(record)
    store.secure(record, lambda _: done.set())
    assert done.wait(PATIENCE)
    asked = threading.Event()

    def cancel(task_id: str, reason: str = "") -> None:
        host.cancelled.append(task_id + reason)
        asked.set()

    host.cancel = cancel  # type: ignore[method-assign]  # a spy
    with peers(sqlite_url, 1) as (peer,), peer.database.writing() as connection:
        version = peer.writer.statements.advance(connection, "").version
        assert peer.writer.statements.request_cancel(connection, record.task_id, version)
    assert asked.wait(PATIENCE)
    record.cancel_requested = True
    store.close(5.0)

    assert set(host.cancelled) == {record.task_id}


def test_listed_as_soon_as_somebody_was_told(sqlite_url: str) -> None:
    """A final state that was read for somebody is known here from then on, and counted once."""
    with peers(sqlite_url) as (one, two):
        task = one.accept()
        one.writer.batches.write()
        two.writer.follower.look()
        one.end(task)
        one.writer.batches.write()
        assert two.writer_reads([task.task_id]) == {task.task_id: COMPLETED}

        assert [record.status for record in two.mirror.records()] == [COMPLETED]
        two.writer.follower.look()
        assert counted(two) == {"completed": 1}


def test_own_task_that_has_ended_is_not_read_as_live(sqlite_url: str) -> None:
    """What is told of an own task is how it ended, though the database has not heard of it."""
    with peers(sqlite_url, 1) as (peer,):
        task = peer.accept()
        peer.writer.batches.write()
        peer.end(task)

        assert peer.writer_reads([task.task_id]) == {task.task_id: COMPLETED}


@pytest.mark.parametrize("written", [True, False], ids=["written", "unwritten"])
def test_removed_task_is_not_read_again(sqlite_url: str, written: bool) -> None:
    """A task that was removed is unknown at once, though the database still has its row."""
    with peers(sqlite_url, 1) as (peer,):
        task = peer.accept()
        peer.writer.batches.write()
        peer.end(task)
        if written:
            peer.writer.batches.write()
        peer.clock.pass_time(1.0)
        _, _, bound = peer.mirror.remove(ended_before=100.5, keep=None, completed=False)
        assert bound is not None
        peer.writer.remove(bound)

        assert peer.row(task) is not None
        assert peer.writer_reads([task.task_id]) == {}
        peer.writer.batches.write()
        assert peer.row(task) is None
        assert peer.mirror.records() == []
