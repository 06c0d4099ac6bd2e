"""PostgreSQL: a server, for processes on several machines."""

from __future__ import annotations

import math
import selectors
from collections.abc import Callable, Collection, Sequence
from functools import partial
from importlib import import_module
from typing import Any, ClassVar, Final

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import URL, Connection, Engine
from sqlalchemy.exc import InvalidatePoolError, SQLAlchemyError

from framework._records.pages import variants
from framework._threads.clock import SystemClock
from framework.exceptions import StoreUnavailableError
from framework.stores.sql._dialects.dialect import Added, Dialect, Of, Row
from framework.stores.sql._dialects.direct import NUMBERED, Direct, Values
from framework.stores.sql._dialects.link import Linked
from framework.stores.sql._dialects.session import Heard, PooledError, Session

_RECORDS_STATES: Final = ("22", "23", "54")
"""SQLSTATE classes that blame the data: invalid, in conflict, or too large."""

_LOCKED_STATE: Final = "55P03"
"""The SQLSTATE of a lock that was not to be had in time."""

_NO_TABLE_STATE: Final = "42P01"
"""The SQLSTATE of a table that is not there."""

# Of a server that is gone without a word, the network itself tells only after minutes.
_CONNECTION: Final = {
    "connect_timeout": 3,
    "keepalives": 1,
    "keepalives_idle": 3,
    "keepalives_interval": 1,
    "keepalives_count": 3,
    "tcp_user_timeout": 5_000,
    "application_name": "asyncframe",
    # Otherwise it is that of the database, of which some are read as bytes.
    "client_encoding": "utf8",
}
_OF_SEVERAL: Final = {"target_session_attrs": "read-write"}
"""What else is asked of the server if the URL names several, of which one can be written."""

_SETTINGS: Final = {
    "lock_timeout": "'2s'",
    "statement_timeout": "'10s'",
    # Ends the transaction of a process that was suspended in it: it has the lock that every
    # writer needs. Early enough for the others to write, within 5 s, what callers wait for.
    "idle_in_transaction_session_timeout": "'3s'",
    # Also without durability: a server that crashes must not take a version back that others
    # have read up to. One flush for each batch costs no task anything.
    "synchronous_commit": "on",
    # A statement is planned a few times and then kept, perhaps since a moment at which the tables
    # were so small that to read all of one was cheapest. Each has an index that it is made for.
    "enable_seqscan": "off",
    # The table with one row is read whole even so, at a cost that the server takes for enormous:
    # where it can, it would compile each such statement.
    "jit": "off",
}

_POOLED: Final = "asyncframe_pooled"
_USED: Final = "asyncframe_used"

_IS_FRESH: Final = 0.01
"""Seconds for which a connection that has worked is not tried before its next transaction. A small
server restarts in 28 ms, measured on a RAM disk."""

_IS_OLD: Final = 5.0
"""Seconds after which one is always tried: what is between it and the server may have forgotten it.
A process that lives uses one each second."""

_NOW: Final = sa.select(
    sa.cast(sa.func.extract("epoch", sa.func.clock_timestamp()) * 1_000_000, sa.BigInteger)
)

_UPGRADE: Final = 0x6173796E63667261
"""An advisory lock's number that no other program is likely to use."""

_CHANNEL: Final = "asyncframe"
"""What all processes hear: an inquiry, a request to cancel, a transaction of an app."""

_CHANGES: Final = f"{_CHANNEL}_changes"
"""What those hear that follow closely."""

_FOLLOWED: Final = 0x6173796E63636867
"""An advisory lock that is shared by those that follow closely. A writer who gets it, for the rest
of its transaction, tells nobody: whoever is to follow gets it after that commit, and looks then. A
notification wakes all sessions that listen to anything."""

# The second time is set anew when the server goes on after a crash, which ends all sessions.
_RUN: Final = """
SELECT concat_ws(' ', extract(epoch FROM pg_postmaster_start_time()),
    extract(epoch FROM stats_reset)) AS run FROM pg_stat_bgwriter
"""
_HELD: Final = """
SELECT (classid::bigint << 32) | objid::bigint FROM pg_locks
WHERE locktype = 'advisory' AND objsubid = 1 AND granted
AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
# Where the server has such a setting.
_STAY: Final = """
SELECT set_config(name, '0', false) FROM pg_settings WHERE name = 'idle_session_timeout'
"""


class PostgreSQL(Dialect):
    """PostgreSQL, by psycopg 3."""

    name = "postgresql"
    aliases: ClassVar[tuple[str, ...]] = ("postgres",)
    drivers: ClassVar[tuple[str, ...]] = ("postgresql", "postgresql+psycopg")
    library = "psycopg"
    example = "postgresql://host/name"
    needs = "a store on PostgreSQL needs psycopg 3: install the extra 'postgresql' of asyncframe"
    is_local = False

    # -- connections

    def options(self, url: URL) -> dict[str, Any]:
        """Return how to notice that the server is gone, and a cursor for `Direct`."""
        wanted = _CONNECTION | (_OF_SEVERAL if _has_several_hosts(url) else {})
        return {
            "execution_options": {NUMBERED: import_module("psycopg").RawCursor},
            "connect_args": {name: one for name, one in wanted.items() if name not in url.query},
            "isolation_level": "READ COMMITTED",
        }

    def attach(self, engine: Engine, durable: bool) -> Linked:
        """Make the settings of each session."""
        event.listen(engine, "connect", _on_connect)
        event.listen(engine, "begin", _begin)
        asking = _Asking(engine)
        event.listen(engine, "checkin", asking.used)
        event.listen(engine, "checkout", asking.require_alive)
        faults = (SQLAlchemyError, OSError, engine.dialect.loaded_dbapi.Error)
        return partial(Session, partial(_Session, engine), faults)

    def alone(self, engine: Engine) -> Engine:
        """Return one without transactions: BEGIN and COMMIT take as long as such a statement."""
        return engine.execution_options(isolation_level="AUTOCOMMIT")

    def readers(self, engine: Engine) -> Engine:
        """Return one whose transactions see one moment."""
        return engine.execution_options(isolation_level="REPEATABLE READ")

    def only_read(self, connection: Connection) -> None:
        """Refuse it, in this transaction."""
        connection.exec_driver_sql("SET TRANSACTION READ ONLY")

    def holders(self, connection: Connection) -> tuple[str, Collection[int]]:
        """Return the run, and the advisory locks of this database."""
        run = str(connection.exec_driver_sql(_RUN).scalar_one())
        return run, frozenset(connection.exec_driver_sql(_HELD).scalars())

    # -- errors

    def blames_data(self, cause: object) -> bool | None:
        """Look at the SQLSTATE."""
        state = getattr(cause, "sqlstate", None)
        return str(state)[:2] in _RECORDS_STATES if state else None

    def is_busy(self, cause: object) -> bool:
        """Look at the SQLSTATE."""
        return getattr(cause, "sqlstate", None) == _LOCKED_STATE

    def lacks_table(self, cause: object) -> bool:
        """Look at the SQLSTATE, by each of the names that drivers give it."""
        states = [getattr(cause, name, None) for name in ("sqlstate", "pgcode")]
        return _NO_TABLE_STATE in states

    # -- SQL

    def split(
        self, text: Any, types: Sequence[Any]
    ) -> tuple[sa.FromClause, Sequence[sa.ColumnElement[Any]]]:
        """Take the text apart."""
        # Not JSON, which is parsed anew for each item that is taken from it.
        rows = sa.func.jsonb_array_elements(sa.cast(text, postgresql.JSONB))
        batch = rows.table_valued("value", name="batch")
        items = [
            sa.cast(batch.c.value.op("->>")(sa.literal_column(str(at))), type_)
            for at, type_ in enumerate(types)
        ]
        return batch, items

    def among(self, column: Any, text: Any) -> sa.ColumnElement[bool]:
        """Make an array of it: a join could be planned by a table that was still small."""
        items = sa.func.jsonb_array_elements_text(sa.cast(text, postgresql.JSONB))
        some = sa.select(items.column_valued("some")).scalar_subquery()
        return column == sa.any_(sa.func.array(some))  # type: ignore[no-any-return]

    def insert(self, table: sa.Table) -> Any:
        """Return the insert of the dialect."""
        return postgresql.insert(table)

    def followed(
        self, change: sa.Update, then: Callable[[sa.ColumnElement[int]], sa.Update]
    ) -> sa.Update:
        """Make the change in a WITH of the other one."""
        done = change.returning(sa.literal_column("1").label("one")).cte("done")
        return then(sa.select(sa.func.count()).select_from(done).scalar_subquery())

    def advancing(
        self, change: sa.Update, found: sa.Select[Any]
    ) -> Callable[[Connection, Values], Row]:
        """Let the change itself say what is there, if nobody else had a turn meanwhile.

        It looks at other tables as they were when it began, and at its own row as it is now. So its
        version tells whether it had to wait for somebody who may have changed those.
        """
        add, look = Direct(_with_version_before(change, found)), Direct(found)

        def advance(connection: Connection, values: Values) -> Row:
            (row,) = add.all(connection, values)
            if row[0] != row[-1] + 1:
                (found,) = look.all(connection, values)
                return found  # type: ignore[no-any-return]
            return row[:-1]  # type: ignore[no-any-return]

        return advance

    def adding(
        self,
        change: sa.Update,
        found: sa.Select[Any],
        insert: Of[Any],  # Any: a statement of the dialect
        call: Of[sa.Select[Any] | None],
    ) -> Callable[[Connection, Values], Added]:
        """Do all of it in one statement, and look and call anew if others had turns meanwhile."""
        turn = _with_version_before(change, found).cte("turn")
        version = next(iter(turn.c))
        done = insert(version).returning(sa.literal_column("1").label("one")).cte("done")
        many = sa.select(sa.func.count()).select_from(done).scalar_subquery()
        called = call(version)
        calls = [] if called is None else [called.correlate(turn).scalar_subquery()]
        add, look = Direct(sa.select(many, *calls, *turn.c)), Direct(found)
        again = call(sa.bindparam("version", type_=sa.BigInteger()))
        say = None if again is None else Direct(again)

        def put(connection: Connection, values: Values) -> Added:
            ((many, *row),) = add.all(connection, values)
            *seen, before = row[len(calls) :]
            now = seen
            if seen[0] != before + 1:
                (now,) = look.all(connection, values)
                if say is not None:
                    say.all(connection, {**values, "version": seen[0]})
            return Added(seen, now, int(many))

        return put

    def microsecond(self, connection: Connection, clock: SystemClock) -> int:
        """Return that of the server."""
        return int(connection.execute(_NOW).scalar_one())

    def tell(self, process: Any, version: Any, asked: Any, free: Any) -> sa.ColumnElement[Any]:
        """Notify at the commit all of them, or of a process those that follow closely."""
        nobody = sa.func.pg_try_advisory_xact_lock(sa.cast(_FOLLOWED, sa.BigInteger))
        process = sa.cast(process, sa.Text)
        return sa.case(
            (process == "", _notified(_CHANNEL, "")), (~nobody, _notified(_CHANGES, process))
        )

    def call(self, process: Any, before: Any) -> sa.ColumnElement[Any]:
        """Notify it at the commit, by a channel of its own."""
        digest = sa.func.encode(sa.func.sha256(sa.func.convert_to(process, "UTF8")), "hex")
        return _notified(sa.func.concat(f"{_CHANNEL}_", sa.func.left(digest, 16)), before)

    def whole(self, number: Any) -> sa.ColumnElement[Any]:
        """Cut the fraction off, where a cast would round."""
        return sa.cast(sa.func.floor(number), sa.BigInteger)

    def joined(self, column: Any) -> sa.ColumnElement[Any]:
        """Return the text."""
        return sa.func.string_agg(sa.cast(column, sa.Text), ",")

    def by_code_points(self, column: Any) -> Any:
        """Return it with the order of its bytes, which is the same in UTF-8."""
        return column.collate("C")

    def has(self, text: Any, search: Any, is_ascii: bool) -> sa.ColumnElement[bool]:
        """Compare small letters by LIKE, which is faster than to ignore the case, or by ``~``."""
        plain = text.collate("C")
        if is_ascii:
            return sa.func.lower(plain).like(search, escape="\\")
        return plain.op("~", is_comparison=True)(search)  # type: ignore[no-any-return]

    def expression(self, search: str) -> str:
        """Return a regular expression."""
        return "".join(_in_expression(one) for one in variants(search))

    # -- upgrading the tables

    def lock_upgrade(self, connection: Connection) -> None:
        """Wait for an advisory lock."""
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_UPGRADE)))

    def allow_time(self, connection: Connection) -> None:
        """Set no limit: an index of a large table takes longer than any other statement."""
        connection.exec_driver_sql("SET LOCAL statement_timeout = 0")

    def keep_out(self, connection: Connection, table: sa.Table) -> None:
        """Lock the table."""
        connection.exec_driver_sql(f"LOCK TABLE {table.name} IN SHARE MODE")


class _Asking:
    """Asks the server whether a connection still works, where it may have been lost meanwhile.

    A server that ends says so to each connection, or closes it: either can be read from it. Only
    after a while is a connection asked that says nothing, and one through a pooler, which keeps it.

    Args:
        engine: Whose connections.
    """

    def __init__(self, engine: Engine) -> None:
        self._ping = engine.dialect.do_ping
        self._fault = engine.dialect.loaded_dbapi.Error
        self._monotonic = SystemClock().monotonic

    def used(self, _: Any, entry: Any) -> None:  # Any: of a driver, of the pool
        """Note when a connection has worked last."""
        entry.info[_USED] = self._monotonic()

    def require_alive(self, connection: Any, entry: Any, _: Any) -> None:  # Any: as above
        """Ask, before a connection is used again, if need be.

        Raises:
            InvalidatePoolError: If it is lost; the pool makes others instead.
        """
        age = self._monotonic() - entry.info.get(_USED, math.inf)
        is_pooled = entry.info.get(_POOLED, False)
        if age < _IS_FRESH or not (is_pooled or age > _IS_OLD or _says_something(connection)):
            return
        try:
            self._ping(connection)
        except self._fault as error:
            raise InvalidatePoolError from error


def _says_something(connection: Any) -> bool:  # Any: of a driver
    if connection.closed:
        return True
    with selectors.DefaultSelector() as selector:
        selector.register(connection, selectors.EVENT_READ)
        return bool(selector.select(0))


class _Session:
    """A session with an advisory lock, which listens; see `session.Kept`.

    Raises:
        PooledError: If a pooler may give it to somebody else.
        SQLAlchemyError: If the server does not answer.
    """

    def __init__(self, engine: Engine) -> None:
        made = engine.raw_connection()
        pooled = made.info.get(_POOLED, False)
        driver: Any = made.driver_connection  # a module's without types
        self._driver = driver
        # It is not the pool's any more, which has room for another one.
        made.detach()
        try:
            self._driver.autocommit = True
            self._key: int | None = None
            self._driver.execute(f"LISTEN {_CHANNEL}")
            listens = self._driver.execute("SELECT pg_listening_channels()").fetchall()
            if pooled or not listens:
                raise PooledError
            self._driver.execute(_STAY)
            self.server = str(self._driver.execute(_RUN).fetchone()[0])
        except BaseException:
            self._driver.close()
            raise

    def fileno(self) -> int:
        """Return its socket."""
        return int(self._driver.fileno())

    def hold(self, key: int) -> bool:
        """Try to get it; an earlier session of this process may have it for a moment."""
        if key != self._key:
            if self._key is not None:
                self._driver.execute(f"UNLISTEN {_own_channel(self._key)}")
                self._driver.execute("SELECT pg_advisory_unlock(%s)", (self._key,))
            self._driver.execute(f"LISTEN {_own_channel(key)}")
            self._key = key
        found = self._driver.execute("SELECT pg_try_advisory_lock(%s)", (key,))
        return bool(found.fetchone()[0])

    def follow(self, closely: bool) -> bool:
        """Share the lock of those that follow closely; a writer may have it for a moment."""
        if not closely:
            self._driver.execute("SELECT pg_advisory_unlock_shared(%s)", (_FOLLOWED,))
            self._driver.execute(f"UNLISTEN {_CHANGES}")
            return True
        self._driver.execute(f"LISTEN {_CHANGES}")
        found = self._driver.execute("SELECT pg_try_advisory_lock_shared(%s)", (_FOLLOWED,))
        return bool(found.fetchone()[0])

    def hear(self) -> Heard:
        """Return the notifications that have come."""
        wrote, called = set[str](), None
        for one in self._driver.notifies(timeout=0):
            if one.channel in {_CHANNEL, _CHANGES}:
                wrote.add(one.payload)
            else:
                called = int(one.payload)
        return Heard(wrote, called)

    def close(self) -> None:
        """Close it."""
        self._driver.close()


def _with_version_before(change: sa.Update, found: sa.Select[Any]) -> sa.Update:
    """Let a change return what is there, and last the version as it was when it began."""
    version = next(iter(found.selected_columns))
    before = sa.select(version.table.alias("before").c[version.name]).scalar_subquery()
    return change.returning(*found.selected_columns, before)


def _notified(channel: Any, payload: Any) -> sa.ColumnElement[Any]:
    # It returns nothing, which has no place in a CASE.
    return sa.cast(sa.func.pg_notify(channel, payload), sa.Text)


def _own_channel(key: int) -> str:
    return f"{_CHANNEL}_{key & (2**64 - 1):016x}"


def _in_expression(some: str) -> str:
    if len(some) > 1:
        return f"[{some}]"
    return some if some.isalnum() or not some.isascii() else f"\\{some}"


def _has_several_hosts(url: URL) -> bool:
    hosts = [url.host or "", *url.normalized_query.get("host", ())]
    return len([one for host in hosts for one in host.split(",") if one]) > 1


def _on_connect(connection: Any, entry: Any) -> None:  # Any: of a driver, of the pool
    """Make the session's settings, unless a pooler gives each transaction another one.

    A pooler has no process, so what it tells as the number of one is not the server's.

    Raises:
        StoreUnavailableError: If the database cannot store every text.
    """
    encoding = connection.info.parameter_status("server_encoding")
    if encoding not in (None, "UTF8"):
        raise StoreUnavailableError(
            f"the database {connection.info.dbname!r} has the encoding {encoding}, but the store "
            "needs UTF8: CREATE DATABASE name ENCODING 'UTF8' TEMPLATE template0"
        )
    connection.autocommit = True
    server = connection.execute("SELECT pg_backend_pid()").fetchone()[0]
    if server != connection.info.backend_pid:
        entry.info[_POOLED] = True
        # What one session has prepared, another one does not know, or knows as something else.
        connection.prepare_threshold = None
    else:
        connection.execute(_set("SET"))
    connection.autocommit = False


def _begin(connection: Connection) -> None:
    if connection.connection.info.get(_POOLED, False):
        driver: Any = connection.connection.driver_connection  # a module's without types
        # A statement by itself needs one here, too. The driver ends what it finds begun.
        driver.execute(("BEGIN; " if driver.autocommit else "") + _set("SET LOCAL"))


def _set(command: str) -> str:
    return "; ".join(f"{command} {name} = {value}" for name, value in _SETTINGS.items())
