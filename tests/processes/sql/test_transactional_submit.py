"""Tasks that are submitted in transactions of the app: there if it commits, and only then."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Annotated, Any

import pytest
import sqlalchemy as sa
from fastapi import Depends, FastAPI
from httpx import ASGITransport, AsyncClient
from sqlalchemy.engine import URL, Connection, Engine
from sqlalchemy.ext.asyncio import (
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from framework import (
    FrameworkNotStartedError,
    TaskManager,
    async_task,
    background_task,
    get_task_manager,
    setup_async_framework,
)
from framework._records.records import OFFERED, Heading, Restart, TaskRecord
from framework.http import Accepted, task_router
from framework.stores.sql import SQLStore
from framework.stores.sql._dialects.chosen import checked_url
from framework.stores.sql._shared.site import Pace
from framework.stores.sql._shared.transactions import AppTransactions
from framework.stores.sql._tables.schema import SUBMISSIONS
from tests.children import ROOT, python
from tests.patience import PATIENCE
from tests.processes.sql.siblings import Peer, new_record, peers

ORDERS = sa.Table("orders", sa.MetaData(), sa.Column("number", sa.Integer, primary_key=True))
BODIES = sa.Table(
    "bodies",
    ORDERS.metadata,
    sa.Column("task_id", sa.String, primary_key=True),
    sa.Column("number", sa.Integer),
    sa.Column("ran", sa.Integer),
)
DATABASE: list[Engine] = []

LATER = pytest.param(True, marks=pytest.mark.extended("time"))


@background_task(name="tests.transacted")
def look(number: int) -> bool:
    """Return whether the row of an order is there."""
    with DATABASE[0].connect() as connection:
        query = sa.select(ORDERS).where(ORDERS.c.number == number)
        return connection.execute(query).first() is not None


@background_task(name="tests.transacted_body")
def body(number: int) -> None:
    """Count in the row of a number that it has run."""
    with DATABASE[0].begin() as connection:
        mine = BODIES.c.number == number
        done = connection.execute(sa.update(BODIES).where(mine).values(ran=BODIES.c.ran + 1))
        assert done.rowcount == 1


@background_task(name="tests.transacted_loop", max_running=1)
async def look_on_loop(number: int) -> int:
    """Stand for a function on the loop, of which one runs at a time."""
    return number


@async_task(name="tests.transacted_awaited")
async def awaited() -> int:
    """Stand for a function whose result is awaited."""
    return 1


@contextmanager
def orders(url: str | URL) -> Iterator[Engine]:
    """Give an app an engine of its own on a database, and a table."""
    engine = sa.create_engine(checked_url(str(url)))
    ORDERS.metadata.create_all(engine)
    DATABASE.append(engine)
    try:
        yield engine
    finally:
        DATABASE.clear()
        engine.dispose()


@asynccontextmanager
async def process(url: str, **options: Any) -> AsyncIterator[TaskManager]:
    """Run a process of an app."""
    store = SQLStore(url, durable=options.pop("durable", False))
    store._pace = Pace(beat=0.1)
    async with setup_async_framework(None, store=store, **options):
        yield get_task_manager()


@contextmanager
def app_of(url: str, count: int = 2) -> Iterator[tuple[list[Peer], Engine]]:
    """Let some processes share a database, step by step, with an app's engine."""
    with peers(url, count) as shared, orders(url) as engine:
        yield shared, engine


def submit(peer: Peer, session: Session | Connection, number: int) -> TaskRecord:
    """Submit a task of a process in a transaction."""
    transactions = AppTransactions(peer.database, "the store")
    transactions.open(peer.writer.membership, peer.writer.follower.submissions)
    call = f"[[{number}],{{}}]"
    record = new_record(peer.clock, heading=Heading("tests.transacted", ""), reason=OFFERED)
    record.restart = Restart(call, fresh=True, offered=True)
    transactions.submit_in(session, record)
    return record


def submissions(peer: Peer) -> int:
    """Return how many submissions are committed and not moved."""
    with peer.database.reading() as connection:
        query = sa.select(sa.func.count()).select_from(SUBMISSIONS)
        return int(connection.execute(query).scalar_one())


def taken(peer: Peer) -> list[str]:
    """Return the ids of the tasks that a process has taken over."""
    return [str(record.task_id) for record in peer.host.taken_over]


# -- the whole


@pytest.mark.parametrize("durable", [False, LATER])
async def test_there_if_it_commits(sql_url: str, durable: bool) -> None:
    """A task starts after the commit and finds its row; a rollback leaves no task."""
    async with process(sql_url, durable=durable) as manager:
        with orders(sql_url) as engine:
            with Session(engine) as session:
                session.execute(ORDERS.insert().values(number=1))
                first = await manager.submit(look, (1,), session=session)
                second = look.options(session=session, priority="high")(1)
                session.commit()
            assert await manager.get_result(first, PATIENCE) is True
            assert await manager.get_result(second, PATIENCE) is True
            with Session(engine) as session:
                session.execute(ORDERS.insert().values(number=2))
                third = await manager.submit(look, (2,), session=session)
                session.rollback()
            assert await manager.get_task(third) is None
            task = await manager.get_task(first)
            assert task is not None
            assert (task.name, task.attempts, task.reason) == ("tests.transacted", 1, "")
        assert manager.get_stats()["submitted"] == 2


async def test_savepoints(sql_url: str) -> None:
    """A savepoint that is rolled back leaves no task, though the transaction around it commits."""
    async with process(sql_url) as manager:
        with orders(sql_url) as engine, Session(engine) as session:
            # As SQLAlchemy's documentation has it: the driver of SQLite begins too late by itself.
            session.execute(ORDERS.insert().values(number=1))
            with session.begin_nested():
                kept = look.options(session=session)(1)
            point = session.begin_nested()
            dropped = look.options(session=session)(2)
            point.rollback()
            session.commit()
            assert await manager.get_result(kept, PATIENCE) is True
            assert await manager.get_task(dropped) is None


@pytest.mark.extended("time")
async def test_savepoints_of_an_engine_that_begins(sqlite_url: str) -> None:
    """With the cure for SQLite's driver, a savepoint that comes first is rolled back as well."""
    async with process(sqlite_url) as manager:
        with orders(sqlite_url) as engine:

            @sa.event.listens_for(engine, "connect")
            def keep_the_driver_from_it(connection: Any, _: object) -> None:
                connection.isolation_level = None

            @sa.event.listens_for(engine, "begin")
            def begin(connection: Connection) -> None:
                connection.exec_driver_sql("BEGIN IMMEDIATE")

            engine.dispose()
            with Session(engine) as session:
                with session.begin_nested():
                    dropped = look.options(session=session)(1)
                session.rollback()
                with session.begin_nested():
                    kept = look.options(session=session)(2)
                session.commit()
            assert await manager.get_result(kept, PATIENCE) is False
            assert await manager.get_task(dropped) is None


@pytest.mark.extended("time")
@pytest.mark.parametrize("how", ["connection", "bound session", "scoped session", "submit_nowait"])
async def test_ways_to_have_a_session(sql_url: str, how: str) -> None:
    """What SQLAlchemy has for a transaction can be given, whoever commits it."""
    async with process(sql_url) as manager:
        with orders(sql_url) as engine, engine.begin() as connection:
            connection.execute(ORDERS.insert().values(number=1))
            if how == "connection":
                task_id = look.options(session=connection)(1)
            elif how == "bound session":
                with Session(connection) as session:
                    task_id = await manager.submit(look, (1,), session=session)
            elif how == "submit_nowait":
                task_id = manager.submit_nowait(look, (1,), session=connection)
            else:
                scoped = scoped_session(sessionmaker(connection))
                task_id = await manager.submit(look, (1,), session=scoped)
            connection.commit()
            assert await manager.get_result(task_id, PATIENCE) is True


@pytest.mark.extended("time")
async def test_sessions_that_are_awaited(sql_url: str) -> None:
    """AsyncSession, AsyncConnection and async_scoped_session do what sync counterparts do."""
    async with process(sql_url, durable=True) as manager:
        engine = create_async_engine(sql_url.replace("sqlite:", "sqlite+aiosqlite:"))
        with orders(sql_url):
            async with AsyncSession(engine) as session:
                await session.execute(ORDERS.insert().values(number=1))
                first = await manager.submit(look, (1,), session=session)
                with pytest.raises(TypeError, match=r"^session: a call that returns at once "):
                    look.options(session=session)(1)
                await session.commit()
                assert await manager.get_result(first, PATIENCE) is True
                dropped = await manager.submit(look, (2,), session=session)
                await session.rollback()
            scoped = async_scoped_session(async_sessionmaker(engine), asyncio.current_task)
            third = await manager.submit(look, (1,), session=scoped)
            with pytest.raises(TypeError, match=r"^session: .* wait for AsyncSession; use await "):
                look.options(session=scoped)(1)
            await scoped.commit()
            await scoped.remove()
            assert await manager.get_result(third, PATIENCE) is True
            async with engine.begin() as connection:
                second = await manager.submit(look, (1,), session=connection)
            assert await manager.get_result(second, PATIENCE) is True
            assert await manager.get_task(dropped) is None
        await engine.dispose()


def in_session() -> Iterator[Session]:
    """Commit what a route has done, once its response was sent."""
    with Session(DATABASE[0]) as session, session.begin():
        yield session


@pytest.mark.extended("time")
@pytest.mark.parametrize("is_made", [False, True], ids=["id", "Accepted"])
async def test_a_dependency_that_commits_after_the_response(
    sql_url: str, is_made: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The response is made without waiting for a task that nobody can see before the commit."""
    app = FastAPI()
    app.include_router(task_router())

    @app.post("/")
    async def place(session: Annotated[Session, Depends(in_session)]) -> Accepted[bool]:
        session.execute(ORDERS.insert().values(number=1))
        task_id = look.options(session=session)(1)
        return Accepted(task_id) if is_made else task_id

    store = SQLStore(sql_url)
    async with (
        setup_async_framework(app, store=store),
        AsyncClient(transport=ASGITransport(app), base_url="http://test") as client,
    ):
        with orders(sql_url):
            response = await client.post("/", headers={"Idempotency-Key": "1"})
            task_id = response.json()["task_id"]
            assert await get_task_manager().get_result(task_id, PATIENCE) is True
    assert (response.status_code, response.headers["Retry-After"]) == (202, "1")
    assert not [one for one in caplog.messages if one.startswith("the store fails")]


@pytest.mark.extended("time")
async def test_a_process_without_workers(sql_url: str) -> None:
    """A process that only submits leaves the task to a worker, whatever its function says."""
    async with process(sql_url, max_workers=0) as web, process(sql_url) as worker:
        with orders(sql_url) as engine:
            with Session(engine) as session:
                session.execute(ORDERS.insert().values(number=1))
                task_id = await web.submit(look, (1,), session=session)
                session.commit()
            assert await web.get_result(task_id, PATIENCE) is True
        assert worker.get_stats()["submitted"] == 1


@pytest.mark.extended("time")
async def test_options_travel(sql_url: str) -> None:
    """A delayed, limited task keeps its options, and is found and cancelled before it starts."""
    async with process(sql_url) as manager:
        with orders(sql_url) as engine:
            with Session(engine) as session:
                late = await manager.submit(
                    look_on_loop,
                    (1,),
                    session=session,
                    delay=3600,
                    description="tomorrow",
                    timeout=7,
                    owner="ann",
                    label=lambda number: f"order {number}",
                    meta=lambda number: {"order_id": number},
                )
                soon = await manager.submit(look_on_loop, (2,), session=session)
                session.commit()
            task = await manager.get_task(late)
            assert task is not None
            assert (task.status, task.description, task.owner) == ("pending", "tomorrow", "ann")
            assert (task.label, task.meta) == ("order 1", {"order_id": 1})
            assert await manager.get_result(soon, PATIENCE) == 2
            assert await manager.cancel_task(late)


# -- the invariants, in orders that are forced


@pytest.mark.extended("servers")
def test_the_one_that_began_first_is_committed_last(postgres_url: str) -> None:
    """A submission is found by being there, whatever was committed and moved before it."""
    with app_of(postgres_url, 1) as ((peer,), engine):
        peer.host.rooms = 9
        with Session(engine) as early, Session(engine) as late:
            first = submit(peer, early, 1)
            second = submit(peer, late, 2)
            late.commit()
            peer.tick()
            assert taken(peer) == [second.task_id]
            early.commit()
        peer.tick()
        assert taken(peer) == [second.task_id, first.task_id]


def test_its_process_dies_after_the_commit(sql_url: str) -> None:
    """Whichever process lives moves a submission whose own process has ended at the commit."""
    with app_of(sql_url) as ((own, other), engine):
        with Session(engine) as session:
            record = submit(own, session, 1)
            own.writer.follower.submissions._wake = lambda: None
            session.commit()
        assert submissions(other) == 1
        other.host.rooms = 1
        other.tick()
        assert (taken(other), submissions(other)) == ([record.task_id], 0)


def test_two_processes_see_it(sql_url: str) -> None:
    """Of two processes that have seen a submission, one moves it, and one takes it."""
    with app_of(sql_url) as (both, engine):
        with Session(engine) as session:
            record = submit(both[0], session, 1)
            session.commit()
        for peer in both:
            peer.host.rooms = 1
            peer.writer.follower.watch()
            assert peer.writer.follower.behind
        for peer in both:
            peer.writer.follower.go_on()
        assert taken(both[0]) + taken(both[1]) == [record.task_id]
        assert submissions(both[0]) == 0


def test_the_answer_to_moving_it_is_lost(sql_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that does not hear whether it has moved a submission runs its task once."""
    with app_of(sql_url, 1) as ((peer,), engine):
        with Session(engine) as session:
            record = submit(peer, session, 1)
            session.commit()
        peer.host.rooms = 1
        real = peer.database.writing

        @contextmanager
        def lost() -> Iterator[Connection]:
            with real() as connection:
                yield connection
            raise sa.exc.OperationalError("COMMIT", None, Exception("the connection was lost"))

        peer.writer.follower.watch()
        with monkeypatch.context() as patch:
            patch.setattr(peer.database, "writing", lost)
            with pytest.raises(sa.exc.OperationalError, match=r"^.*the connection was lost"):
                peer.writer.follower.go_on()
        assert (taken(peer), submissions(peer)) == ([], 0)
        peer.tick()
        assert taken(peer) == [record.task_id]


@pytest.mark.extended("time")
def test_found_in_every_state(sql_url: str) -> None:
    """A process finds a task from the commit on, before and after it is moved, and not before."""
    with app_of(sql_url) as ((own, other), engine):
        with Session(engine) as session:
            record = submit(own, session, 1)
            if engine.dialect.name != "sqlite":
                assert other.writer_reads([record.task_id]) == {}
            session.commit()
        assert other.writer_reads([record.task_id]) == {record.task_id: "pending"}
        own.tick()
        assert submissions(own) == 0
        assert other.writer_reads([record.task_id]) == {record.task_id: "pending"}


@pytest.mark.extended("time")
def test_the_hint_comes_while_it_looks(sql_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit after the look, and before the look is over, is looked for once more."""
    with app_of(sql_url, 1) as ((peer,), engine):
        follower, looked = peer.writer.follower, list[bool]()
        real = follower.submissions.see

        def see(connection: Connection) -> None:
            real(connection)
            if not looked:
                looked.append(follower.submissions.waits)
                with Session(engine) as session:
                    submit(peer, session, 1)
                    session.commit()

        monkeypatch.setattr(follower.submissions, "see", see)
        follower.submissions.hint()
        follower.go_on()
        assert looked == [False]
        assert follower.behind
        follower.go_on()
        assert submissions(peer) == 0


@pytest.mark.extended("servers")
async def test_a_held_transaction_lets_others_go_on(postgres_url: str) -> None:
    """While an app holds a transaction with a submission, tasks start and end as ever."""
    async with process(postgres_url, durable=True) as manager:
        with orders(postgres_url) as engine, Session(engine) as session:
            held = await manager.submit(look, (1,), session=session)
            for number in range(20):
                assert await manager.submit(look_on_loop, (number,), wait=True) == number
            with Session(engine) as other:
                task_id = await manager.submit(look, (1,), session=other)
                other.commit()
            assert await manager.get_result(task_id, PATIENCE) is False
            assert manager.get_stats()["store_errors"] == 0
            session.commit()
            assert await manager.get_result(held, PATIENCE) is False


KILLED = """
import asyncio, os, signal, sys
from sqlalchemy.orm import Session
from tests.processes.sql.test_transactional_submit import ORDERS, look, orders, process

async def main(url, when):
    async with process(url, max_workers=0) as manager:
        with orders(url) as engine, Session(engine) as session:
            session.execute(ORDERS.insert().values(number=1))
            print(await manager.submit(look, (1,), session=session), flush=True)
            if when == "after":
                session.commit()
            os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.extended("processes")
@pytest.mark.parametrize("when", ["before", "after"])
async def test_its_process_is_killed(sql_url: str, when: str) -> None:
    """A process killed after the commit has left its task to others; before it, nothing."""
    async with process(sql_url) as manager:
        with orders(sql_url):
            done = python("-c", KILLED, sql_url, when, status=-9, cwd=ROOT)
            task_id = done.stdout.strip()
            if when == "after":
                assert await manager.get_result(task_id, PATIENCE) is True
            else:
                assert await manager.get_task(task_id) is None
                assert manager.get_stats()["submitted"] == 0


STORM = """
import asyncio, random, sys
import sqlalchemy as sa
from sqlalchemy.orm import Session
from tests.processes.sql.test_transactional_submit import BODIES, body, process

async def main(url, life):
    draw = random.Random(int(life)).random
    engine = sa.create_engine(url)
    async with process(url, max_workers=0) as manager:
        for number in range(1_000 * int(life), 1_000 * int(life) + 999):
            with Session(engine) as session:
                task_id = await manager.submit(body, (number,), session=session)
                session.execute(BODIES.insert().values(task_id=task_id, number=number, ran=0))
                if draw() < 0.2:
                    with session.begin_nested() as point:
                        body.options(session=session)(-1)
                        point.rollback()
                print(number, flush=True)
                session.rollback() if draw() < 0.3 else session.commit()

asyncio.run(main(*sys.argv[1:]))
"""


def storm(url: str, life: int, most: int) -> None:
    """Run a process that submits in transactions, until it has made some; then kill it."""
    command = [sys.executable, "-P", "-c", STORM, url, str(life)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        for _ in range(most):
            assert child.stdout.readline()
        child.kill()


@pytest.mark.extended("processes")
async def test_many_transactions_of_processes_that_are_killed(sql_url: str) -> None:
    """Whatever is committed before a kill, a task has run once for each row that is there."""
    rng = random.Random(7)
    async with process(sql_url) as manager, process(sql_url):
        with orders(sql_url) as engine:
            for life in range(1, 5):
                await asyncio.to_thread(storm, sql_url, life, rng.randrange(20, 60))
            with engine.connect() as connection:
                task_ids = connection.execute(sa.select(BODIES.c.task_id)).scalars().all()
            for task_id in task_ids:
                assert await manager.get_result(task_id, PATIENCE) is None
            with engine.connect() as connection:
                assert set(connection.execute(sa.select(BODIES.c.ran)).scalars()) == {1}
            assert len(task_ids) > 40
            assert manager.get_stats()["submitted"] == len(task_ids)
            with engine.connect() as connection:
                assert connection.execute(sa.select(SUBMISSIONS)).all() == []


# -- what is refused


@pytest.mark.extended("time")
async def test_another_database(sql_url: str, tmp_path: Path) -> None:
    """A session on another database is refused, with the tables of a store there and without."""
    async with process(sql_url) as manager:
        with orders(f"sqlite:///{tmp_path}/other.db") as engine:
            for _ in range(2):
                with (
                    Session(engine) as session,
                    pytest.raises(
                        ValueError, match=r"^session is (not on the database of|on sqlite, but) .*"
                    ),
                ):
                    await manager.submit(look, (1,), session=session)
                async with process(f"sqlite:///{tmp_path}/other.db"):
                    pass


REFUSALS: dict[str, tuple[Callable[[TaskManager, Any], Any], str]] = {
    "unique": (
        lambda manager, session: manager.submit(look, (1,), unique=True, session=session),
        "tests.transacted cannot be submitted with session: it cannot have the option 'unique'",
    ),
    "task_id": (
        lambda manager, session: manager.submit(look, (1,), task_id="mine", session=session),
        "tests.transacted cannot be submitted with session: it cannot have the option 'task_id'",
    ),
    "hooks": (
        lambda manager, session: manager.submit(look, (1,), on_complete=id, session=session),
        "tests.transacted cannot be submitted with session: it has hooks of its own",
    ),
    "plain": (
        lambda manager, session: manager.submit(threading.active_count, session=session),
        "threading.active_count cannot be submitted with session: another process cannot find",
    ),
    "keep_arguments": (
        lambda manager, session: manager.submit(look, (1,), keep_arguments=False, session=session),
        "keep_arguments must be True with session",
    ),
    "wait": (
        lambda manager, session: manager.submit(look, (1,), wait=True, session=session),
        "wait must be False with session",
    ),
    "awaited": (
        lambda _, session: awaited.options(session=session)(),
        "session is not for an async_task that is awaited",
    ),
    "autocommit": (
        lambda manager, session: manager.submit(
            look,
            (1,),
            session=session.connection(execution_options={"isolation_level": "AUTOCOMMIT"}),
        ),
        "session has the isolation level AUTOCOMMIT",
    ),
}


async def test_what_is_refused(sqlite_url: str) -> None:
    """What no transaction could keep true is refused at the call, and leaves nothing behind."""
    async with process(sqlite_url) as manager:
        with orders(sqlite_url) as engine:
            for call, message in REFUSALS.values():
                with Session(engine) as session:
                    with pytest.raises(ValueError, match=f"^{message}"):
                        await call(manager, session)
                    session.commit()
        assert manager.get_stats()["submitted"] == 0


@pytest.mark.extended("servers")
async def test_an_engine_that_commits_by_itself(postgres_url: str) -> None:
    """A session of an engine with AUTOCOMMIT is refused: it has no transaction."""
    async with process(postgres_url) as manager:
        engine = sa.create_engine(checked_url(postgres_url), isolation_level="AUTOCOMMIT")
        with Session(engine) as session, pytest.raises(ValueError, match=r"^session has the iso"):
            await manager.submit(look, (1,), session=session)
        engine.dispose()


@pytest.mark.extended("servers")
async def test_a_transaction_in_two_phases(postgres_url: str) -> None:
    """A submission notifies nobody in a transaction that PostgreSQL would not prepare then."""
    engine = sa.create_engine(checked_url(postgres_url))
    said = list[str]()
    sa.event.listen(engine, "before_cursor_execute", lambda *given: said.append(given[2]))
    notified = list[bool]()
    async with process(postgres_url) as manager:
        with engine.connect() as connection:
            for begin in (connection.begin, connection.begin_twophase):
                said.clear()
                with begin() as transaction:
                    await manager.submit(look, (1,), session=connection)
                    transaction.rollback()
                notified.append(any("pg_notify" in words for words in said))
    engine.dispose()
    assert notified == [True, False]


@pytest.mark.extended("time")
async def test_no_session(sqlite_url: str) -> None:
    """What is no session is refused by its type, and memory as a store by what it cannot do."""
    async with process(sqlite_url) as manager:
        for wrong in ("session", sessionmaker):
            with pytest.raises(TypeError, match=r"^session must be a Session, AsyncSession, "):
                await manager.submit(look, (1,), session=wrong)
    with pytest.raises(FrameworkNotStartedError, match=r"^this task framework has stopped"):
        manager.submit_nowait(look, (1,), session=Session())
    async with setup_async_framework(None):
        with pytest.raises(ValueError, match=r"^tests\.transacted cannot .*use store=SQLStore"):
            look.options(session=Session())(1)
