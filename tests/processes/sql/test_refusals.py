"""What the database refuses: everything for a while, or one record for what is in it."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from framework.exceptions import StoreUnavailableError
from framework.stores.sql._dialects.chosen import checked_url
from framework.stores.sql._shared.membership import MISSED
from framework.stores.sql._shared.site import Pace
from framework.stores.sql._tables.database import Database
from tests.processes.executed import hearing
from tests.processes.sql.siblings import FAILED, Peer, peers

QUICK = Pace(gather=0.001, hurry=0.001, look=0.01, pause_min=0.0001, pause_max=0.001)
POISON = "poison"

BAD_DATA = ("22003", "22P02", "22021", "23502", "23505", "54000")
NO_SERVICE = (
    "08006", "25006", "25P02", "40001", "40P01", "42501", "42703", "42P01", "53100", "53300",
    "55P03", "57014", "57P01", "58030", "0A000", "P0001", "XX000",
)  # fmt: skip
"""SQLSTATEs of PostgreSQL."""

BAD_DATA_OF_SQLITE = (18, 20, 1299, 1555)
NO_SERVICE_OF_SQLITE = (1, 5, 8, 10, 11, 13, 26, 778)
"""Error codes of SQLite."""


def refused(state: str) -> sa.exc.DBAPIError:
    """Return the error of a PostgreSQL that answers with this SQLSTATE."""
    cause = psycopg.errors.lookup(state)("refused")
    kind = getattr(sa.exc, type(cause).__mro__[1].__name__, sa.exc.DatabaseError)
    error: sa.exc.DBAPIError = kind("INSERT", {}, cause)
    return error


def failed(code: int) -> sa.exc.OperationalError:
    """Return the error of a SQLite that answers with this code."""
    cause = sqlite3.OperationalError("failed")
    cause.sqlite_errorcode = code
    return sa.exc.OperationalError("INSERT", {}, cause)


def test_whose_fault_it_is() -> None:
    """Bad data, size and broken constraints are faults of the record.

    Missing rights, tables, room, connections or locks, and all that is not sure, are not.
    """
    errors: dict[object, BaseException] = {one: refused(one) for one in (*BAD_DATA, *NO_SERVICE)}
    errors |= {one: failed(one) for one in (*BAD_DATA_OF_SQLITE, *NO_SERVICE_OF_SQLITE)}
    errors["not text"] = sa.exc.StatementError("no text", "INSERT", {}, UnicodeError())
    errors["not for the driver"] = sa.exc.DataError("INSERT", {}, psycopg.DataError("no NUL"))
    errors["connection"] = sa.exc.OperationalError("INSERT", {}, psycopg.OperationalError())
    errors["session"] = sa.exc.InvalidRequestError()
    errors["socket"] = ConnectionResetError()
    urls = ("sqlite:///tasks.db", "postgresql://host/name")
    databases = [Database(checked_url(url), durable=False) for url in urls]
    of_the_record = {
        name for name, error in errors.items() if any(one.is_data_fault(error) for one in databases)
    }
    unbound = {"not text", "not for the driver"}
    assert of_the_record == {*BAD_DATA, *BAD_DATA_OF_SQLITE, *unbound}


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what was logged, without what the database said."""
    return [record.getMessage().rsplit(": ", 1)[0] for record in caplog.records]


# -- everything is refused for a while


def kept_while(
    peer: Peer, refuse: Callable[[], object], allow: Callable[[], object]
) -> dict[str, str]:
    """Let tasks begin before, and end while the database refuses all; return what it has then."""
    begun = [peer.accept() for _ in range(3)]
    peer.writer.batches.write()
    refuse()
    fresh = [peer.accept() for _ in range(30)]
    for task in [*begun, *fresh[:10]]:
        peer.end(task)
    for _ in range(12):
        assert not peer.writer.attempt()
    assert len(peer.backlog) == 33, "all are kept"
    allow()
    while len(peer.backlog):
        assert peer.writer.attempt()
    return {task.task_id: peer.row(task).status for task in [*begun, *fresh]}


def test_tables_are_missing(sql_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """While the tables are gone no record is given up; once they are back all are written."""
    with peers(sql_url, 1, pace=QUICK) as (peer,):

        def rename(old: str, new: str) -> None:
            with peer.database.writing() as connection:
                connection.exec_driver_sql(f"ALTER TABLE {old} RENAME TO {new}")

        found = kept_while(
            peer,
            lambda: rename("asyncframe_tasks", "away"),
            lambda: rename("away", "asyncframe_tasks"),
        )
        errors = peer.backlog.errors

    assert sorted(found.values()) == ["completed"] * 13 + ["pending"] * 20
    (line,) = caplog.records
    assert line.getMessage().startswith("the store fails and is retried until it works; ")
    assert errors == 12


@pytest.mark.extended("servers")
@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_encoding_is_refused(postgres_url: str, encoding: str) -> None:
    """A database that cannot store every text is refused at once, with what to do."""
    url, name = sa.make_url(postgres_url), f"stored_in_{encoding.lower()}"
    with psycopg.connect(postgres_url.replace("+psycopg", ""), autocommit=True) as owner:
        made = f"CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0"
        owner.execute(made)
        other = url.set(database=name).render_as_string(hide_password=False)
        try:
            told = f"^the database '{name}' has the encoding {encoding}, but the store needs UTF8: "
            with pytest.raises(StoreUnavailableError, match=told), peers(other, 1):
                pass
        finally:
            owner.execute(f"DROP DATABASE {name}")


@pytest.fixture
def clerk_url(postgres_url: str) -> Iterator[tuple[str, Any]]:
    """A database as a user whose rights are given and taken, and a connection that does so."""
    with psycopg.connect(postgres_url.replace("+psycopg", ""), autocommit=True) as owner:
        owner.execute("CREATE ROLE clerk LOGIN")
        owner.execute("GRANT ALL ON SCHEMA public TO clerk")
        try:
            yield postgres_url.replace("postgres@", "clerk@"), owner
        finally:
            owner.execute("DROP OWNED BY clerk")
            owner.execute("DROP ROLE clerk")


def test_rights_are_missing(clerk_url: tuple[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    """While its user may not write, no record is given up; once it may, all are written."""
    url, owner = clerk_url
    with peers(url, 1, pace=QUICK) as (peer,):
        # Whoever owns a table has all rights on it.
        owner.execute("REASSIGN OWNED BY clerk TO postgres")
        owner.execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO clerk")
        found = kept_while(
            peer,
            lambda: owner.execute("REVOKE INSERT, UPDATE ON asyncframe_tasks FROM clerk"),
            lambda: owner.execute("GRANT INSERT, UPDATE ON asyncframe_tasks TO clerk"),
        )

    assert sorted(found.values()) == ["completed"] * 13 + ["pending"] * 20
    assert len(caplog.records) == 1
    assert caplog.records[0].getMessage().endswith("permission denied for table asyncframe_tasks")


def test_signs_of_life_while_no_task_can_be_written(sql_url: str) -> None:
    """A process that cannot write a task for long shows that it lives, and keeps its tasks."""
    with peers(sql_url, pace=QUICK) as (one, two):
        task = one.accept()
        one.writer.batches.write()
        with refusing(one, task.task_id, "no room"):
            one.start(task)
            for _ in range(3 * MISSED):
                one.clock.pass_time(1.0)
                assert not one.writer.attempt()
                two.tick()

        assert two.row(task).status == "pending"
        assert one.writer.attempt()
        assert two.row(task).status == "running"


# -- one record is refused


@contextmanager
def refusing(peer: Peer, text: str, says: str) -> Iterator[list[int]]:
    """Let the database fail at whatever has *text* in it; give how often it did."""
    times: list[int] = []

    def look(_: str, values: Any) -> None:
        if text in str(values):
            times.append(1)
            raise sa.exc.OperationalError("INSERT", {}, Exception(says))

    with hearing(peer.database._engine, look):
        yield times


def test_one_record_at_which_the_database_fails(
    sql_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A record at which the database fails for no clear reason is kept and blocks no other."""
    caplog.set_level(logging.INFO)
    told: list[Any] = []
    with peers(sql_url, 1, pace=QUICK) as (peer,):
        before = [peer.accept() for _ in range(40)]
        bad = peer.accept(reason=POISON)
        peer.backlog.secure(bad, told.append)
        after = [peer.accept() for _ in range(40)]
        with refusing(peer, POISON, "no room") as times:
            for _ in range(60):
                peer.writer.attempt()
            assert all(peer.row(task) for task in [*before, *after])
            assert (peer.row(bad), len(peer.backlog)) == (None, 1)
            assert len(times) < 30
            # From now on it is in nobody's way.
            for _ in range(5):
                late = peer.accept()
                peer.start(bad)
                assert peer.writer.attempt()
                assert peer.row(late)
            assert len(peer.backlog) == 1
        peer.clock.pass_time(QUICK.aside)
        assert peer.writer.attempt()

        assert peer.row(bad).status == "running"
        assert len(peer.backlog) == 0
    (error,) = told
    assert isinstance(error, StoreUnavailableError)
    assert str(error) == (
        "the database does not take the task's record: no room; it is tried again"
    )
    assert caplog.text.count("cannot be written to the store, but others can") == 1
    assert f"task {bad.task_id} is now written to the store" in said(caplog)


def test_no_record_is_to_blame_for_a_connection(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A database that takes only some connections is not taken for one that refuses a record."""
    with peers(sqlite_url, 1, pace=QUICK) as (peer,):
        tasks = [peer.accept(), peer.accept()]
        writing, can = peer.database.writing, iter([False, False, True, False])

        def connect() -> Any:
            if not next(can, True):
                raise refused("53300")
            return writing()

        monkeypatch.setattr(peer.database, "writing", connect)
        for _ in range(4):
            with suppress(sa.exc.OperationalError):
                peer.writer.batches.write()
        assert [peer.row(task).status for task in tasks] == ["pending"] * 2
    assert caplog.messages == []


@pytest.mark.parametrize("passes", [True, False])
def test_set_aside_at_the_end(sql_url: str, passes: bool) -> None:
    """Records that were set aside are tried again when the store closes, without a delay."""
    with peers(sql_url, pace=QUICK) as (one, two):
        bad = one.accept(reason=POISON)
        with refusing(one, POISON, "no room"):
            for _ in range(20):
                one.accept()
                one.writer.attempt()
            assert one.backlog.aside == [bad]
            if not passes:
                one.writer.close(1.0)
                one.writer._finish()
        if passes:
            one.writer.close(1.0)
            one.writer._finish()

        assert (two.row(bad) is not None) is passes
        assert len(one.backlog) == (0 if passes else 1)
        with two.database.reading() as connection:
            assert two.writer.membership.is_alone(connection)


def test_waiter_of_a_record_that_went_behind(sql_url: str) -> None:
    """If the database failed once at a record, its caller is answered when it is written."""
    told: list[Any] = []
    with peers(sql_url, 1, pace=QUICK) as (peer,):
        task = peer.accept(reason=POISON)
        peer.backlog.secure(task, told.append)
        with refusing(peer, POISON, "no room"):
            for _ in range(5):
                assert not peer.writer.attempt()
        beside = peer.accept()
        peer.backlog.secure(task, told.append)
        while len(peer.backlog):
            assert peer.writer.attempt()

        assert peer.row(task)
        assert peer.row(beside)
    assert told == [None, None]


def test_bad_record_among_many(
    sql_url: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bad record among many is found by halves, and what is good of it is kept."""
    with peers(sql_url, 1) as (peer,):
        tasks = [peer.accept() for _ in range(200)]
        bad = tasks[77]
        bad.progress_message = POISON
        peer.start(bad)
        peer.end(bad, result=[7])
        writes = []
        write_batch = peer.writer.batches._write_batch

        def count(rows: Any, *rest: Any) -> Any:
            writes.append(len(rows))
            if any(POISON in row.text for row in rows):
                raise refused("22003")
            return write_batch(rows, *rest)

        monkeypatch.setattr(peer.writer.batches, "_write_batch", count)
        peer.writer.batches.write()
        row = peer.row(bad)

        assert all(peer.row(task) for task in tasks)
        assert len(writes) <= 2 + 2 * 8
        assert len(peer.backlog) == 0
        assert (row.status, row.result, row.progress_message) == ("completed", "[7]", "")
        assert row.reason == bad.reason == "its record could not be stored completely: refused"
    assert said(caplog) == [f"task {bad.task_id} is written to the store without what it refuses"]


def test_failure_that_is_kept_in_part(sql_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure that cannot be stored whole is stored with its class and its text."""
    with peers(sql_url) as (one, two):
        task = one.accept(reason="slow")
        one.end(task, FAILED)
        write_batch = one.writer.batches._write_batch

        def refuse_whole(rows: Any, *rest: Any) -> Any:
            if any("a task of the tests" in row.text for row in rows):
                raise refused("22003")
            return write_batch(rows, *rest)

        monkeypatch.setattr(one.writer.batches, "_write_batch", refuse_whole)
        one.writer.batches.write()
        two.writer.follower.look()
        found = two.mirror.get(task.task_id)

        assert found is not None
        assert str(found.error) == "builtins.ValueError: told"
        assert task.reason == "slow; its record could not be stored completely: refused"


def test_record_of_which_nothing_is_taken(
    sql_url: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A record of which the database takes nothing is given up, and its task says so."""
    with peers(sql_url, 1) as (peer,):
        task = peer.accept()

        def refuse(*_: Any) -> bool:
            raise refused("22003")

        monkeypatch.setattr(peer.writer.batches, "_write_batch", refuse)
        peer.writer.batches.write()

        assert (peer.row(task), len(peer.backlog)) == (None, 0)
        assert task.reason == "its record could not be stored completely: refused"
    assert said(caplog) == [f"task {task.task_id} cannot be written to the store"]


def test_fault_while_a_bad_record_is_kept_in_part(
    sql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bad record is not lost when the database fails just when its good part is written."""
    with peers(sql_url, 1, pace=QUICK) as (peer,):
        task = peer.accept(attempts=2**70, progress_message=POISON)
        write_batch = peer.writer.batches._write_batch

        def refuse(rows: Any, *rest: Any) -> Any:
            if any(POISON in row.text for row in rows):
                raise refused("22003")
            return write_batch(rows, *rest)

        monkeypatch.setattr(peer.writer.batches, "_write_batch", refuse)
        with refusing(peer, task.task_id, "gone"):
            assert not peer.writer.attempt()
        assert len(peer.backlog) == 1
        assert peer.writer.attempt()

        assert peer.row(task).attempts == 2**31 - 1
