"""When the database fails: nothing hangs, nothing is lost that fits, and it is said once."""

from __future__ import annotations

import logging
import re
import sqlite3
import threading
import traceback
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, LiteralString

import psutil
import psycopg
import pytest
import sqlalchemy as sa
from fastapi import FastAPI
from fastapi.testclient import TestClient
from prometheus_client import CollectorRegistry
from psycopg import sql
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

from framework import setup_async_framework
from framework._threads.clock import SystemClock
from framework.exceptions import StoreUnavailableError
from framework.http import health_router
from framework.stores.sql import SQLStore
from framework.stores.sql._backlog import SECURE_PATIENCE
from framework.stores.sql._dialects import dialect as _dialect
from framework.stores.sql._dialects import postgresql as _postgresql
from framework.stores.sql._dialects import sqlite as _sqlite
from framework.stores.sql._dialects.chosen import checked_url
from framework.stores.sql._shared.site import Pace
from framework.stores.sql._tables.database import Database
from framework.stores.sql._tables.schema import STEPS, prepare
from framework.telemetry.prometheus import PrometheusSink
from tests.patience import PATIENCE
from tests.processes.servers import PostgresServer
from tests.processes.sql.siblings import Host, TestClock, new_record, peers

QUICK = Pace(gather=0.001, hurry=0.001, look=0.01, beat=0.05, pause_min=0.001, pause_max=0.01)


@pytest.fixture(autouse=True)
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for a lock for no longer than a moment."""
    monkeypatch.setattr(_dialect, "LOCK_PATIENCE", 0.01)


def file_of(url: str) -> str:
    """Return the file that a URL of SQLite names."""
    return url.removeprefix("sqlite:///")


@contextmanager
def heard(words: str) -> Iterator[threading.Event]:
    """Set an event once a line of the log has some words."""
    said = threading.Event()

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if words in record.getMessage():
                said.set()

    handler = Handler(logging.INFO)
    logging.getLogger("asyncframe").addHandler(handler)
    try:
        yield said
    finally:
        logging.getLogger("asyncframe").removeHandler(handler)


@contextmanager
def locked(url: str) -> Iterator[None]:
    """Keep everybody else from the file."""
    with closing(sqlite3.connect(file_of(url), isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        yield
        connection.execute("ROLLBACK")


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what the store has logged, without what changes from run to run."""
    return [
        f"{record.levelname}: {record.getMessage().split(' after ')[0]}"
        for record in caplog.records
        if record.name == "asyncframe"
    ]


def messages_here(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what was logged on this thread: not what the thread of an earlier store says late."""
    caplog.records[:] = [one for one in caplog.records if one.thread == threading.get_ident()]
    return messages(caplog)


FAILS = "ERROR: the store fails and is retried until it works; records are kept meanwhile: "


def test_locked_file(sqlite_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """While another program locks the file, records wait; afterwards they are written."""
    caplog.set_level(logging.INFO)
    with peers(sqlite_url, 1, pace=QUICK) as (peer,):
        task = peer.accept()
        with locked(sqlite_url):
            assert not peer.writer.attempt()
            assert not peer.writer.attempt()
            assert peer.backlog.errors == 2
            assert len(peer.backlog) == 1
        assert peer.writer.attempt()

        assert peer.row(task).status == "pending"
        assert len(peer.backlog) == 0
    assert messages_here(caplog) == [f"{FAILS}database is locked", "INFO: the store works again"]


def test_full_disk(sqlite_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """While the disk is full, records wait; they are written once there is room."""
    with peers(sqlite_url, 1, pace=QUICK) as (peer,):

        def limit(pages: int) -> None:
            with peer.database.reading() as connection:
                connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")

        limit(1)  # which is as many as there are
        tasks = [peer.end(peer.accept(reason="x" * 10_000)) for _ in range(20)]
        assert not peer.writer.attempt()
        assert len(peer.backlog) == 20
        limit(100_000)
        assert peer.writer.attempt()

        assert sorted(peer.ids()) == sorted(task.task_id for task in tasks)
    assert messages_here(caplog)[0] == f"{FAILS}database or disk is full"


def test_it_fails_with_another_message(sqlite_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """A fault that lasts is told of again when the database says something else."""
    with peers(sqlite_url, 1, pace=QUICK) as (peer,):
        peer.accept()
        with locked(sqlite_url):
            assert not peer.writer.attempt()
        with peer.database.writing() as connection:
            connection.execute(sa.text("ALTER TABLE asyncframe_tasks RENAME TO away"))
        assert not peer.writer.attempt()
        peer.clock.pass_time(10.0)
        assert [peer.writer.attempt() for _ in range(2)] == [False] * 2
    assert messages_here(caplog) == [f"{FAILS}database is locked", "ERROR: the store still fails"]
    assert "10 s, now with: no such table: " in caplog.text


def test_a_closing_store_has_not_recovered(
    sqlite_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A store that fails is not said to work again because it has nothing to write at its end."""
    caplog.set_level(logging.INFO)
    with peers(sqlite_url, 1, pace=QUICK) as (peer,):
        with locked(sqlite_url):
            peer.clock.pass_time(10.0)
            assert not peer.writer.attempt()
            assert peer.writer.attempt(following=False)
        assert messages_here(caplog) == [f"{FAILS}database is locked"]


def moved(url: str, tmp_path: Path) -> Path:
    """Move the file away, and return where it is."""
    return Path(file_of(url)).rename(tmp_path / "away.db")


@pytest.mark.parametrize("replaced", [False, True], ids=["removed", "replaced"])
def test_file_is_removed(
    sqlite_url: str, tmp_path: Path, replaced: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """While the file is gone, or another one is there, records wait; put back, it gets them."""
    file = Path(file_of(sqlite_url))
    with peers(sqlite_url, 1, pace=QUICK) as (peer,):
        peer.finished()
        away = moved(sqlite_url, tmp_path)
        if replaced:
            file.write_bytes(away.read_bytes())
        task = peer.accept()
        for _ in range(3):
            assert not peer.writer.attempt()
        assert (peer.backlog.errors, len(peer.backlog)) == (3, 1)
        assert file.exists() is replaced
        away.replace(file)
        assert peer.writer.attempt()

        assert peer.row(task).status == "pending"
        assert len(peer.ids()) == 2
    (message,) = messages_here(caplog)
    assert message == (
        f"{FAILS}the file {file} was removed or replaced while in use: put it back, or "
        "restart all processes of this app to create a new one"
    )


@pytest.mark.parametrize("ending", ["-wal", "-shm"])
@pytest.mark.parametrize("replaced", [False, True], ids=["removed", "replaced"])
def test_log_is_removed(
    sqlite_url: str, tmp_path: Path, replaced: bool, ending: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The same holds for SQLite's log, and for the index and the locks that belong to it."""
    log = Path(f"{file_of(sqlite_url)}{ending}")
    with peers(sqlite_url, 1, pace=QUICK) as (peer,):
        peer.finished()
        away = log.rename(tmp_path / "away")
        if replaced:
            log.write_bytes(b"")
        task = peer.accept()
        assert [peer.writer.attempt() for _ in range(3)] == [False] * 3
        log.unlink(missing_ok=True)
        away.rename(log)
        assert peer.writer.attempt()
        assert peer.row(task).status == "pending"
        assert len(peer.ids()) == 2
    (message,) = messages_here(caplog)
    assert message.startswith(f"{FAILS}the file {log} was removed or replaced while in use, and ")


def test_refusal_says_why(sqlite_url: str) -> None:
    """A submission that is refused because too many records wait gets the database's error."""
    with peers(sqlite_url, 1, capacity=1, pace=QUICK) as (peer,):
        peer.accept()
        with locked(sqlite_url):
            peer.writer.attempt()
            with pytest.raises(
                StoreUnavailableError,
                match=r"^1 task records wait to be written to the store and no more may: "
                r"database is locked; submit again later, or answer 503$",
            ):
                peer.accept()


def test_change_during_a_fault_is_written_last(sqlite_url: str) -> None:
    """If a task changes while its record waits, the latest state is written."""
    with peers(sqlite_url, 1, pace=QUICK) as (peer,):
        task = peer.accept()
        with locked(sqlite_url):
            peer.writer.attempt()
            peer.start(task)
            peer.end(task, result=7)
        peer.writer.attempt()
        peer.writer.attempt()

        assert (peer.row(task).status, peer.row(task).result) == ("completed", "7")


def test_told_when_it_is_safe(sql_url: str) -> None:
    """A caller that waits for a record to be safe is answered after the commit, not before."""
    told: list[BaseException | None] = []
    with peers(sql_url, 1) as (peer,):
        peer.backlog.secure(peer.accept(), told.append)
        assert told == []
        peer.writer.batches.write()

    assert told == [None]


def test_who_waits_waits_for_nobody(sqlite_url: str) -> None:
    """A record that a caller waits for is written at once, also while others are gathered."""
    with opened(sqlite_url, Pace(gather=10 * PATIENCE, hurry=10 * PATIENCE)) as store:
        safe(store, new_record(TestClock()))
        for _ in range(3):
            store.note(new_record(TestClock()))
            safe(store, new_record(TestClock()))


def test_told_in_time_that_it_is_not_safe(sqlite_url: str) -> None:
    """After five seconds without a commit, a waiting caller gets one error."""
    told: list[BaseException | None] = []
    with peers(sqlite_url, 1, pace=QUICK) as (peer,):
        task = peer.accept()
        peer.backlog.secure(task, told.append)
        with locked(sqlite_url):
            peer.writer.attempt()
            peer.clock.now += SECURE_PATIENCE - 0.1
            peer.backlog._expire()
            assert told == []
            peer.clock.now += 0.2
            peer.backlog._expire()
        peer.writer.attempt()

        assert peer.row(task).status == "pending", "it goes on trying"
    assert [str(error) for error in told] == [
        "the store has not written the task within 5 s: database is locked"
    ]


def test_guest_that_raises(sql_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """A callback for a safe record may raise without harm to others."""

    def raises(_: BaseException | None) -> None:
        raise RuntimeError("a guest")

    with peers(sql_url, 1) as (peer,):
        task = peer.accept()
        peer.backlog.secure(task, raises)
        peer.writer.batches.write()

        assert peer.row(task) is not None
        assert len(peer.backlog) == 0
    assert messages(caplog) == ["ERROR: a callback for a stored record raised an error"]


# -- the whole store, with its thread


@contextmanager
def opened(url: str, pace: Pace = QUICK) -> Iterator[SQLStore]:
    """Run a store."""
    store = SQLStore(url)
    store._pace = pace
    store.open(Host(TestClock()))
    try:
        yield store
    finally:
        store.close(5.0)


def safe(store: SQLStore, record: Any) -> None:
    """Block until a record is safe."""
    told: list[BaseException | None] = []
    done = threading.Event()

    def tell(error: BaseException | None) -> None:
        told.append(error)
        done.set()

    store.note(record)
    store.secure(record, tell)
    assert done.wait(PATIENCE)
    assert told == [None]


def test_thread_outlives_a_fault(sqlite_url: str) -> None:
    """The store's own thread writes again once a lock is gone, and says how often it failed."""
    with opened(sqlite_url) as store:
        record = new_record(TestClock())
        with locked(sqlite_url):
            store.note(record)
            assert store.figures()["store_backlog"] == 1
        safe(store, record)

        assert store.figures()["store_backlog"] == 0
        assert [found.task_id for found in store.fetch([record.task_id])] == [record.task_id]


def test_server_goes_and_comes_back(postgres_server: PostgresServer) -> None:
    """A PostgreSQL that is away for a while gets every record once it is back."""
    with postgres_server.database() as name, opened(postgres_server.url(name)) as store:
        first, second = new_record(TestClock()), new_record(TestClock())
        safe(store, first)
        postgres_server.kill()
        store.note(second)
        with pytest.raises(
            StoreUnavailableError,
            match=r"^SQLStore\('postgresql.+'\) did not answer: .*; try again later$",
        ):
            store.fetch([first.task_id])
        postgres_server.start()
        safe(store, second)

        ids = {record.task_id for record in store.fetch([first.task_id, second.task_id])}
        assert ids == {first.task_id, second.task_id}


def test_a_connection_that_was_lost_meanwhile(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection is asked whether it works if the server has closed it, or if it is old."""
    asked, ping = list[int](), PGDialect_psycopg.do_ping

    def note(dialect: PGDialect_psycopg, connection: Any) -> bool:
        asked.append(connection.info.backend_pid)
        return bool(ping(dialect, connection))

    def used() -> int:
        with database.writing() as connection:
            found: int = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
            return found

    monkeypatch.setattr(PGDialect_psycopg, "do_ping", note)
    monkeypatch.setattr(_postgresql, "_IS_FRESH", 0.0)
    with closing(Database(checked_url(postgres_url), durable=False)) as database:
        first = used()
        assert (used(), asked) == (first, [])
        with psycopg.connect(postgres_url.replace("+psycopg", ""), autocommit=True) as other:
            other.execute("SELECT pg_terminate_backend(%s, 5000)", (first,))
        second = used()
        assert (second != first, asked) == (True, [first])
        monkeypatch.setattr(_postgresql, "_IS_OLD", 0.0)
        assert (used(), asked) == (second, [first, second])


def test_who_stands_still_in_its_turn(postgres_url: str) -> None:
    """A process that is suspended in its turn to write holds up others for less than 5 s."""
    clock = SystemClock()
    with peers(postgres_url, 1) as (peer,), opened(postgres_url, Pace()) as store:
        turn = peer.writer._site.turn()
        turn.__enter__()
        began = clock.monotonic()
        safe(store, new_record(TestClock()))
        assert clock.monotonic() - began < SECURE_PATIENCE - 0.5
        stopped = r"(?s)^\(psycopg\.errors\.IdleInTransactionSessionTimeout\) terminating .*"
        with pytest.raises(sa.exc.InternalError, match=stopped):
            turn.__exit__(None, None, None)


def test_server_that_can_only_be_read_for_a_while(postgres_url: str) -> None:
    """Connections that were opened while a server could only be read are not kept."""
    name = postgres_url.rpartition("/")[2]

    def do(statement: LiteralString) -> None:
        address = postgres_url.replace("+psycopg", "").removesuffix(name) + "postgres"
        with psycopg.connect(address, autocommit=True) as connection:
            connection.execute(sql.SQL(statement).format(sql.Identifier(name), sql.Literal(name)))

    with peers(postgres_url, 1, pace=QUICK) as (peer,):
        first, second = peer.accept(), peer.accept()
        assert peer.writer.attempt()
        do("ALTER DATABASE {0} SET default_transaction_read_only = on")
        try:
            do("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = {1}")
            peer.end(first)
            assert [peer.writer.attempt() for _ in range(3)] == [False] * 3
            assert peer.backlog.fault == "cannot execute UPDATE in a read-only transaction"
        finally:
            do("ALTER DATABASE {0} RESET default_transaction_read_only")
        peer.end(second)
        # The connections that are left are found out at most once each.
        assert any(peer.writer.attempt() for _ in range(3))
        assert peer.row(first).status == peer.row(second).status == "completed"


def test_close_gives_up_in_time(sqlite_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """A store that cannot write says at its end how many records it has not written."""
    with opened(sqlite_url) as store:
        safe(store, new_record(TestClock()))
        with locked(sqlite_url):
            for _ in range(3):
                store.note(new_record(TestClock()))
            store.close(0.2)

    # On a busy machine it may not have tried before the time is up.
    why = "(database is locked|it took longer than 200 ms)"
    told = f"ERROR: the store could not write 3 task records before it was closed: {why}"
    assert re.fullmatch(told, messages(caplog)[-1])


def test_close_writes_what_waits(sql_url: str) -> None:
    """A store that is closed writes everything first, and leaves in order."""
    with opened(sql_url, Pace()) as store:
        records = [new_record(TestClock()) for _ in range(1_200)]
        for record in records:
            store.note(record)
    with peers(sql_url, 1) as (peer,):
        assert len(peer.ids()) == 1_200
        with peer.database.reading() as connection:
            count = connection.exec_driver_sql("SELECT count(*) FROM asyncframe_processes")
            assert count.scalar_one() == 1


def test_store_cannot_be_opened(tmp_path: Path) -> None:
    """A file in a folder that is not there is refused at once, with the folder's name."""
    folder = tmp_path / "missing"
    store = SQLStore(f"sqlite:///{folder}/tasks.db")
    with pytest.raises(StoreUnavailableError, match=rf"there is no folder {folder}$"):
        store.open(Host(TestClock()))


def test_file_is_no_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is no database is refused with what SQLite says of it, not where in a driver."""
    monkeypatch.setattr("framework.stores.sql._shared.opening.OPEN_PATIENCE", 0.05)
    file = tmp_path / "notes.txt"
    file.write_text("no database\n" * 1_000)
    store = SQLStore(f"sqlite:///{file}")
    with pytest.raises(
        StoreUnavailableError,
        match=r"^SQLStore\('sqlite.+'\) cannot be used: file is not a database$",
    ) as caught:
        store.open(Host(TestClock()))
    cause = caught.value.__cause__
    assert isinstance(cause, sa.exc.SQLAlchemyError)
    assert len(traceback.format_exception(cause)) == 1
    assert file.read_text().startswith("no database")


def test_a_store_that_cannot_be_used_lets_go_of_its_file(tmp_path: Path) -> None:
    """What was opened to find out that the tables are too new is closed."""
    file = tmp_path / "tasks.db"
    with closing(Database(checked_url(f"sqlite:///{file}"), False)) as newer:
        prepare(newer, (*STEPS, ("ALTER TABLE asyncframe_tasks ADD COLUMN further TEXT",)))
    store = SQLStore(f"sqlite:///{file}")
    with pytest.raises(
        StoreUnavailableError,
        match=rf"^the tables of this database have version {len(STEPS) + 1}, but this release "
        rf"supports {len(STEPS)}: ",
    ):
        store.open(Host(TestClock()))
    assert str(file) not in [one.path for one in psutil.Process().open_files()]


def test_one_framework_for_each_store(sqlite_url: str) -> None:
    """A store that is in use cannot be opened once more; closed, it can."""
    with opened(sqlite_url) as store:
        with pytest.raises(
            RuntimeError,
            match=r"^SQLStore\('sqlite.+'\) is already in use by a framework: give each "
            r"framework its own SQLStore; they may have the same url$",
        ):
            store.open(Host(TestClock()))
        store.close(5.0)
        store.open(Host(TestClock()))


def test_doubt(sqlite_url: str) -> None:
    """While a store cannot be written, what others have accepted may be unknown to it."""
    store = SQLStore(sqlite_url)
    with peers(sqlite_url, 1, pace=QUICK) as (peer,):
        store._backlog = peer.backlog
        assert store.doubt() is None
        peer.accept()
        with locked(sqlite_url):
            peer.writer.attempt()
            assert str(store.doubt()) == (
                f"{store!r} cannot be written: database is locked; so this process may not know "
                "tasks that other processes have accepted; try again later"
            )
        peer.writer.attempt()
        assert store.doubt() is None


def test_health_while_it_fails(sqlite_url: str) -> None:
    """While the file is locked, health checks answer at once, and metrics say that it fails."""
    registry = CollectorRegistry()
    store = SQLStore(sqlite_url)
    store._pace = QUICK
    app = FastAPI(lifespan=setup_async_framework(store=store, telemetry=[PrometheusSink(registry)]))
    app.include_router(health_router())
    with TestClient(app) as client, heard("the store fails") as failed:
        with locked(sqlite_url):
            app.state.task_manager.submit_nowait(int)
            assert failed.wait(PATIENCE)
            answer = client.get("/health/ready")
            failing = registry.get_sample_value("asyncframe_store_failing")
            errors = registry.get_sample_value("asyncframe_store_errors_total")
            assert store.fault() == "database is locked"
        assert (answer.status_code, answer.json()) == (
            200,
            {"status": "ready", "problems": {"store": "the store cannot be written"}},
        )
        assert (failing, (errors or 0.0) > 0) == (1.0, True)
    assert store.fault() == ""


def test_file_is_removed_while_nothing_happens(
    sqlite_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """That the file is gone is noticed without any task, and told to those who ask."""
    failed = threading.Event()

    class Heard(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            failed.set()

    handler = Heard(logging.ERROR)
    logging.getLogger("asyncframe").addHandler(handler)
    try:
        with opened(sqlite_url) as store:
            moved(sqlite_url, tmp_path)
            assert failed.wait(PATIENCE)
            with pytest.raises(
                StoreUnavailableError,
                match=r"^SQLStore\('sqlite.+'\) did not answer: the file .+ was removed or "
                r"replaced while in use: put it back, or restart all processes of this app to "
                r"create a new one; try again later$",
            ):
                store.fetch(["unknown"])
            assert not Path(file_of(sqlite_url)).exists(), "no new one is made"
    finally:
        logging.getLogger("asyncframe").removeHandler(handler)
    assert messages(caplog)[-1].startswith("WARNING: the store could not be closed cleanly: the ")
    with opened(sqlite_url) as store:
        safe(store, new_record(TestClock()))


def test_question_while_the_file_is_locked(sqlite_url: str) -> None:
    """Cancelling a task of another process raises if the store does not answer."""
    with opened(sqlite_url) as store:
        record = new_record(TestClock())
        safe(store, record)
        with (
            locked(sqlite_url),
            pytest.raises(
                StoreUnavailableError,
                match=r"^SQLStore\('sqlite.+'\) did not answer: database is locked; try again "
                r"later$",
            ),
        ):
            store.request_cancel(record.task_id)
        assert store.request_cancel(record.task_id)
        assert not store.request_cancel("unknown")
        assert not store.request_cancel("a\0b")


def test_error_of_its_own(
    sqlite_url: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error in what the store's thread does is logged, counted, and ends nothing."""
    with peers(sqlite_url, 1, pace=QUICK) as (peer,):

        def fails() -> None:
            raise RuntimeError("a fault in the store")

        with monkeypatch.context() as patch:
            patch.setattr(peer.writer.follower, "look", fails)
            assert not peer.writer.attempt()
        assert peer.backlog.errors == 1
        assert peer.writer.attempt()
    assert messages(caplog) == ["ERROR: unexpected error in the store's thread"]


def test_leaving_fails(
    sqlite_url: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that cannot leave in order says so, with all its tasks written."""
    with opened(sqlite_url) as store:
        safe(store, new_record(TestClock()))

        def fails(_: object) -> None:
            raise sa.exc.OperationalError("leaving", {}, Exception("disk I/O error"))

        monkeypatch.setattr(store._writer.membership, "leave", fails)
    assert messages(caplog) == ["WARNING: the store could not be closed cleanly: disk I/O error"]


def test_coming_back_fails_at_first(sqlite_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """A process that was given up comes back once the database can be written again."""
    with peers(sqlite_url, 1, pace=QUICK) as (peer,):
        with peer.database.writing() as connection:
            peer.writer.membership.leave(connection)
        with locked(sqlite_url):
            peer.writer._come_back()
        task = peer.accept()
        peer.writer.attempt()
        peer.writer.attempt()

        assert peer.row(task).process == peer.process_id
    assert "consider it dead" in caplog.text


def test_the_lock_is_asked_for_anew(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for SQLite's lock asks again and again, with short pauses, while there is time.

    Who reads after that has SQLite itself wait, for as long as there is time.
    """
    monkeypatch.setattr(_dialect, "LOCK_PATIENCE", 2.0)
    clock = SystemClock()
    monkeypatch.setattr(_sqlite, "SystemClock", lambda: clock)
    database = Database(checked_url(sqlite_url), False)
    with database.reading() as connection:
        begun: list[str] = []
        connection.connection.driver_connection.set_trace_callback(begun.append)  # type: ignore[union-attr]  # has no types
    seconds = iter([0.0, 0.5, 1.0, 1.5, 2.0])
    monkeypatch.setattr(clock, "monotonic", lambda: next(seconds))

    told = r"^\(sqlite3\.OperationalError\) database is locked\n"
    locking = pytest.raises(sa.exc.OperationalError, match=told)
    with locked(sqlite_url), locking, database.writing():
        pass

    # While there is time, and once for the error.
    assert begun.count("BEGIN IMMEDIATE") == 4
    with database.reading():
        pass
    assert begun[-3:] == ["PRAGMA busy_timeout = 2000", "BEGIN", "COMMIT"]
    database.close()


@pytest.mark.parametrize("kind", ["reading", "writing"])
def test_a_connection_in_use_is_closed_later(sql_url: str, kind: str) -> None:
    """A connection that is in use while the database is closed is closed after that use."""
    database = Database(checked_url(sql_url), False)
    closed: list[object] = []
    sa.event.listen(database._engine.pool, "close", lambda one, _: closed.append(one))
    with getattr(database, kind)() as connection:
        used = connection.connection.driver_connection
        database.close()
        assert closed == []
    assert closed == [used]


@pytest.mark.parametrize("kind", ["reading", "writing"])
def test_a_transaction_that_comes_late_leaves_no_connection(sql_url: str, kind: str) -> None:
    """A connection that is made after the database was closed is closed after its use."""
    database = Database(checked_url(sql_url), False)
    opened: list[object] = []
    sa.event.listen(database._engine, "connect", lambda one, _: opened.append(one))
    sa.event.listen(database._engine, "close", lambda one, _: opened.remove(one))
    database.close()
    with getattr(database, kind)():
        assert len(opened) == 1
    assert opened == []
