"""Dialect: all in which one kind of database differs from the others.

A new kind of database is one module with a class derived from it, and a line in `chosen`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final, NamedTuple, TypeAlias, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection, Engine

from framework._threads.clock import SystemClock
from framework.stores.sql._dialects.direct import Direct, Values
from framework.stores.sql._dialects.link import Linked

Row: TypeAlias = Sequence[Any]  # Any: the columns of a query

LOCK_PATIENCE: Final = 2.0
"""Seconds to wait for a lock that another process has, each time."""

WRITES: Final = "asyncframe_writes"
"""The execution option of a connection whose transaction will write."""

STAMPS: Final = frozenset({"created_at", "started_at", "ended_at"})
"""The columns with wall seconds, which must come back from the database exactly."""

TICKS: Final = 2.0**28
"""Ticks in a second. SQLite rounds a float that it writes as text, but not a number of ticks; so
wall seconds stay exact from half a year after the epoch on, until 2106."""

Change: TypeAlias = Callable[[Any], tuple[dict[str, Any], sa.ColumnElement[bool]]]
"""Returns what changes in a row that is there, and whether: of the columns of the new one."""


T = TypeVar("T")
Of: TypeAlias = Callable[[sa.ColumnElement[int]], T]
"""Returns a statement that has the new version among its values."""


class Added(NamedTuple):
    """What a turn has found, in which rows were inserted.

    Attributes:
        seen: What is there, but of other tables than the one that all writers change, without what
            those had done of whom the turn was waited for.
        now: What is there since.
        many: How many were inserted.
    """

    seen: Row
    now: Row
    many: int


class Answer:
    """A query in the form in which the database answers it fastest.

    Args:
        query: The query.
    """

    def __init__(self, query: sa.Select[Any]) -> None:
        self._query = Direct(query)

    def fetch(self, connection: Connection, values: dict[str, Any]) -> list[Row]:
        """Return its rows."""
        return self._query.all(connection, values)


class Dialect(ABC):
    """One kind of database. It has no state.

    Attributes:
        name: SQLAlchemy's name of it, and the beginning of its URLs.
        aliases: Other names of it, of other libraries and hosts.
        drivers: What the URLs may begin with; the last one is what the store uses.
        library: The driver's name, for people.
        example: A URL, for people.
        needs: The message if the driver is not installed.
        is_local: Whether it is a file, and all processes that share it run on one machine.
            Otherwise it is a server, whose connections may break.
    """

    name: ClassVar[str]
    aliases: ClassVar[tuple[str, ...]] = ()
    drivers: ClassVar[tuple[str, ...]]
    library: ClassVar[str]
    example: ClassVar[str]
    needs: ClassVar[str]
    is_local: ClassVar[bool]

    # -- connections

    def check(self, url: URL) -> None:
        """Check what else a URL needs.

        Raises:
            ValueError: If it names no database that several processes can share.
        """
        return

    def file_of(self, url: URL) -> Path | None:
        """Return the file that a URL names; None for a server, or if SQLite is to find it."""
        return None

    @abstractmethod
    def options(self, url: URL) -> dict[str, Any]:
        """Return what SQLAlchemy's engine is made with."""

    @abstractmethod
    def attach(self, engine: Engine, durable: bool) -> Linked:
        """Prepare each connection of *engine*, and begin its transactions.

        Args:
            engine: It has made no connection yet.
            durable: Whether a commit waits for the disk.

        Returns:
            What makes a link between its processes, once there was a transaction.
        """

    def alone(self, engine: Engine) -> Engine:
        """Return the engine for what is one statement, which may commit without a transaction."""
        return engine

    def readers(self, engine: Engine) -> Engine:
        """Return the engine for transactions that read, and see one moment."""
        return engine

    def holders(self, connection: Connection) -> tuple[str, Collection[int]]:
        """Return which run of the server this is, and the locks that sessions hold now."""
        return "", ()

    @abstractmethod
    def only_read(self, connection: Connection) -> None:
        """Let the database refuse what would write, in this transaction at least."""

    # -- errors

    @abstractmethod
    def blames_data(self, cause: object) -> bool | None:
        """Return whether a driver's error blames the data; None if it does not tell."""

    @abstractmethod
    def is_busy(self, cause: object) -> bool:
        """Return whether a driver's error is about a lock that another process has."""

    @abstractmethod
    def lacks_table(self, cause: object) -> bool:
        """Return whether an error, of any driver, is about a table that is not there."""

    # -- SQL

    def answer(self, query: sa.Select[Any]) -> Answer:
        """Return a query in the form in which it is answered fastest.

        As it is, if the driver gets all rows at once.
        """
        return Answer(query)

    @abstractmethod
    def split(
        self, text: Any, types: Sequence[Any]
    ) -> tuple[sa.FromClause, Sequence[sa.ColumnElement[Any]]]:
        """Return the rows of a JSON text, which is a list of lists, and their columns."""

    @abstractmethod
    def among(self, column: Any, text: Any) -> sa.ColumnElement[bool]:
        """Return the condition that a column is in a JSON text, a list; found by its index."""

    @abstractmethod
    def insert(self, table: sa.Table) -> Any:  # Any: a statement of the dialect
        """Return an insert that has ON CONFLICT."""

    def upsert(
        self, table: sa.Table, names: Sequence[str], rows: sa.Select[Any], change: Change
    ) -> Any:  # Any: a statement of the dialect
        """Return the statement that inserts rows, or changes those that are there.

        Its ``rowcount`` tells how many it has inserted or changed.

        Args:
            table: Where; its primary key tells whether a row is there.
            names: The columns of *rows*.
            rows: What to write.
            change: What becomes of a row that is there.
        """
        made = self.insert(table).from_select(names, rows)
        changed, where = change(made.excluded)
        upsert = made.on_conflict_do_update(
            index_elements=list(table.primary_key), set_=changed, where=where
        )
        # Otherwise SQLAlchemy lets go of it after an insert.
        return upsert.execution_options(preserve_rowcount=True)

    def followed(
        self, change: sa.Update, then: Callable[[sa.ColumnElement[int]], sa.Update]
    ) -> sa.Update | None:
        """Return one statement for a change, and *then* one of another table with its row count.

        None if it takes two.
        """
        return None

    def advancing(
        self, change: sa.Update, found: sa.Select[Any]
    ) -> Callable[[Connection, Values], Row]:
        """Return what adds 1 to a version, waits for its turn to do so, and tells what is there.

        Args:
            change: Changes the one row that all writers change in their turns.
            found: What is there once it is this one's turn; first the version.
        """
        add, look = Direct(change), Direct(found)

        def advance(connection: Connection, values: Values) -> Row:
            add.count(connection, values)
            (row,) = look.all(connection, values)
            return row  # type: ignore[no-any-return]

        return advance

    def adding(
        self,
        change: sa.Update,
        found: sa.Select[Any],
        insert: Of[Any],  # Any: a statement of the dialect
        call: Of[sa.Select[Any] | None],
    ) -> Callable[[Connection, Values], Added]:
        """Return what does the same, inserts rows with the new version and calls who takes them.

        Args:
            change: See `advancing`.
            found: Likewise.
            insert: Returns the statement that inserts rows with a version.
            call: Returns the query that calls who takes them; None if nobody is called.
        """
        advance, version = (
            self.advancing(change, found),
            sa.bindparam("version", type_=sa.BigInteger()),
        )
        write, called = Direct(insert(version)), call(version)
        say = None if called is None else Direct(called)

        def add(connection: Connection, values: Values) -> Added:
            row = advance(connection, values)
            values = {**values, "version": row[0]}
            many = write.count(connection, values)
            if say is not None:
                say.all(connection, values)
            return Added(row, row, many)

        return add

    @abstractmethod
    def microsecond(self, connection: Connection, clock: SystemClock) -> int:
        """Return the microsecond by the clock that all processes share."""

    @abstractmethod
    def tell(self, process: Any, version: Any, asked: Any, free: Any) -> sa.ColumnElement[Any]:
        """Return what tells the links of others that *process* has written.

        Args:
            process: Its id; "" for none.
            version: The latest version, its own one included.
            asked: The number of the latest inquiry.
            free: How many tasks are free.
        """

    def call(self, process: Any, before: Any) -> sa.ColumnElement[Any] | None:
        """Return what calls *process* to take free tasks; None where all read of them anyway.

        Args:
            process: Its id.
            before: How many were called before it.
        """
        return None

    @abstractmethod
    def whole(self, number: Any) -> sa.ColumnElement[Any]:
        """Return a number above 0 without its fraction."""

    @abstractmethod
    def joined(self, column: Any) -> sa.ColumnElement[Any]:
        """Return the numbers of a column as one text, with commas between them."""

    def hidden(self, column: Any) -> Any:
        """Return a column in a form by which no index is chosen."""
        return column

    def by_index(self, table: sa.Table, index: str) -> str:
        """Return how a statement in words names a table of which it is to use an index."""
        return table.name

    def by_code_points(self, column: Any) -> Any:
        """Return a text whose order is that of Python, whatever the language of the database."""
        return column

    @abstractmethod
    def has(self, text: Any, search: Any, is_ascii: bool) -> sa.ColumnElement[bool]:
        """Return the condition for a text that has what is searched for.

        Args:
            text: A column.
            search: The parameter with its `pattern`.
            is_ascii: Whether there are only ASCII letters in it, whose case does not matter.
        """

    def pattern(self, search: str) -> str:
        """Return the pattern by which `has` searches for a text: of LIKE, if it is ASCII."""
        if not search.isascii():
            return self.expression(search)
        plain = "".join(f"\\{one}" if one in "\\%_" else one for one in search.lower())
        return f"%{plain}%"

    @abstractmethod
    def expression(self, search: str) -> str:
        """Return the pattern for a text that is not ASCII; see `pages.variants`."""

    # -- upgrading the tables

    def step(self, statement: str) -> str:
        """Return a statement of the schema's steps in the words of this database."""
        return statement

    def lock_upgrade(self, connection: Connection) -> None:
        """Wait until no other process upgrades the tables."""
        return

    def allow_time(self, connection: Connection) -> None:
        """Let statements of this transaction take as long as they do: it makes indexes."""
        return

    def keep_out(self, connection: Connection, table: sa.Table) -> None:
        """Let others wait that would write into *table*, until the transaction has ended."""
        return
