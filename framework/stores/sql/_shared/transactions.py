"""Transactions of the app, in which it submits tasks; see `submissions`.

Guarantees: what is inserted is inserted by the connection of the app's transaction itself, so that
the database decides whether it stays. A session in which nothing can be inserted soundly is
refused.
Relies on: calls where the app uses its session, which is most often no thread-safe object.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final, NoReturn

from sqlalchemy import event, select
from sqlalchemy.engine import Connection, Engine, TwoPhaseTransaction
from sqlalchemy.exc import SQLAlchemyError

from framework._records.records import Restart, TaskRecord
from framework.stores.sql._shared import followed as _followed
from framework.stores.sql._shared import submissions as _submissions
from framework.stores.sql._shared.membership import Membership
from framework.stores.sql._shared.sessions import resolved
from framework.stores.sql._shared.submissions import Submissions
from framework.stores.sql._tables.database import Database
from framework.stores.sql._tables.rows import row_of

_HINTED: Final = "asyncframe_hinted"
"""Where a session notes who waits for its commit."""


class AppTransactions:
    """Inserts tasks in transactions of the app.

    Args:
        database: The database of the store.
        store: The store, for messages.
    """

    def __init__(self, database: Database, store: object) -> None:
        self._database = database
        self._store = store
        self._open: tuple[Membership, Submissions] | None = None

    def open(self, membership: Membership, submissions: Submissions) -> None:
        """Begin, for a process among the others."""
        self._open = membership, submissions

    def submit_in(self, session: object, record: TaskRecord) -> None:
        """Insert a task in a transaction of the app; see `protocols.TransactionalStore`."""
        session, connection = resolved(session)
        if self._open is None:
            raise ValueError(f"session: {self._store!r} is not open")
        membership, submissions = self._open
        self._require_fit(connection)
        restart: Restart | None = record.restart
        assert restart is not None
        row = row_of(record, restart.call)
        try:
            inserted = _submissions.insert(connection, row, membership.identities)
        except SQLAlchemyError as error:
            if self._database.dialect.lacks_table(getattr(error, "orig", None)):
                self._refuse(error)
            raise
        if not inserted:
            self._refuse(None)
        # One in two phases cannot tell: PostgreSQL would refuse to prepare it.
        in_two = isinstance(connection.get_transaction(), TwoPhaseTransaction)
        if not (self._hears(session, submissions) or self._database.dialect.is_local or in_two):
            # It reaches all processes, at the commit.
            connection.execute(select(self._database.dialect.tell("", 0, 0, 0)))

    def follow(self, session: object, committed: Callable[[], object]) -> None:
        """Call *committed* once a session has committed; see `protocols.TransactionalStore`."""
        _followed.follow(session, committed)

    def _require_fit(self, connection: Connection) -> None:
        name = self._database.dialect.name
        if connection.dialect.name != name:
            raise ValueError(
                f"session is on {connection.dialect.name}, but the tasks are in {self._store!r}: "
                "one transaction cannot span two databases"
            )
        if _commits_by_itself(connection):
            raise ValueError(
                "session has the isolation level AUTOCOMMIT, so it has no transaction that the "
                "task could wait for; submit without session"
            )

    def _refuse(self, cause: BaseException | None) -> NoReturn:
        raise ValueError(
            f"session is not on the database of {self._store!r}: its transaction does not find "
            "this process among those of the store; one transaction cannot span two databases"
        ) from cause

    def _hears(self, session: Any, submissions: Submissions) -> bool:
        """Let the store's thread hear when a session has committed; False if nothing tells."""
        if isinstance(session, Connection) or not isinstance(session.get_bind(), Engine):
            return False
        waiting = session.info.get(_HINTED)
        if waiting is None:
            waiting = session.info[_HINTED] = set()
            event.listen(session, "after_commit", partial(_hint, waiting))
        waiting.add(submissions)
        return True


def _hint(waiting: set[Submissions], session: Any) -> None:
    """Let all that wait for a session look; a savepoint that is released says the same."""
    while waiting and session.get_nested_transaction() is None:
        waiting.pop().hint()


def _commits_by_itself(connection: Connection) -> bool:
    """Return whether each statement is a transaction of its own, as far as that can be known."""
    if connection.get_execution_options().get("isolation_level") == "AUTOCOMMIT":
        return True
    # Of an engine that was made so; older releases of SQLAlchemy do not tell. With SQLite, those
    # who begin each transaction by a statement of their own look the same.
    detect = getattr(connection.dialect, "detect_autocommit_setting", None)
    if detect is None or connection.dialect.name == "sqlite":
        return False
    return bool(detect(connection.connection.dbapi_connection))
