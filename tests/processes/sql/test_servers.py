"""PostgreSQL as it is run in earnest: with a standby that takes over, and behind a pooler."""

from __future__ import annotations

from contextlib import ExitStack, closing

import psycopg
import pytest
import sqlalchemy as sa

from framework.stores.sql._dialects.chosen import checked_url
from framework.stores.sql._tables.database import Database
from tests.processes.servers import PostgresServer, StandbyServer
from tests.processes.sql.siblings import TestClock, new_record
from tests.processes.sql.test_faults import opened, safe


def test_a_standby_takes_over(postgres_server: PostgresServer) -> None:
    """Two processes find all that was safe in the server that has taken over, and go on there."""
    with ExitStack() as ending, postgres_server.database() as name:
        standby = ending.enter_context(closing(StandbyServer(postgres_server)))
        standby.start()
        hosts = "&".join(f"host=127.0.0.1:{one.port}" for one in (standby, postgres_server))
        url = f"postgresql://postgres@/{name}?{hosts}"
        with opened(url) as one, opened(url) as two:
            records = [new_record(TestClock()) for _ in range(20)]
            for record in records:
                safe(one, record)
            postgres_server.kill()
            late = new_record(TestClock())
            two.note(late)
            standby.promote()
            safe(two, late)
            safe(one, new_record(TestClock()))

            wanted = {record.task_id for record in (*records, late)}
            assert {record.task_id for record in two.fetch(wanted)} == wanted
            assert {record.task_id for record in one.fetch(wanted)} == wanted
        # For whoever empties the database.
        standby.kill()
        postgres_server.start()
        postgres_server._do("postgres", "ALTER SYSTEM RESET synchronous_standby_names")
        postgres_server._do("postgres", "SELECT pg_reload_conf()")


def test_behind_a_pooler(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where each transaction may have another session, it has its own settings, and no other has.

    Nothing is prepared there either.
    """
    look = "SELECT current_setting('lock_timeout'), current_setting('statement_timeout')"

    def seen(database: Database) -> tuple[object, object, int]:
        with database.writing() as connection:
            for _ in range(10):
                inside = tuple(connection.execute(sa.text(look)).one())
            count = "SELECT count(*) FROM pg_prepared_statements"
            prepared = connection.exec_driver_sql(count).scalar_one()
            session = connection.connection.driver_connection
        assert session is not None
        outside = session.execute(look).fetchone()
        session.rollback()
        return inside, outside, prepared

    with closing(Database(checked_url(postgres_url), False)) as direct:
        assert seen(direct) == (("2s", "10s"), ("2s", "10s"), 1)
    # What a pooler tells as the number of the server's process.
    monkeypatch.setattr(psycopg.ConnectionInfo, "backend_pid", 0)
    with closing(Database(checked_url(postgres_url), False)) as pooled:
        assert seen(pooled) == (("2s", "10s"), ("0", "0"), 0)
